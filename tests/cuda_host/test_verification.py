"""What a GPU's first use checks of each kernel, run on the CPU: the CUDA kernels pass, and the gate knows them all."""

import re
from collections.abc import Sequence

import pytest
import torch

from idgan_fast.ops._registry import CUSTOM_OPS
from idgan_fast.ops.validation import verification
from tests.cuda_host import host
from tests.cuda_host.host import Host

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))
REGISTERED = sorted(
    name
    for path in [*host.SOURCES.glob("*.cpp"), *host.SOURCES.parent.glob("*.h")]
    for name in re.findall(r'impl\("(\w+)"', path.read_text())
)


def test_all_but_what_is_left_to_triton_and_the_cpu_is_registered() -> None:
    left = {"styled_layer_fwd", "styled_layer_bwd", "filtered_lrelu_fwd", "filtered_lrelu_linear"}
    assert set(REGISTERED) == set(CUSTOM_OPS) - left - {"winograd_conv2d"}


# float16 has the large images among its samples.
@pytest.mark.parametrize(
    "dtypes",
    [[torch.float32, torch.bfloat16], pytest.param(verification.DTYPES, marks=pytest.mark.slow)],
    ids=["small", "all"],
)
@pytest.mark.parametrize("name", REGISTERED)
def test_verified(name: str, dtypes: Sequence[torch.dtype], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(verification, "DTYPES", dtypes)
    kernel = getattr(Host("random", num_sms=132), name)
    assert verification.check(CUSTOM_OPS[name], kernel, "cpu") is None
