"""Labels beside images: those of a dataset.json for the images that it means, and those in the members of shards."""

import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Label = int | list[float]
SAMPLED = 16  # listed names that are looked for in other folders


def listed_labels(content: bytes) -> list[tuple[str, Label]]:
    """Names and labels of a dataset.json as StyleGAN2-ADA's tool writes it; empty where it has no labels.

    Raises ValueError or TypeError where it is something else.
    """
    listing = json.loads(content)
    if not isinstance(listing, dict):
        raise TypeError(f"it holds a {type(listing).__name__}")
    pairs = listing.get("labels")
    return [] if pairs is None else [(_name(name), _label(label)) for name, label in pairs]


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a picture's name must be a string, got {name!r}")
    return name


def _label(label: Any) -> Label:
    numbers = label if isinstance(label, list) else [label]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers) or isinstance(label, float):
        raise TypeError(f"a label must be an integer or a list of numbers, got {label!r}")
    return label


def class_label(content: bytes) -> Label:
    """The label in a .cls of a WebDataset. Raises ValueError where it is no integer."""
    return int(content.decode())


def vector_label(content: bytes) -> Label | None:
    """The label in a .json of a shard; None where it holds something else, such as a caption."""
    try:
        return _label(json.loads(content))
    except (TypeError, ValueError, RecursionError):
        return None


def sample_key(name: str) -> str:
    """What the members of a sample in a WebDataset have in common: the path up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".", 1)[0]


def match(pairs: Iterable[tuple[str, Label]], names: Sequence[str]) -> tuple[dict[str, Label], str]:
    """{image's name: label} for the images that a dataset.json means, and what is to be said of it, if anything.

    A name may be written otherwise (backslashes, ./), have another suffix, or all may have one folder more or less in
    front of them. Where a name could mean several images, or an image has several labels, none of them counts.
    """
    listed: dict[str, Label] = {}
    several = {name for name, label in pairs if listed.setdefault(name, label) != label}
    listed = {name: label for name, label in listed.items() if name not in several}
    found: dict[str, str] = {}  # listed name: image's name
    for key in (lambda name: name, _plain, _stem):
        rest = _without(listed, found), _without(names, found.values())
        found |= _pairs({entry: key(entry) for entry in rest[0]}, {name: key(name) for name in rest[1]})
    if listed and not found:
        found = _in_other_folders(listed, names)
    labels = {name: listed[entry] for entry, name in found.items()}
    text = f"{len(several):,} names have several labels, such as {min(several)}" if several else ""
    return labels, "; ".join(filter(None, (_said(listed, names, found), text)))


def _plain(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/")).lstrip("/")


def _stem(name: str) -> str:
    return posixpath.splitext(_plain(name))[0]


def _without(names: Iterable[str], those: Iterable[str]) -> list[str]:
    those = set(those)
    return [name for name in names if name not in those]


def _pairs(listed: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """{listed name: image's name} where one of each has the same key. listed, names: the key of each."""
    by_key, listed_by_key = _by_key(names), _by_key(listed)
    return {
        entries[0]: by_key[key][0]
        for key, entries in listed_by_key.items()
        if len(entries) == len(by_key.get(key, ())) == 1
    }


def _by_key(keys: Mapping[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, key in keys.items():
        groups.setdefault(key, []).append(name)
    return groups


def _in_other_folders(listed: Mapping[str, Label], names: Sequence[str]) -> dict[str, str]:
    """The pairs where all names of one side have the same folders in front of them that the other side's lack.

    The folders that fit most of a sample of the listed names are taken; where two fit equally well, none.
    """
    entries = list(listed)
    sample = entries[:: max(len(entries) // SAMPLED, 1)][:SAMPLED]
    for key in (_plain, _stem):
        keys = list(map(key, names))
        fits: Counter[tuple[str, str]] = Counter()  # folders in front of an image's name, and of a listed one
        for entry in map(key, sample):
            fits.update((name[: -len(entry)], "") for name in keys if name.endswith(f"/{entry}"))
            fits.update(("", entry[: -len(name)]) for name in keys if entry.endswith(f"/{name}"))
        (front, count), (_, next_count) = (*fits.most_common(2), (("", ""), 0), (("", ""), 0))[:2]
        if count > next_count:
            return _pairs({e: front[0] + key(e) for e in listed}, {n: front[1] + key(n) for n in names})
        if count:
            return {}
    return {}


def _said(listed: Mapping[str, Label], names: Sequence[str], found: Mapping[str, str]) -> str:
    other = next(((entry, name) for entry, name in found.items() if entry != name), None)
    rest = next((entry for entry in listed if entry not in found), None)
    texts = []
    if other is not None:
        count = sum(entry != name for entry, name in found.items())
        texts.append(f"{count:,} of {len(listed):,} names are written otherwise, such as {other[0]} for {other[1]}")
    if rest is not None:
        unlabeled = next(iter(_without(names, found.values())), None)
        example = "" if unlabeled is None else f", and no name is that of the picture {unlabeled}"
        count = len(listed) - len(found)
        texts.append(f"{count:,} of {len(listed):,} names are no picture's, or of several, such as {rest}{example}")
    return "; ".join(texts)
