"""Every shipped configuration of the Triton kernels compiles for GPUs that are not here, into sound machine code."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels do not compile", allow_module_level=True)
report = pytest.importorskip("benchmarks.triton_report")
code = pytest.importorskip("benchmarks.triton_code")


# One configuration of each kernel for the H100, and of the products, whose code differs most, for all five GPUs.
QUICK = (
    "bias_lrelu_bwd fp16 NHWC",
    "bias_act_fwd swish fp16 NHWC",
    "bias_act_bwd2 swish fp16 NHWC",
    "upfirdn2d up=2 fp16 NHWC",
    "styled_epilogue_fwd filter fp16 NHWC",
    "styled_epilogue_bwd filter fp16 NHWC",
    "weight_square_sum fp16 NHWC",
    "filtered_lrelu_fwd up=2 down=2 fp16 NCHW",
    "filtered_lrelu_linear up=2 down=2 fp16 NCHW",
    "filtered_lrelu_fwd composed fp16 NCHW",
)
QUICK_PRODUCTS = ("styled_layer_conv same style fp16 NHWC", "styled_layer_weight_grad same fp16 NHWC")


def quick(case: str, target: str) -> bool:
    return case in QUICK_PRODUCTS or (case in QUICK and target == "sm_90")


def most(case: str, target: str) -> bool:
    """float16 for three GPUs, of the products for all five; float32 products for the H100."""
    product = "styled_layer" in case
    if "fp16" in case:
        return product or target in ("sm_80", "sm_90", "gfx942")
    return product and "fp32" in case and "three" not in case and target == "sm_90"


@pytest.mark.parametrize("chosen", [quick, pytest.param(most, marks=pytest.mark.slow)])
def test_shipped_configurations_compile_without_faults(chosen: Callable[[str, str], bool]) -> None:
    """`make triton-report` does all for all."""
    jobs = [(i, target) for i, one in report.shipped().items() for target in code.TARGETS if chosen(one.case, target)]
    assert len(jobs) >= len(QUICK) + 5 * len(QUICK_PRODUCTS)
    results = report.report(jobs)
    assert len(results) == len(jobs)
    faulty = [(r.case, r.kernel, r.target, r.faults) for r in results if r.faults]
    assert not faulty


def test_every_kernel_is_in_the_quick_selection() -> None:
    launches = report.shipped().values()
    chosen = {one.kernel.fn.__name__ for one in launches if quick(one.case, "sm_90")}
    assert chosen == {one.kernel.fn.__name__ for one in launches}


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = next(one for one in report.launches() if one.case == "bias_lrelu_bwd fp16 NCHW")
    # 64 numbers of each of four tensors for one warp's threads: more registers than a thread has.
    crowded = replace(launch, options={**launch.options, "num_warps": 1, "BLOCK_ROWS": 16, "BLOCK_COLUMNS": 1024})
    found = code.compiled(crowded, "sm_90").faults
    assert any("spills" in fault for fault in found), found
    # A pointer that is 2 bytes off leaves no wide access.
    misaligned = tuple(a if a is None or not hasattr(a, "data_ptr") else a[..., 1:] for a in launch.args)
    found = code.compiled(replace(launch, args=misaligned), "sm_90").faults
    assert any("dy is accessed 2 bytes wide" in fault for fault in found), found
    launch = next(one for one in report.launches() if one.case == "styled_layer_conv same fp16 NHWC")
    monkeypatch.setitem(code.MATRIX, "sm_90", "UTCHMMA")
    found = code.compiled(launch, "sm_90").faults
    assert any("multiplies matrices without" in fault for fault in found), found
