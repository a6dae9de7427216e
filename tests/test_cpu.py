import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitquant import cpu


def test_auto_takes_every_core_that_the_process_may_use() -> None:
    assert cpu.threads("auto") == cpu.cores() <= len(os.sched_getaffinity(0))
    assert cpu.threads(3) == 3


def test_cores_that_are_withheld_do_not_count() -> None:
    taskset = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    command = [sys.executable, "-c", "from vitquant.cpu import cores; print(cores())"]
    try:
        assert subprocess.run([*taskset, *command], capture_output=True, text=True, check=True).stdout == "1\n"
    except FileNotFoundError:
        pytest.skip("taskset is absent")


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "max 100000"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/host/only\n", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/\n", {}, None),
        ("5:cpu,cpuacct:/a\n4:memory:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000",
                                             "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 0.5),
        ("5:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_the_smallest_quota_of_a_group_and_those_above_it(
    groups: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert cpu.quota(tmp_path / "groups", tmp_path) == quota


def test_no_control_groups(tmp_path: Path) -> None:
    assert cpu.quota(tmp_path / "none", tmp_path) is None


@pytest.fixture
def half_a_cpu() -> Iterator[Path]:
    """A control group that may use half of one CPU."""
    root = next((root for root in map(Path, ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup")) if root.is_dir()), Path("/none"))
    group = root / f"vitquant-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text("50000")
        elif (group / "cpu.max").exists():
            (group / "cpu.max").write_text("50000 100000")
        else:
            pytest.skip("control groups have no CPU controller here")
        yield group
    finally:
        group.rmdir()


def test_a_real_quota_of_half_a_cpu_is_one_core(half_a_cpu: Path) -> None:
    script = "import sys; open(sys.argv[1], 'w').write('0'); from vitquant import cpu; print(cpu.quota(), cpu.cores())"
    command = [sys.executable, "-c", script, str(half_a_cpu / "cgroup.procs")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0.5 1\n"
