"""How codes relate to true factors. Arrays: factors int [N, F], codes float [N, d] (encoder means)."""

import numpy as np


def correlation(factors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """|Pearson correlation| of each factor with each code dimension: [F, d]; 0 where either is constant."""

    def standardize(columns: np.ndarray) -> np.ndarray:
        centered = columns.astype(np.float64) - columns.mean(0)
        norm = np.linalg.norm(centered, axis=0)
        return np.divide(centered, norm, out=np.zeros_like(centered), where=norm > 1e-12)

    return abs(standardize(factors).T @ standardize(codes))


def entropy(labels: np.ndarray) -> float:
    """The entropy of a column of small integers, in nats."""
    p = np.bincount(labels) / len(labels)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def mutual_information(factors: np.ndarray, codes: np.ndarray, bins: int = 20) -> np.ndarray:
    """The mutual information of each factor with each code dimension, cut into equal-width bins, in nats: [F, d]."""
    result = np.empty((factors.shape[1], codes.shape[1]))
    for j in range(codes.shape[1]):
        edges = np.histogram_bin_edges(codes[:, j], bins)
        binned = np.digitize(codes[:, j], edges[1:-1])
        for i in range(factors.shape[1]):
            joint = factors[:, i].astype(np.int64) * bins + binned
            result[i, j] = entropy(factors[:, i]) + entropy(binned) - entropy(joint)
    return result


def mig(factors: np.ndarray, codes: np.ndarray, bins: int = 20) -> float:
    """Mutual information gap (Chen et al., arXiv 1802.04942, eq. 6): mean over factors of (top1 - top2) / H.

    Constant factors are left out, as their entropy is 0; codes need two dimensions or more.
    """
    information = np.sort(mutual_information(factors, codes, bins), axis=1)
    entropies = np.array([entropy(column) for column in factors.T])
    varied = entropies > 0
    gaps = (information[:, -1] - information[:, -2])[varied] / entropies[varied]
    return float(gaps.mean())


def r2_per_dim(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """1 - squared error / variance of the target, per column: [d]."""
    error = np.square(target - prediction).mean(0)
    return 1 - error / np.maximum(target.var(0), 1e-12)
