"""What the layers of a network multiply and move: lists of layers for idgan_fast.roofline."""

from idgan_fast.costs.layer import Layer
from idgan_fast.costs.resnet import resnet_layers
from idgan_fast.costs.stylegan2 import stylegan2_layers

__all__ = ["Layer", "resnet_layers", "stylegan2_layers"]
