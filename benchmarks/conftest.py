"""What pytest-benchmark writes about the machine; `benchmarks/report.py` heads its tables with it."""

import os
from typing import Any

import pytest
import torch

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that measures memory tells of its start and stop


@pytest.hookimpl
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    gpu = torch.cuda.is_available()
    machine_info["idgan"] = {
        "device": torch.cuda.get_device_name() if gpu else machine_info["cpu"]["brand_raw"],
        "torch": torch.__version__.split("+")[0],
        "cuda": torch.version.cuda if gpu else None,
        "threads": torch.get_num_threads(),
    }
