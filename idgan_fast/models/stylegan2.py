"""StyleGAN2's generator with a code: G(s, c), s through a mapping network, c beside its output in the styles.

Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN (arXiv 1912.04958), sections 2 and 4,
figures 2 and 7; clamp and low precision: Karras et al. (arXiv 2006.06676), appendix. Every convolution layer is one
`ops.styled_conv2d`. Module and parameter names are those of the published stylegan2-ada weights.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from idgan_fast import ops
from idgan_fast.config.settings import StyleGAN2Config
from idgan_fast.models.equalized import (
    CLAMP,
    HALF,
    EqualizedConv2d,
    FullyConnected,
    channels_at,
    check_shape,
    is_low_precision,
    no_autocast,
    resolutions,
    run_block,
    to_accumulation,
)
from idgan_fast.models.generator import Generator, Latents
from idgan_fast.ops.modulated_conv2d import cast_to_autocast_dtype, normalize_rows

W_AVERAGE_DECAY = 0.998


class MappingNetwork(nn.Module):
    """s [N, s_dim], and c [N, c_dim] if it enters here -> w [N, w_dim]; always in float32.

    s is scaled to a root mean square of 1; c is N(0, 1) as it comes. `w_avg` is the moving average of w.
    """

    w_avg: Tensor

    def __init__(self, s_dim: int, c_dim: int, w_dim: int, layers: int, lr_multiplier: float = 0.01) -> None:
        super().__init__()
        self.layers = layers
        for i in range(layers):
            features = s_dim + c_dim if i == 0 else w_dim
            setattr(self, f"fc{i}", FullyConnected(features, w_dim, "lrelu", lr_multiplier=lr_multiplier))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, s: Tensor, c: Tensor | None = None) -> Tensor:
        with no_autocast(s):
            x = to_accumulation(s)
            x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
            x = x if c is None else torch.cat([x, to_accumulation(c)], dim=1)
            for i in range(self.layers):
                x = getattr(self, f"fc{i}")(x)
            return x


class SynthesisLayer(nn.Module):
    """A styled 3x3 convolution: x [N, I, R / up, R / up], styles [N, I], noise [N, 1, R, R] or None -> [N, O, R, R].

    The weight is N(0, 1), as demodulation cancels its scale. Without noise the fixed `noise_const` is taken.
    """

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(self, c_in: int, c_out: int, w_dim: int, *, size: int, up: int, clamp: float | None) -> None:
        super().__init__()
        self.size, self.up, self.clamp = size, up, clamp
        self.affine = FullyConnected(w_dim, c_in, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.register_buffer("noise_const", torch.randn(size, size))
        self.register_buffer("resample_filter", ops.setup_filter((1, 3, 3, 1)), persistent=False)

    def styles(self, w: Tensor) -> Tensor:
        with no_autocast(w):
            return self.affine(w)

    def forward(
        self,
        x: Tensor,
        styles: Tensor,
        noise: Tensor | None,
        *,
        gain: float = 1.0,
        next_styles: Tensor | None = None,
        carried: bool = False,
    ) -> Tensor:
        """next_styles: the next layer's, applied to the result. carried: x is multiplied by `styles` already."""
        layer = ops.chained_styled_conv2d if carried else ops.styled_conv2d
        return layer(
            x,
            self.weight,
            styles,
            self.noise_const if noise is None else noise,
            self.noise_strength,
            self.bias,
            up=self.up,
            resample_filter=self.resample_filter.float(),
            gain=math.sqrt(2) * gain,
            clamp=None if self.clamp is None else self.clamp * gain,
            next_styles=next_styles,
        )


class ToRGB(nn.Module):
    """A modulated 1x1 convolution without demodulation: x [N, I, R, R], w [N, w_dim] -> [N, channels, R, R]."""

    def __init__(self, c_in: int, channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = FullyConnected(w_dim, c_in, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(channels, c_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = 1 / math.sqrt(c_in)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with no_autocast(w):
            styles = self.affine(w) * self.scale
        options = {"demodulate": False, "act": "linear", "clamp": self.clamp}
        return ops.styled_conv2d(x, self.weight, styles, bias=self.bias, **options)  # type: ignore[arg-type]


class SynthesisBlock(nn.Module):
    """The layers of one resolution R: two convolutions (one at 4x4) and, where there is an image, to-RGB.

    residual: features of all resolutions add up, and the last block alone makes an image; else images add up.
    Under autocast a block that is not `low_precision` computes in float32.
    """

    resample_filter: Tensor

    def __init__(
        self, c_in: int, c_out: int, size: int, w_dim: int, *, channels: int, residual: bool, last: bool, low: bool
    ) -> None:
        super().__init__()
        self.size, self.low_precision, self.residual = size, low, residual and size > 4
        clamp = CLAMP if low else None
        if size == 4:
            self.const = nn.Parameter(torch.randn(c_out, 4, 4))
        else:
            self.conv0 = SynthesisLayer(c_in, c_out, w_dim, size=size, up=2, clamp=clamp)
        self.conv1 = SynthesisLayer(c_out, c_out, w_dim, size=size, up=1, clamp=clamp)
        self.torgb = ToRGB(c_out, channels, w_dim, clamp) if last or not residual else None
        if self.residual:
            self.skip = EqualizedConv2d(c_in, c_out, 1, bias=False, up=2, gain=HALF)
        self.register_buffer("resample_filter", ops.setup_filter((1, 3, 3, 1)), persistent=False)

    @property
    def convolutions(self) -> int:
        return 1 if self.size == 4 else 2

    def forward(
        self, x: Tensor | None, image: Tensor | None, w: Sequence[Tensor], noise: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """x [N, I, R/2, R/2] and image [N, channels, R/2, R/2], None at 4x4, -> [N, O, R, R], [N, channels, R, R].

        w: a style input [N, w_dim] for each convolution and one for to-RGB. noise: one for each convolution, or None.
        """
        with no_autocast(w[0], when=not self.low_precision):
            if x is None:
                x = self.const.expand(len(w[0]), -1, -1, -1).contiguous(memory_format=torch.channels_last)
                x = self.conv1(x, self.conv1.styles(w[0]), noise[0])
            else:
                x = x if self.low_precision else to_accumulation(x)
                shortcut = self.skip(x) if self.residual else None
                # Powers of two, which demodulation cancels, bring the styles into the range of float16 activations.
                styles, _ = normalize_rows(self.conv1.styles(w[1]), cast_to_autocast_dtype(x).dtype)
                x = self.conv0(x, self.conv0.styles(w[0]), noise[0], next_styles=styles)
                x = self.conv1(x, styles, noise[1], gain=HALF if self.residual else 1.0, carried=True)
                x = x if shortcut is None else shortcut + x
            rgb = None if self.torgb is None else to_accumulation(self.torgb(x, w[-1]))
        if image is not None and rgb is not None:
            rgb = rgb + ops.upsample2d(image, self.resample_filter.float())
        return x, rgb


class SynthesisNetwork(nn.Module):
    """w [N, num_ws, w_dim], c [N, c_dim] and noise -> images [N, channels, size, size], not limited to [-1, 1].

    Consecutive blocks share an entry of w: that of a block's to-RGB is that of the next one's first convolution.
    """

    def __init__(self, size: int, c_dim: int, channels: int, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config, self.recompute, self.levels = config, config.recompute, resolutions(size)
        c_in = 0
        for resolution in self.levels:
            c_out = channels_at(resolution, config.channel_base, config.channel_max)
            block = SynthesisBlock(
                c_in,
                c_out,
                resolution,
                config.w_dim + (c_dim if self.takes_code(resolution) else 0),
                channels=channels,
                residual=config.architecture == "residual",
                last=resolution == size,
                low=is_low_precision(resolution, size, config.low_precision_levels),
            )
            setattr(self, f"b{resolution}", block)
            c_in = c_out
        self.num_ws = 2 * len(self.levels)
        self.noise_numel = sum(block.convolutions * block.size**2 for block in self.blocks())

    def takes_code(self, resolution: int) -> bool:
        return self.config.code_from <= resolution <= self.config.code_to

    def blocks(self) -> Iterator[SynthesisBlock]:
        for resolution in self.levels:
            yield getattr(self, f"b{resolution}")

    def forward(self, w: Tensor, c: Tensor, noise: Tensor | None = None) -> Tensor:
        """noise: N(0, 1) [N, noise_numel], or None for each layer's fixed one. Raises ValueError for wrong shapes."""
        n = w.shape[0]
        check_shape("StyleGAN2Generator", "w", w, n, self.num_ws, "w_dim")
        if noise is not None:
            check_shape("StyleGAN2Generator", "noise", noise, n, self.noise_numel)
        x = image = None
        entry = taken = 0
        for block in self.blocks():
            styles = list(w[:, entry : entry + block.convolutions + 1].unbind(1))
            if self.takes_code(block.size):
                styles = [torch.cat([style, c.to(style.dtype)], dim=1) for style in styles]
            noises: list[Tensor | None] = []
            for _ in range(block.convolutions):
                pixels = block.size**2
                part = None if noise is None else noise[:, taken : taken + pixels]
                noises.append(None if part is None else part.reshape(-1, 1, block.size, block.size))
                taken += pixels
            x, image = run_block(block, self.recompute, x, image, styles, noises)
            entry += block.convolutions
        assert image is not None
        return image


class StyleGAN2Generator(Generator):
    """G(s, c): s [N, s_dim] and c [N, c_dim] -> images [N, channels, size, size], around [-1, 1].

    config: widths and forms, which its fields explain. With code "style" c joins w for the styles of the resolutions
    code_from to code_to, with "mapping" it joins s. Raises ValueError, one line on the argument.
    """

    def __init__(
        self,
        size: int = 256,
        s_dim: int = 512,
        c_dim: int = 20,
        channels: int = 3,
        config: StyleGAN2Config = StyleGAN2Config(),  # noqa: B008 (it is frozen)
    ) -> None:
        super().__init__()
        if config.architecture not in ("skip", "residual"):
            raise ValueError(f"StyleGAN2Generator: architecture must be skip or residual, got {config.architecture!r}")
        if config.code not in ("style", "mapping"):
            raise ValueError(f"StyleGAN2Generator: code must be style or mapping, got {config.code!r}")
        self.s_dim, self.c_dim, self.code = s_dim, c_dim, config.code
        in_styles = c_dim if config.code == "style" else 0
        self.mapping = MappingNetwork(s_dim, c_dim - in_styles, config.w_dim, config.mapping_layers)
        self.synthesis = SynthesisNetwork(size, in_styles, channels, config)
        self.num_ws, self.noise_numel = self.synthesis.num_ws, self.synthesis.noise_numel

    def map(self, s: Tensor, c: Tensor) -> Tensor:
        """w [N, w_dim] of s [N, s_dim] and c [N, c_dim]."""
        return self.mapping(s, c if self.code == "mapping" else None)

    def broadcast_w(self, w: Tensor) -> Tensor:
        """w [N, w_dim] -> [N, num_ws, w_dim]: the same in every layer."""
        return w[:, None].expand(-1, self.num_ws, -1)

    def styles(self, latents: Latents, c: Tensor) -> Tensor:
        """w [N, num_ws, w_dim]; style mixing (arXiv 1812.04948, section 3.1): of `other` from entry first [N] on."""
        s, _, other, first = latents
        if other is None or first is None:
            return self.broadcast_w(self.map(s, c))
        entries = torch.arange(self.num_ws, device=s.device)[None, :, None]
        w, w_other = self.map(torch.cat([s, other]), torch.cat([c, c])).chunk(2)
        return torch.where(entries < first[:, None, None], w[:, None], w_other[:, None])

    def synthesize(self, styles: Tensor, c: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images of w [N, num_ws, w_dim], c [N, c_dim] and noise as in `SynthesisNetwork`."""
        return self.synthesis(styles, c if self.code == "style" else c[:, :0], noise)

    @torch.no_grad()
    def update_w_average(self, styles: Tensor) -> None:
        self.mapping.w_avg.lerp_(styles[:, 0].detach().mean(0), 1 - W_AVERAGE_DECAY)

    def forward(self, s: Tensor, c: Tensor, noise: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """truncation: the share of w's distance to its average that stays (arXiv 1812.04948, appendix B)."""
        w = self.map(s, c)
        if truncation != 1:
            w = self.mapping.w_avg.lerp(w, truncation)
        return self.synthesize(self.broadcast_w(w), c, noise)
