"""The kernel's energy counters, on a directory tree of the same layout."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vitquant.errors import UnsupportedError
from vitquant.measure.rapl import Rapl

HIGHEST = 262_143_328_850


def domain(root: Path, place: str, name: str, microjoules: int) -> Path:
    """A domain's folder; returns its counter."""
    folder = root / place
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{HIGHEST}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may read what all may."""
    if os.geteuid():
        yield
        return
    try:
        os.seteuid(65534)
    except OSError as error:
        pytest.skip(f"root may read anything, and cannot become another user: {error}")
    try:
        yield
    finally:
        os.seteuid(0)


def test_packages_are_summed_and_nothing_else_is(tmp_path: Path) -> None:
    first = domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = domain(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    others = [
        domain(tmp_path, "intel-rapl:0:0", "core", 0),  # all lie side by side in /sys/class/powercap
        domain(tmp_path, "intel-rapl:0/intel-rapl:0:1", "dram", 0),
        domain(tmp_path, "intel-rapl:2", "psys", 0),
        domain(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    (tmp_path / "intel-rapl").mkdir()  # the control type
    rapl = Rapl(tmp_path)
    assert rapl() == 0
    first.write_text("3500000")
    second.write_text("8000000")
    for other in others:
        other.write_text("99000000")
    assert rapl() == 3.5


def test_a_counter_that_wraps(tmp_path: Path) -> None:
    counter = domain(tmp_path, "intel-rapl:0", "package-0", HIGHEST - 2_000_000)
    rapl = Rapl(tmp_path)
    counter.write_text("500000")
    assert rapl() == 2.5
    counter.write_text(str(HIGHEST - 1_000_000))
    assert rapl() == HIGHEST / 1e6 + 1.0  # a whole turn since the beginning, less 2 to 1 J before its end
    counter.write_text("0")
    assert rapl() == HIGHEST / 1e6 + 2.0


def test_a_kernel_without_counters_is_named(tmp_path: Path) -> None:
    domain(tmp_path, "intel-rapl:0", "psys", 0)
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UnsupportedError, match=f"this kernel offers no RAPL counters .{root}.$"):
            Rapl(root)


def test_counters_for_root_only() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is for its user only
        root = Path(name)
        root.chmod(0o755)
        domain(root, "intel-rapl:0", "package-0", 0).chmod(0o400 if os.geteuid() == 0 else 0)
        with unprivileged(), pytest.raises(UnsupportedError, match="may be read by root only: `chmod a.r .*energy_uj`"):
            Rapl(root)


def test_a_counter_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 0)
    rapl = Rapl(tmp_path)
    counter.unlink()
    with pytest.raises(UnsupportedError, match="energy_uj cannot be read: No such file or directory"):
        rapl()
