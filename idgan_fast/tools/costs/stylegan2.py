"""StyleGAN2's generator (skip) and discriminator (residual) as lists of layers, from arithmetic; config-f's widths.

Sources: arXiv 1912.04958, figures 2 and 7, table 2; arXiv 2006.06676 for the widths of 256x256. A level of resolution r
has min(512, base / r) channels. Mapping network and the linear layers that make the styles are left out (they do not
grow with the image), and so are casts, random numbers and what float16 needs to bring weights into range.

The unfused form, pass by pass, is that of stylegan2-ada's public operators with `fused_modconv=False`, which its half
types take in training. I: input activations, A: output, M: what lies between two kernels, W: weight; for 3x3 layers
with equal channels

    up=1     style multiply (reads I, writes I), convolution (I, A), demodulation multiply and noise addition in one
             (A, A), bias_act (A, A)                                                                       3I + 5A
    up=2     style multiply (I, I), transposed convolution (I, M), blur (M, A), demodulation multiply and noise
             addition (A, A), bias_act (A, A); M has (2H + 1)^2 pixels for A's (2H)^2                      3I + 5A + 2M
    to-RGB   style multiply (I, I), 1x1 convolution (I, A), bias_act (A, A)                                3I + 3A
    skip     upsample the quarter Q (Q, A), add (A and A, A)                                               Q + 4A
    down=2   blur (I, M), convolution of stride 2 (M, A), bias_act (A, A)                                  I + 2M + 3A

and beside the activations: demodulation makes N weights of the size W (product: W, NW; squares: NW, NW; sum: NW), the
noise is multiplied by its strength (2 noise).
"""

from idgan_fast.models.equalized import channels_at, resolutions
from idgan_fast.ops.layer.up2_plan import Kernel, composite, two_kernels
from idgan_fast.tools.costs.layer import Layer

MAX_CHANNELS = 512
COLORS = 3


def stylegan2_layers(size: int, base: int, n: int, element: int) -> list[Layer]:
    """Forward passes of G and D at [n, 3, size, size]. base: channels at size 1; element: bytes of a number."""
    levels = resolutions(size)
    generator: list[Layer] = []
    for resolution in levels:
        c_in, c = channels_at(resolution // 2, base, MAX_CHANNELS), channels_at(resolution, base, MAX_CHANNELS)
        if resolution > 4:
            generator.append(_styled(f"b{resolution}.conv0", n, c_in, c, resolution // 2, element, up=2))
        generator.append(_styled(f"b{resolution}.conv1", n, c, c, resolution, element))
        generator.append(_to_rgb(f"b{resolution}.torgb", n, c, resolution, element))
        if resolution > 4:
            generator.append(_skip(f"b{resolution}.skip", n, resolution, element))
    c = channels_at(size, base, MAX_CHANNELS)
    discriminator = [_conv(f"b{size}.fromrgb", "from-RGB", n, COLORS, c, size=size, k=1, element=element)]
    for resolution in reversed(levels[1:]):
        c, c_out = channels_at(resolution, base, MAX_CHANNELS), channels_at(resolution // 2, base, MAX_CHANNELS)
        discriminator.append(_conv(f"b{resolution}.conv0", "conv", n, c, c, size=resolution, k=3, element=element))
        discriminator.append(_conv_down2(f"b{resolution}.conv1", n, c, c_out, resolution, element))
        discriminator.append(_shortcut(f"b{resolution}.skip", n, c, c_out, resolution, element))
    c = channels_at(4, base, MAX_CHANNELS)
    discriminator += [
        _minibatch_std("b4.mbstd", n, c, element),
        _conv("b4.conv", "conv", n, c + 1, c, size=4, k=3, element=element),
        _conv("b4.fc", "linear", n, c * 4 * 4, c, size=1, k=1, element=element),
        _conv("b4.out", "linear", n, c, 1, size=1, k=1, element=element, act=False),
    ]
    return generator + discriminator


def _kernels(element: int, *rows: tuple[str, int, int]) -> tuple[Kernel, ...]:
    """Kernels from their names, flops and numbers moved."""
    return tuple(Kernel(name, flops, element * numbers) for name, flops, numbers in rows)


def _styled(name: str, n: int, c_in: int, c_out: int, size: int, element: int, up: int = 1) -> Layer:
    """Modulated 3x3 convolution, noise, bias, leaky ReLU: size -> up * size; with up=2 transposed, then filtered."""
    pixels, weight, sums = (up * size) ** 2, 9 * c_in * c_out, c_in * c_out
    x, y, noise, between = n * c_in * size**2, n * c_out * pixels, n * pixels, n * c_out * (2 * size + 1) ** 2
    flops = 2 * weight * n * size**2
    moved = x + weight + n * c_in + noise + c_out + y
    convolution = [("convolution", flops, x + weight + y)]
    if up == 2:
        convolution = [("transposed convolution", flops, x + weight + between), ("blur", 0, between + y)]
    theirs = _kernels(
        element,
        ("modulated weights", 0, weight + n * c_in + n * weight),
        ("squares", 0, 2 * n * weight),
        ("sums", 0, n * weight + n * c_out),
        ("noise strength", 0, 2 * noise),
        ("style multiply", 0, 2 * x + n * c_in),
        *convolution,
        ("demodulation multiply, noise addition", 0, 2 * y + n * c_out + noise),
        ("bias_act", 0, 2 * y + c_out),
    )
    ours = _kernels(element, ("weight square sum", 0, 10 * sums), ("coefficients", 0, sums + n * c_in + n * c_out))
    kind, other = "styled conv", None
    if up == 1:
        ours += _kernels(element, ("styled convolution", flops, moved + n * c_out))
    else:
        kind, other = "styled conv up=2", (*ours, *composite(n, c_in, c_out, size, size, element))
        ours += two_kernels(n, c_in, c_out, size, size, element)
    return Layer("G", name, kind, n, c_in, c_out, size, up * size, flops, element * moved, ours, theirs, other)


def _to_rgb(name: str, n: int, c_in: int, size: int, element: int) -> Layer:
    """Modulated 1x1 convolution without demodulation, and bias."""
    x, y, weight = n * c_in * size**2, n * COLORS * size**2, c_in * COLORS
    flops = 2 * weight * n * size**2
    moved = element * (x + weight + n * c_in + COLORS + y)
    theirs = _kernels(
        element,
        ("style multiply", 0, 2 * x + n * c_in),
        ("convolution", flops, x + weight + y),
        ("bias_act", 0, 2 * y + COLORS),
    )
    ours = (Kernel("to-RGB", flops, moved),)
    return Layer("G", name, "to-RGB", n, c_in, COLORS, size, size, flops, moved, ours, theirs)


def _skip(name: str, n: int, size: int, element: int) -> Layer:
    """The image so far, upsampled, plus this level's: size / 2 -> size.

    Ours adds while it filters: reads the quarter and this level's image, writes their sum.
    """
    y = n * COLORS * size**2
    moved = element * (y // 4 + 2 * y)
    theirs = _kernels(element, ("upsample", 0, y // 4 + y), ("add", 0, 3 * y))
    ours = (Kernel("upsample and add", 0, moved),)
    return Layer("G", name, "skip up=2", n, COLORS, COLORS, size // 2, size, 0, moved, ours, theirs)


def _conv(
    name: str, kind: str, n: int, c_in: int, c_out: int, *, size: int, k: int, element: int, act: bool = True
) -> Layer:
    """Convolution by torch, then bias and leaky ReLU in one pass in place; the same in both forms.

    A linear layer is a 1x1 convolution of one pixel; without `act` its bias is part of the product.
    """
    x, y, weight = n * c_in * size**2, n * c_out * size**2, k * k * c_in * c_out
    flops = 2 * weight * n * size**2
    product = "product" if kind == "linear" else "convolution"
    kernels = _kernels(element, (product, flops, x + weight + y + (0 if act else c_out)))
    if act:
        kernels += _kernels(element, ("bias_act", 0, 2 * y + c_out))
    moved = element * (x + weight + c_out + y)
    return Layer("D", name, kind, n, c_in, c_out, size, size, flops, moved, kernels, kernels)


def _conv_down2(name: str, n: int, c_in: int, c_out: int, size: int, element: int) -> Layer:
    """Blur, 3x3 convolution of stride 2, bias, leaky ReLU: size -> size / 2; the same in both forms."""
    x, y, weight = n * c_in * size**2, n * c_out * (size // 2) ** 2, 9 * c_in * c_out
    between = n * c_in * (size + 1) ** 2
    flops = 2 * weight * n * (size // 2) ** 2
    kernels = _kernels(
        element,
        ("blur", 0, x + between),
        ("convolution", flops, between + weight + y),
        ("bias_act", 0, 2 * y + c_out),
    )
    moved = element * (x + weight + c_out + y)
    return Layer("D", name, "conv down=2", n, c_in, c_out, size, size // 2, flops, moved, kernels, kernels)


def _shortcut(name: str, n: int, c_in: int, c_out: int, size: int, element: int) -> Layer:
    """Filter and keep a quarter, 1x1 convolution, times sqrt(1/2), plus the other branch: size -> size / 2.

    Their factor is a pass of bias_act; ours is folded into the weight.
    """
    x, quarter, y = n * c_in * size**2, n * c_in * (size // 2) ** 2, n * c_out * (size // 2) ** 2
    weight = c_in * c_out
    flops = 2 * weight * n * (size // 2) ** 2
    moved = element * (x + weight + 2 * y)
    down, convolution = ("downsample", 0, x + quarter), ("convolution", flops, quarter + weight + y)
    theirs = _kernels(element, down, convolution, ("bias_act", 0, 2 * y), ("add", 0, 3 * y))
    ours = _kernels(element, down, convolution, ("add", 0, 3 * y))
    return Layer("D", name, "shortcut down=2", n, c_in, c_out, size, size // 2, flops, moved, ours, theirs)


def _minibatch_std(name: str, n: int, c: int, element: int) -> Layer:
    """Deviation over groups of samples as one more channel at 4x4: read for the statistic, then copied beside it."""
    x, y = n * c * 4 * 4, n * (c + 1) * 4 * 4
    kernels = _kernels(element, ("statistic", 0, x), ("concatenate", 0, x + y))
    return Layer("D", name, "minibatch std", n, c, c + 1, 4, 4, 0, element * (x + y), kernels, kernels)
