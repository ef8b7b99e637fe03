"""The CUDA kernels compile for the H100 into sound machine code; `make cuda-report` compiles them for the A100 too."""

import re
from pathlib import Path

import pytest

from benchmarks import cuda_code, cuda_report

pytestmark = pytest.mark.skipif(cuda_code.missing() is not None, reason=str(cuda_code.missing()))

PLANTED = """
template <class T, int N>
__global__ void __launch_bounds__(256, 4) wide_kernel(const float4* x, float4* y) {
  y[threadIdx.x] = x[threadIdx.x];
}

template <class T, int N>
__global__ void __launch_bounds__(256, 4) narrow_kernel(const T* x, T* y) {
  for (int i = 0; i < N; i++) y[threadIdx.x * N + i] = x[threadIdx.x * N + i];
}

__global__ void __launch_bounds__(1024, 2) spilling_kernel(const float4* x, float4* y) {
  float4 all[16];
  for (int i = 0; i < 16; i++) all[i] = x[threadIdx.x + 1024 * i];
  __syncthreads();
  for (int i = 0; i < 16; i++) y[threadIdx.x + 1024 * i] = all[15 - i];
}

__global__ void __launch_bounds__(128, 8) crowded_kernel(const float4* x, float4* y) {
  __shared__ float4 all[3072];
  for (int i = threadIdx.x; i < 3072; i += 128) all[i] = x[i];
  __syncthreads();
  y[threadIdx.x] = all[3071 - threadIdx.x];
}

__global__ void __launch_bounds__(256, 4) pieces_kernel(const float4* x, float4* y, float* z) {
  const float4 v = y[threadIdx.x] = x[threadIdx.x];
  z += 4 * threadIdx.x;
  z[0] = v.x, z[1] = v.y, z[2] = v.z, z[3] = v.w;
}

__global__ void silent_kernel(const float4* x, float4* y) { y[threadIdx.x] = x[threadIdx.x]; }

constexpr int kMost = 2 * 65536;  // dynamic shared memory of tiled_kernel

__global__ void __launch_bounds__(128, 2) tiled_kernel(const float4* x, float4* y) {
  extern __shared__ float4 tile[];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[127 - threadIdx.x];
}

__global__ void __launch_bounds__(128, 1) unknown_kernel(const float4* x, float4* y) {
  extern __shared__ float4 tile[];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[127 - threadIdx.x];
}

template __global__ void wide_kernel<float, 4>(const float4*, float4*);
template __global__ void narrow_kernel<float, 4>(const float*, float*);
template __global__ void narrow_kernel<float, 1>(const float*, float*);
"""


def test_the_smallest_kernels_have_no_faults() -> None:
    found = cuda_report.report([cuda_code.CUDA / "weight_square_sum.cu"], ["sm_90"])
    assert len(found) > 10
    assert not cuda_report.faults(found)


@pytest.mark.slow
def test_shipped_kernels_have_no_faults() -> None:
    found = cuda_report.report(sorted(cuda_code.CUDA.glob("*.cu")), ["sm_90"])
    assert len(found) > 100
    wrong = cuda_report.faults(found)
    assert not wrong
    for pattern, *_ in cuda_report.ALLOWED:
        for part in pattern.split("|"):
            assert any(re.match(part, one.name) for one in found), part


def test_faults_are_seen(tmp_path: Path) -> None:
    source = tmp_path / "planted.cu"
    source.write_text(PLANTED)
    found = {one.name: one for one in cuda_report.report([source], ["sm_90"])}
    faults = {name: cuda_report.faults_of(one) for name, one in found.items()}
    assert faults.pop("wide_kernel<float, 4>") == []
    assert faults.pop("narrow_kernel<float, 1>") == []
    narrow = ["no loads of 128 bits", "no stores of 128 bits", "16 bytes stored in pieces, in 1 places"]
    assert faults.pop("narrow_kernel<float, 4>") == narrow
    assert faults.pop("pieces_kernel") == ["16 bytes stored in pieces, in 1 places"]
    assert faults.pop("crowded_kernel") == ["4 blocks of a multiprocessor, 8 stated"]
    assert faults.pop("silent_kernel") == ["does not state its threads and blocks"]
    assert faults.pop("tiled_kernel") == ["1 blocks of a multiprocessor, 2 stated"]
    assert faults.pop("unknown_kernel") == ["does not state the most of its dynamic shared memory"]
    (spilling,) = faults.pop("spilling_kernel")
    assert "bytes of spills" in spilling
    assert found["spilling_kernel"].spilled > 0
    assert found["spilling_kernel"].accesses["local"].total() > 0
    assert not faults
