"""What a GPU's first use checks of each kernel, run on the CPU: the CUDA kernels pass, and the gate knows them all."""

import re

import pytest
import torch

from idgan_fast.ops._registry import CUSTOM_OPS
from idgan_fast.ops.validation import verification
from tests.cuda_host import host
from tests.cuda_host.host import Host

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))
REGISTERED = sorted(
    {name for path in host.SOURCES.glob("*.cpp") for name in re.findall(r'impl\("(\w+)"', path.read_text())}
)


def test_all_but_what_is_left_to_triton_and_the_cpu_is_registered() -> None:
    left = {"styled_layer_fwd", "styled_layer_bwd", "filtered_lrelu_fwd", "filtered_lrelu_linear"}
    assert set(REGISTERED) == set(CUSTOM_OPS) - left - {"winograd_conv2d"}


@pytest.mark.parametrize("name", REGISTERED)
def test_admitted(name: str) -> None:
    torch.manual_seed(0)
    kernel = getattr(Host("random", processors=132), name)
    assert verification.check(CUSTOM_OPS[name], kernel, "cpu") is None
