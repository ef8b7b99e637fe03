"""`idgan_fast.checkpoint.load_public`: networks from the public ID-GAN code's checkpoints."""

from idgan_fast.models.public_idgan import load_public

__all__ = ["load_public"]
