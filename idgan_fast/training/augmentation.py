"""Adaptive discriminator augmentation: random changes of every image D sees, each with a probability that adapts.

Source: Karras et al., Training Generative Adversarial Networks with Limited Data (arXiv 2006.06676), section 3 and
appendix B, pipeline "bgc", written from the paper. An image is changed in this order:

1. pixel blitting: x-flip, quarter turns, translation by whole pixels;
2. general geometry: isotropic scale, rotation, anisotropic scale, rotation again, fractional translation;
3. color: brightness, contrast, luma flip, hue rotation, saturation (of one channel: the first three).

1 and 2 are one affine map of the plane, about the middle of the image, which is continued beyond its edges by its
mirror images. Where 1 alone acts, pixels are copied; else they are resampled at twice the resolution, between the
wavelet filter sym6 and its transpose. All is affine in the pixels and pure: random numbers come in as an argument.

Departures from the paper: R1 is taken at the augmented images (what D sees), as grid_sample has no second
derivative. sym6 is not quite symmetric, so positions are counted from its centroid, not from its middle; without
that, a turned image moves by up to 0.4 pixels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast import ops

# fmt: off
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # Daubechies' least asymmetric wavelet with six vanishing moments: sum sqrt(2), orthonormal to its even shifts
# fmt: on
CENTROID = sum(n * tap for n, tap in enumerate(SYM6)) / sum(SYM6)
MARGIN = 3  # pixels beyond the edge that the twelve taps reach from inside of it
CROP = 5  # what upsample2d and downsample2d pad by themselves

MAX_SHIFT = 0.125  # of the side: integer translation, uniform
STD_SCALE = 0.2  # of log2, both scales
STD_MOVE = 0.125  # of the side: fractional translation
STD_BRIGHTNESS = 0.2
STD_CONTRAST = 0.5  # of log2
STD_SATURATION = 1.0  # of log2


# The columns of `numbers`. A transformation acts on an image where its gate, use_*, is below its probability.
COLUMNS = (
    *("use_flip", "flip", "use_turn", "turn", "use_shift", "shift_x", "shift_y"),
    *("use_scale", "scale", "use_rotate", "rotate", "use_stretch", "stretch", "use_rotate_again", "rotate_again"),
    *("use_move", "move_x", "move_y", "use_brightness", "brightness", "use_contrast", "contrast"),
    *("use_luma_flip", "luma_flip", "use_hue", "hue", "use_saturation", "saturation"),
)
NUMBERS = len(COLUMNS)  # how many random numbers one image takes


def random_numbers(n: int, rng: torch.Generator, device: torch.device | str) -> Tensor:
    """The random numbers of n images: [n, NUMBERS], float32, uniform in [0, 1); rng lives on `device`."""
    return torch.rand(n, NUMBERS, generator=rng, device=device)


def augment(x: Tensor, numbers: Tensor, p: Tensor) -> Tensor:
    """Images x [N, C, S, S] changed at random, each transformation acting on an image with probability p.

    x: C = 1 or 3, S >= 3, in [-1, 1]; half types are computed in float32. numbers: [N, NUMBERS], from `random_numbers`.
    p: scalar tensor in [0, 1]. Returns x's shape and type; values may leave [-1, 1]. An image that no transformation
    acts on is returned as it is. Affine in x, with one derivative by it. Raises ValueError: one line on the argument.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.shape[2] != x.shape[3] or x.shape[2] < MARGIN:
        raise ValueError(f"augment: x must be [N, 1 or 3, S, S] with S >= {MARGIN}, got {tuple(x.shape)}")
    if numbers.shape != (len(x), NUMBERS):
        raise ValueError(f"augment: numbers must be {[len(x), NUMBERS]}, got {tuple(numbers.shape)}")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    y, numbers, p = x.to(dtype), numbers.detach().to(dtype), p.detach().to(dtype)
    inverse, copied = _geometry(numbers, p, x.shape[-1])
    y = torch.where(copied[:, None, None, None], _copy(y, inverse), _resample(y, inverse))
    return _color(y, numbers, p).to(x.dtype)


class AdaptiveProbability:
    """The probability p that keeps r_t = E[sign(D(real))] near a target (section 3.2). Never waits for the device.

    p: scalar tensor in [0, 1]; it changes in place, so that a compiled graph may hold it.
    """

    def __init__(self, p: float = 0.0, device: torch.device | str = "cpu") -> None:
        self.p = torch.full((), float(p), device=device)
        self.signs = torch.zeros((), device=device)  # sum of the signs since the last `adjust`
        self.count = torch.zeros((), device=device)

    @torch.no_grad()
    def observe(self, logits: Tensor) -> None:
        """Count D's logits of real images, of any shape."""
        self.signs.add_(logits.sign().sum(dtype=torch.float32))
        self.count.add_(logits.numel())

    @torch.no_grad()
    def adjust(self, images: int, target: float = 0.6, speed_images: int = 500_000) -> None:
        """p <- clamp(p + sign(r_t - target) images / speed_images, 0, 1), r_t over what came since the last call.

        images: real images shown to D since the last call. speed_images: how many take p from 0 to 1.
        With nothing observed, p stays.
        """
        direction = (self.signs - target * self.count).sign()  # that of r_t - target; 0 if nothing was observed
        self.p.add_(direction * (images / speed_images)).clamp_(0, 1)
        self.signs.zero_()
        self.count.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of p and of the sums, all scalars."""
        return {name: value.clone() for name, value in vars(self).items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy `state_dict`'s tensors in, in place. Raises KeyError where one is missing."""
        for name, value in vars(self).items():
            value.copy_(state[name])


def _where(gate: Tensor, p: Tensor, value: Tensor, neutral: float) -> Tensor:
    """`value` where the transformation acts, else what leaves an image as it is."""
    return torch.where(gate < p, value, neutral)


def _normal(uniform: Tensor) -> Tensor:
    """U[0, 1) -> N(0, 1), within 5.2 standard deviations."""
    return math.sqrt(2) * (2 * uniform - 1).clamp(-1 + 2**-22, 1 - 2**-22).erfinv()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrices [N, 3, 3]; by element, as a matmul may round to TF32."""
    return (a[:, :, :, None] * b[:, None, :, :]).sum(2)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """[[a, b, x], [c, d, y], [0, 0, 1]] from entries [N]: [N, 3, 3]."""
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack((a, b, x, c, d, y, zero, zero, one), 1).unflatten(1, (3, 3))


def _scale(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _matrix(x, zero, zero, y, zero, zero)


def _translate(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix(one, zero, zero, one, x, y)


def _rotate(angle: Tensor) -> Tensor:
    """A counterclockwise turn as one sees it, in radians: x goes right and y down."""
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _matrix(cos, sin, -sin, cos, zero, zero)


def _geometry(numbers: Tensor, p: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """([N, 3, 3] from a place in the result to its place in x, in pixels from the middle; [N] whether it copies).

    With the transformations T1, T2, ... in the module's order, the inverse of ... T2 T1 is T1^-1 T2^-1 ...
    """
    u = dict(zip(COLUMNS, numbers.unbind(1), strict=True))
    flip = _where(u["use_flip"], p, 1 - 2 * (2 * u["flip"]).floor(), 1)
    turn = _where(u["use_turn"], p, (4 * u["turn"]).floor() * (math.pi / 2), 0)
    shift_x = _where(u["use_shift"], p, ((2 * u["shift_x"] - 1) * (MAX_SHIFT * side)).round(), 0)
    shift_y = _where(u["use_shift"], p, ((2 * u["shift_y"] - 1) * (MAX_SHIFT * side)).round(), 0)
    scale = _where(u["use_scale"], p, (STD_SCALE * _normal(u["scale"])).exp2(), 1)
    stretch = _where(u["use_stretch"], p, (STD_SCALE * _normal(u["stretch"])).exp2(), 1)
    p_rotate = 1 - (1 - p).sqrt()  # that of either, so that p is that of any
    before = _where(u["use_rotate"], p_rotate, (2 * u["rotate"] - 1) * math.pi, 0)
    after = _where(u["use_rotate_again"], p_rotate, (2 * u["rotate_again"] - 1) * math.pi, 0)
    move_x = _where(u["use_move"], p, _normal(u["move_x"]) * (STD_MOVE * side), 0)
    move_y = _where(u["use_move"], p, _normal(u["move_y"]) * (STD_MOVE * side), 0)

    inverse = _scale(flip, torch.ones_like(flip))
    for step in (
        _rotate(-turn),
        _translate(-shift_x, -shift_y),
        _scale(1 / scale, 1 / scale),
        _rotate(-before),
        _scale(1 / stretch, stretch),
        _rotate(-after),
        _translate(-move_x, -move_y),
    ):
        inverse = _product(inverse, step)
    copied = (scale == 1) & (stretch == 1) & (before == 0) & (after == 0) & (move_x == 0) & (move_y == 0)
    return inverse, copied


def _places(inverse: Tensor, places: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where in x the pixels of the result come from: x and y [N, K, K], 0 at the first pixel's middle.

    places: [K], along either axis of the result, in the same unit. Mirrored at the edges, -1/2 and side - 1/2.
    """
    middle = (side - 1) / 2
    across, down = (places - middle)[None, None, :], (places - middle)[None, :, None]
    positions = []
    for row in inverse[:, :2].unbind(1):
        a, b, c = row[:, :, None, None].unbind(1)
        folded = (a * across + b * down + (c + side / 2)).remainder(2 * side)
        positions.append(side - (folded - side).abs() - 0.5)
    return positions[0], positions[1]


def _copy(x: Tensor, inverse: Tensor) -> Tensor:
    """Every pixel of the result from the nearest in x."""
    n, c, side, _ = x.shape
    across, down = _places(inverse, torch.arange(side, device=x.device, dtype=x.dtype), side)
    index = (down.round() * side + across.round()).long().clamp(0, side * side - 1)
    return x.flatten(2).gather(2, index.reshape(n, 1, -1).expand(-1, c, -1)).reshape(x.shape)


def _resample(x: Tensor, inverse: Tensor) -> Tensor:
    """Twice the resolution by sym6, bilinear samples there, and back by the transpose of sym6.

    Pixel k lies at 2 k + CENTROID of the upsampled image, before its cropping; so it does on the way back.
    """
    side = x.shape[-1]
    taps = ops.setup_filter(torch.stack([torch.full((), tap, device=x.device) for tap in SYM6]), x.device)
    x = torch.cat((x[..., :MARGIN].flip(3), x, x[..., -MARGIN:].flip(3)), 3)
    x = torch.cat((x[:, :, :MARGIN].flip(2), x, x[:, :, -MARGIN:].flip(2)), 2)
    x = ops.upsample2d(x, taps, padding=-CROP)  # 2 side + 2: all that the samples below touch
    size = 2 * side + 2
    first = len(SYM6) // 2 - 1 + CROP - 2 * MARGIN  # how many pixels of the upsampled image are cropped
    places = (torch.arange(2 * side + 2 * CROP, device=x.device, dtype=x.dtype) - CENTROID) / 2
    across, down = _places(inverse, places, side)
    grid = torch.stack((across, down), 3) * 2 + (CENTROID - first)
    grid = (grid * 2 + 1) / size - 1  # grid_sample's unit
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return ops.downsample2d(x, taps, padding=-CROP, flip_filter=True)


def _color(x: Tensor, numbers: Tensor, p: Tensor) -> Tensor:
    """Brightness, contrast and, of the three channels as a vector, a mirror, a turn and a scale about (1, 1, 1).

    With the mean m of the channels, d = x - m and v = (1, 1, 1) / sqrt(3), all five together are
    contrast (+-(m + brightness) + saturation (cos(hue) d + sin(hue) v cross d)).
    """
    u = dict(zip(COLUMNS, numbers[:, :, None, None, None].unbind(1), strict=True))
    brightness = _where(u["use_brightness"], p, STD_BRIGHTNESS * _normal(u["brightness"]), 0)
    contrast = _where(u["use_contrast"], p, (STD_CONTRAST * _normal(u["contrast"])).exp2(), 1)
    sign = _where(u["use_luma_flip"], p, 1 - 2 * (2 * u["luma_flip"]).floor(), 1)
    luma = contrast * sign
    if x.shape[1] == 1:
        return luma * x + luma * brightness
    hue = _where(u["use_hue"], p, (2 * u["hue"] - 1) * math.pi, 0)
    saturation = _where(u["use_saturation"], p, (STD_SATURATION * _normal(u["saturation"])).exp2(), 1)
    along, across = contrast * saturation * hue.cos(), contrast * saturation * hue.sin() / math.sqrt(3)
    mean = (luma - along) * x.mean(1, keepdim=True) + luma * brightness
    return along * x + across * (x.roll(1, 1) - x.roll(-1, 1)) + mean
