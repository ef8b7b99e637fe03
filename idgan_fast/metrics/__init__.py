"""Measures of disentanglement and of images."""
