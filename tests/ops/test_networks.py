"""R1 and path length of networks of our operators, by finite differences; compiled, they are in test_compile.py."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import gradcheck

from tests.ops import checks, networks


@checks.every_backend
def test_r1_and_path_length_by_finite_differences() -> None:
    p, f = networks.parameters(), networks.taps()
    inputs = networks.inputs()
    x, z = inputs["x"].requires_grad_(), inputs["z"].requires_grad_()
    names = ["d1", "db1", "d2", "db2", "skip", "out"]

    def r1(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *values: loss(dict(zip(names, values, strict=True)), x, f)

    leaves = [p[name] for name in names]
    assert gradcheck(r1(networks.d_loss_autograd), leaves, fast_mode=True)
    assert gradcheck(r1(networks.d_loss_func), leaves, fast_mode=True)
    by_grad = networks.gradients(networks.d_loss_autograd(p, x, f), p)
    by_func = networks.gradients(networks.d_loss_func(p, x, f), p)
    for name in names:
        torch.testing.assert_close(by_func[name], by_grad[name])

    of_g = ["const", "affine1", "w1", "b1", "strength", "affine2", "w2", "b2"]
    assert gradcheck(
        lambda *values: networks.path_length(dict(zip(of_g, values, strict=True)), z, inputs["noise"], f),
        [p[name] for name in of_g],
        fast_mode=True,
    )
