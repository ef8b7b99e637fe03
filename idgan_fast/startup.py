"""What a command does before torch is imported: how its threads wait, how many there are, and Ctrl-C meanwhile.

torch's OpenMP runtime reads its settings once, as it is loaded, so this file imports nothing that imports torch. A
library must not change its process's environment: commands call `prepare`, `import idgan_fast` does not.
"""

import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path

WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
"""A thread that waits at a barrier looks that often whether the others are there, and then sleeps.

By default it looks on for milliseconds, in which it keeps a core from the very thread that it waits for as soon as
another process works beside it. Sleeping costs system calls at every barrier: alone, a step of dsprites-quick's
stage 1 takes 1.0 to 1.2 times as long as by default, beside one busy process a fifth (benchmarks/bench_busy.py).
GNU's runtime reads both names, LLVM's and Intel's the first.
"""
CHOSEN_BY_USER = (*WAITING, "KMP_BLOCKTIME")


def prepare(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set how OpenMP's threads wait and, where a cgroup allows fewer cores than there are, how many there are.

    What the user has set stays. Without effect once torch is imported.
    """
    if "torch" in sys.modules:
        return
    if not any(name in environ for name in CHOSEN_BY_USER):
        environ.update(WAITING)
    quota = cgroup_cores()
    if quota is not None and quota < len(affinity()):
        environ.setdefault("OMP_NUM_THREADS", str(max(math.floor(quota), 1)))


def threads(count: int, environ: Mapping[str, str] = os.environ) -> str:
    """The number of threads and how they wait: "2 threads (OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=2000)"."""
    waiting = " ".join(f"{name}={environ[name]}" for name in CHOSEN_BY_USER if name in environ)
    return f"{count} thread{'s' if count > 1 else ''}" + (f" ({waiting})" if waiting and count > 1 else "")


def usable_cores() -> int:
    """How many cores this process may use, by its affinity and its cgroups; at least 1."""
    quota = cgroup_cores()
    cores = len(affinity())
    return cores if quota is None else max(min(cores, math.ceil(quota)), 1)


def affinity() -> set[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS, Windows


def cgroup_cores(root: Path = Path("/")) -> float | None:
    """The least quota of processor time, in cores, of this process's cgroups (version 1 or 2); None without one.

    root: where proc/ and sys/ are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts, read = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            mounts, read = [f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"], _quota_v1
        else:
            continue
        for mount in mounts:
            inside = Path(path.lstrip("/"))
            # In a container the path may be the host's, which is not there: then its own group is the mount's root.
            quotas += [read(root / mount / group) for group in (inside, *inside.parents)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 and period > 0 else None
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def ending_quietly() -> Iterator[None]:
    """Let Ctrl-C end the process without a traceback while modules are imported."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler:  # a shell's background job ignores it, which stays so
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def drop_output() -> None:
    """Send standard output nowhere, once whoever read it has gone: `command | head -2`."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: a stream without a file, in tests
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def unless_output_closes(command: Callable[[], int]) -> int:
    """Run a command. Returns its exit status, or that of a program which SIGPIPE ends."""
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        drop_output()
        return 128 + 13
