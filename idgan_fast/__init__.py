"""Fast ID-GAN: high-resolution images from a disentangled code."""

__version__ = "0.1.0"
