"""What the CPU consumes, as Linux tells it: the RAPL counters of Intel's and AMD's processors.

https://docs.kernel.org/power/powercap/powercap.html. A package's counter holds its cores, caches and memory controller;
where they are of interest, what is inside has counters of its own, and the whole platform (`psys`) one beside.
"""

import re
from pathlib import Path

from vitquant.errors import UnsupportedError

POWERCAP = Path("/sys/class/powercap")


class Rapl:
    """Joules that all packages together have consumed since this was made, other processes' share among them.

    Call it at least as often as a counter wraps, which takes minutes under full load.

    Raises:
        UnsupportedError: the kernel has no such counters, or this user may not read them; when it is made, or called.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        """Start to count.

        Args:
            root: where the domains lie: `intel-rapl:0`, whose `name` is `package-0`; inside and beside it their parts.
        """
        self._packages = sorted(
            path
            for path in root.glob("intel-rapl:*")
            if re.fullmatch("intel-rapl:[0-9]+", path.name) and _text(path / "name").startswith("package")
        )
        if not self._packages:
            raise UnsupportedError(f"this kernel offers no RAPL counters ({root})")
        self._ranges = [int(_text(path / "max_energy_range_uj")) for path in self._packages]
        self._last = self._read()
        self._total = 0

    def __call__(self) -> float:
        """Joules so far."""
        now = self._read()
        for before, after, highest in zip(self._last, now, self._ranges, strict=True):
            self._total += after - before + (highest if after < before else 0)
        self._last = now
        return self._total / 1e6

    def _read(self) -> list[int]:
        """Each package's counter, in microjoules."""
        return [int(_text(path / "energy_uj")) for path in self._packages]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError:
        raise UnsupportedError(
            f"the RAPL counters may be read by root only: `chmod a+r {path.parents[1]}/intel-rapl:*/energy_uj` "
            "as root, until the next boot"
        ) from None
    except OSError as error:
        raise UnsupportedError(f"{path} cannot be read: {error.strerror}") from None
