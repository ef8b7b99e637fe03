"""`make wheel`: tries a wheel in a clean environment outside the repository.

    python tests/wheel.py dist/idgan_fast-0.1.0-py3-none-linux_x86_64.whl torch==2.13.0 [more arguments of pip]

Exits with 1 where the wheel is not whole, does not install, or an operator fails there.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from zipfile import ZipFile

CHECK = """
import ctypes, torch
from pathlib import Path
import idgan_fast
from idgan_fast import ops
library = ctypes.CDLL(str(Path(idgan_fast.__file__).with_name("_cpu.so")))
library.idgan_fast_cpu_instructions.restype = ctypes.c_char_p
x, b = torch.randn(2, 5, 7, 9), torch.randn(5)
got, wanted = (ops.bias_act(x, b, act="lrelu", impl=name) for name in ("native", "reference"))
torch.testing.assert_close(got, wanted)
print(f"torch {torch.__version__}: bias_act runs on {library.idgan_fast_cpu_instructions().decode()}")
if Path(idgan_fast.__file__).with_name("_cuda.so").exists():
    print(ops._dispatch._no_cuda_library or "the CUDA library loads")
"""


def faults(wheel: Path, compiled: bool = True) -> list[str]:
    """What is wrong with a wheel's name and contents; `compiled`: whether it should hold the CPU library."""
    names = ZipFile(wheel).namelist()
    found = []
    if "-py3-none-linux_" not in wheel.name:
        found.append(f"the tag of {wheel.name} is not py3-none-linux_*")
    found += [
        f"no {name}" for name in ("idgan_fast/ops/__init__.py", "idgan_fast/kernels/__init__.py") if name not in names
    ]
    if ("idgan_fast/_cpu.so" in names) != compiled:
        found.append("no idgan_fast/_cpu.so" if compiled else "idgan_fast/_cpu.so, which could not be built")
    if "+cu" in wheel.name and "idgan_fast/_cuda.so" not in names:
        found.append("no idgan_fast/_cuda.so")
    info = f"idgan_fast-{wheel.name.split('-')[1]}.dist-info/"
    return found + [f"{name} is not of the package" for name in names if not name.startswith(("idgan_fast/", info))]


def main(wheel: Path, *requirements: str) -> int:
    for fault in faults(wheel):
        print(f"{wheel.name}: {fault}", file=sys.stderr)
        return 1
    print(f"{wheel.name}: {wheel.stat().st_size} bytes", flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        scripts = Path(folder) / "venv/bin"
        for command in (
            [scripts / "python", "-m", "pip", "install", "--quiet", wheel.resolve(), *requirements],
            [scripts / "python", "-c", CHECK],
            [scripts / "idgan-fast", "doctor"],
        ):
            status = subprocess.run(command, cwd=folder, env=environment).returncode
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
