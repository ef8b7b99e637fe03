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

from idgan_fast.ops.layer.up2_plan import Kernel, composite, two_kernels
from idgan_fast.tools.costs.layer import Layer

MAX_CHANNELS = 512
COLOURS = 3


def channels(size: int, base: int) -> int:
    return min(MAX_CHANNELS, base // size)


def stylegan2_layers(size: int, base: int, n: int, element: int) -> list[Layer]:
    """Forward passes of G and D at [n, 3, size, size]. base: channels at size 1; element: bytes of a number."""
    levels = [4 << i for i in range((size // 4).bit_length())]
    generator: list[Layer] = []
    for at in levels:
        c_in, c = channels(at // 2, base), channels(at, base)
        if at > 4:
            generator.append(_styled_up2(f"b{at}.conv0", n, c_in, c, at // 2, element))
        generator.append(_styled(f"b{at}.conv1", n, c, c, at, element))
        generator.append(_to_rgb(f"b{at}.torgb", n, c, at, element))
        if at > 4:
            generator.append(_skip(f"b{at}.skip", n, at, element))
    c = channels(size, base)
    discriminator = [_conv(f"b{size}.fromrgb", "from-RGB", n, COLOURS, c, size, 1, element)]
    for at in reversed(levels[1:]):
        c, c_out = channels(at, base), channels(at // 2, base)
        discriminator.append(_conv(f"b{at}.conv0", "conv", n, c, c, at, 3, element))
        discriminator.append(_conv_down2(f"b{at}.conv1", n, c, c_out, at, element))
        discriminator.append(_shortcut(f"b{at}.skip", n, c, c_out, at, element))
    c = channels(4, base)
    discriminator += [
        _minibatch_std("b4.mbstd", n, c, element),
        _conv("b4.conv", "conv", n, c + 1, c, 4, 3, element),
        _conv("b4.fc", "linear", n, c * 4 * 4, c, 1, 1, element),
        _conv("b4.out", "linear", n, c, 1, 1, 1, element, act=False),
    ]
    return generator + discriminator


def _coefficients(n: int, c_in: int, c_out: int, element: int) -> tuple[Kernel, ...]:
    """Our demodulation: sums of squares of the weight's kernels, then rsqrt(styles^2 @ sums + eps)."""
    sums = c_in * c_out
    return (
        Kernel("weight square sum", 0, element * (9 * sums + sums)),
        Kernel("coefficients", 0, element * (sums + n * c_in + n * c_out)),
    )


def _their_modulation(n: int, c_in: int, c_out: int, size_in: int, noise: int, element: int) -> tuple[Kernel, ...]:
    """What comes before their convolution: coefficients from n modulated weights, scaled noise, scaled input."""
    x, weight = n * c_in * size_in**2, 9 * c_in * c_out
    return (
        Kernel("modulated weights", 0, element * (weight + n * c_in + n * weight)),
        Kernel("squares", 0, element * 2 * n * weight),
        Kernel("sums", 0, element * (n * weight + n * c_out)),
        Kernel("noise strength", 0, element * 2 * noise),
        Kernel("style multiply", 0, element * (2 * x + n * c_in)),
    )


def _their_ending(n: int, c_out: int, y: int, noise: int, element: int) -> tuple[Kernel, ...]:
    return (
        Kernel("demodulation multiply, noise addition", 0, element * (2 * y + n * c_out + noise)),
        Kernel("bias_act", 0, element * (2 * y + c_out)),
    )


def _styled(name: str, n: int, c_in: int, c_out: int, size: int, element: int) -> Layer:
    """Modulated 3x3 convolution, noise, bias, leaky ReLU."""
    x, y, noise, weight = n * c_in * size**2, n * c_out * size**2, n * size**2, 9 * c_in * c_out
    flops = 2 * weight * n * size**2
    moved = element * (x + weight + n * c_in + noise + c_out + y)
    one = Kernel("styled convolution", flops, moved + element * n * c_out)
    theirs = (
        *_their_modulation(n, c_in, c_out, size, noise, element),
        Kernel("convolution", flops, element * (x + weight + y)),
        *_their_ending(n, c_out, y, noise, element),
    )
    ours = (*_coefficients(n, c_in, c_out, element), one)
    return Layer("G", name, "styled conv", n, c_in, c_out, size, size, flops, moved, ours, theirs)


def _styled_up2(name: str, n: int, c_in: int, c_out: int, size: int, element: int) -> Layer:
    """The same after a transposed convolution of stride 2 and the FIR filter: size -> 2 size."""
    x, y, noise = n * c_in * size**2, n * c_out * (2 * size) ** 2, n * (2 * size) ** 2
    weight, between = 9 * c_in * c_out, n * c_out * (2 * size + 1) ** 2
    flops = 2 * weight * n * size**2
    moved = element * (x + weight + n * c_in + noise + c_out + y)
    theirs = (
        *_their_modulation(n, c_in, c_out, size, noise, element),
        Kernel("transposed convolution", flops, element * (x + weight + between)),
        Kernel("blur", 0, element * (between + y)),
        *_their_ending(n, c_out, y, noise, element),
    )
    before = _coefficients(n, c_in, c_out, element)
    ours = (*before, *two_kernels(n, c_in, c_out, size, size, element))
    other = (*before, *composite(n, c_in, c_out, size, size, element))
    kind = "styled conv up=2"
    return Layer("G", name, kind, n, c_in, c_out, size, 2 * size, flops, moved, ours, theirs, other)


def _to_rgb(name: str, n: int, c_in: int, size: int, element: int) -> Layer:
    """Modulated 1x1 convolution without demodulation, and bias."""
    x, y, weight = n * c_in * size**2, n * COLOURS * size**2, c_in * COLOURS
    flops = 2 * weight * n * size**2
    moved = element * (x + weight + n * c_in + COLOURS + y)
    theirs = (
        Kernel("style multiply", 0, element * (2 * x + n * c_in)),
        Kernel("convolution", flops, element * (x + weight + y)),
        Kernel("bias_act", 0, element * (2 * y + COLOURS)),
    )
    ours = (Kernel("to-RGB", flops, moved),)
    return Layer("G", name, "to-RGB", n, c_in, COLOURS, size, size, flops, moved, ours, theirs)


def _skip(name: str, n: int, size: int, element: int) -> Layer:
    """The image so far, upsampled, plus this level's: size / 2 -> size.

    Ours adds while it filters: reads the quarter and this level's image, writes their sum.
    """
    y = n * COLOURS * size**2
    moved = element * (y // 4 + 2 * y)
    theirs = (Kernel("upsample", 0, element * (y // 4 + y)), Kernel("add", 0, element * 3 * y))
    ours = (Kernel("upsample and add", 0, moved),)
    return Layer("G", name, "skip up=2", n, COLOURS, COLOURS, size // 2, size, 0, moved, ours, theirs)


def _conv(
    name: str, kind: str, n: int, c_in: int, c_out: int, size: int, k: int, element: int, act: bool = True
) -> Layer:
    """Convolution by torch, then bias and leaky ReLU in one pass in place; the same in both forms.

    A linear layer is a 1x1 convolution of one pixel; without `act` its bias is part of the product.
    """
    x, y, weight = n * c_in * size**2, n * c_out * size**2, k * k * c_in * c_out
    flops = 2 * weight * n * size**2
    product = "product" if kind == "linear" else "convolution"
    kernels: tuple[Kernel, ...] = (Kernel(product, flops, element * (x + weight + y + (0 if act else c_out))),)
    if act:
        kernels += (Kernel("bias_act", 0, element * (2 * y + c_out)),)
    moved = element * (x + weight + c_out + y)
    return Layer("D", name, kind, n, c_in, c_out, size, size, flops, moved, kernels, kernels)


def _conv_down2(name: str, n: int, c_in: int, c_out: int, size: int, element: int) -> Layer:
    """Blur, 3x3 convolution of stride 2, bias, leaky ReLU: size -> size / 2; the same in both forms."""
    x, y, weight = n * c_in * size**2, n * c_out * (size // 2) ** 2, 9 * c_in * c_out
    between = n * c_in * (size + 1) ** 2
    flops = 2 * weight * n * (size // 2) ** 2
    kernels = (
        Kernel("blur", 0, element * (x + between)),
        Kernel("convolution", flops, element * (between + weight + y)),
        Kernel("bias_act", 0, element * (2 * y + c_out)),
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
    down = Kernel("downsample", 0, element * (x + quarter))
    convolution = Kernel("convolution", flops, element * (quarter + weight + y))
    add = Kernel("add", 0, element * 3 * y)
    theirs = (down, convolution, Kernel("bias_act", 0, element * 2 * y), add)
    moved = element * (x + weight + 2 * y)
    ours = (down, convolution, add)
    return Layer("D", name, "shortcut down=2", n, c_in, c_out, size, size // 2, flops, moved, ours, theirs)


def _minibatch_std(name: str, n: int, c: int, element: int) -> Layer:
    """Deviation over groups of samples as one more channel at 4x4: read for the statistic, then copied beside it."""
    x, y = n * c * 4 * 4, n * (c + 1) * 4 * 4
    kernels = (Kernel("statistic", 0, element * x), Kernel("concatenate", 0, element * (x + y)))
    return Layer("D", name, "minibatch std", n, c, c + 1, 4, 4, 0, element * (x + y), kernels, kernels)
