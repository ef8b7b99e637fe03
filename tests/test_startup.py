"""What commands do before torch is imported: threads, cores, and Ctrl-C."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from idgan_fast import startup

GROUPS = {
    "v2, a group of its own": (
        {"proc/self/cgroup": "0::/jobs/7\n", "sys/fs/cgroup/jobs/7/cpu.max": "150000 100000"},
        1.5,
    ),
    "v2, the parent's quota": (
        {
            "proc/self/cgroup": "0::/jobs/7\n",
            "sys/fs/cgroup/jobs/cpu.max": "200000 100000",
            "sys/fs/cgroup/jobs/7/cpu.max": "max 100000",
        },
        2,
    ),
    "v2, in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
    "v1": (
        {
            "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/x\n",
            "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
            "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
        },
        3,
    ),
    "v1, the host's path in a container": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        4,
    ),
    "no quota": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
    "v1 without a quota": (
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        None,
    ),
    "no Linux": ({}, None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_quota_of_the_cgroups(name: str, tmp_path: Path) -> None:
    files, cores = GROUPS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert startup.cgroup_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "usable"), [(None, 64), (1.5, 2), (0.5, 1), (100, 64)])
def test_cores_that_may_be_used(quota: float | None, usable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "cgroup_cores", lambda: quota)
    monkeypatch.setattr(startup, "affinity", lambda: set(range(64)))
    assert startup.usable_cores() == usable


@pytest.mark.parametrize(
    ("own", "quota", "expected"),
    [
        ({}, None, startup.WAITING),
        ({}, 2.5, {**startup.WAITING, "OMP_NUM_THREADS": "2"}),
        ({}, 0.5, {**startup.WAITING, "OMP_NUM_THREADS": "1"}),
        ({"OMP_NUM_THREADS": "7"}, 2.5, {**startup.WAITING, "OMP_NUM_THREADS": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, None, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "9"}, None, {"GOMP_SPINCOUNT": "9"}),
        ({"KMP_BLOCKTIME": "1"}, None, {"KMP_BLOCKTIME": "1"}),
    ],
)
def test_what_the_user_set_stays(
    own: dict[str, str], quota: float | None, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "cgroup_cores", lambda: quota)
    monkeypatch.setattr(startup, "affinity", lambda: set(range(64)))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    environ = dict(own)
    startup.prepare(environ)
    assert environ == expected


def test_threads_in_words() -> None:
    waiting = "(OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=9)"
    assert startup.threads(2, {"GOMP_SPINCOUNT": "9", "OMP_WAIT_POLICY": "passive"}) == f"2 threads {waiting}"
    assert startup.threads(2, {}) == "2 threads"
    assert startup.threads(1, startup.WAITING) == "1 thread"  # which waits for nobody


def python(code: str, **environ: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in startup.CHOSEN_BY_USER}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**clean, **environ}, check=True, capture_output=True, text=True).stdout


SHOW = "import os; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"


def test_commands_set_it_before_torch_is_imported() -> None:
    """And importing the library, its commands' modules included, leaves the environment alone and torch out."""
    count = startup.WAITING["GOMP_SPINCOUNT"]
    mains = "from idgan_fast import __main__, train; import sys; assert 'torch' not in sys.modules; "
    assert python(f"{mains}{SHOW}") == "None None\n"
    no_such_setting = "train.main(['--no-such-setting']); assert 'torch' in sys.modules; "
    assert python(f"{mains}{no_such_setting}{SHOW}") == f"passive {count}\n"
    no_such_preset = "__main__.main(['memory', '--preset', 'no']); assert 'torch' in sys.modules; "
    assert python(f"{mains}{no_such_preset}{SHOW}") == f"passive {count}\n"
