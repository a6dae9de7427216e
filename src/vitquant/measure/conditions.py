"""How busy the machine was while something was measured, which may explain a slow phase."""

import contextlib
import time

import psutil

from vitquant.results.environment import Conditions


class Watch:
    """Looks at the machine when it is made, and at the end.

    A container sees the processor time of its whole host; load and steal are the host's, too.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._load, self._clock = psutil.getloadavg()[0], _clock()
        self._times, self._own = psutil.cpu_times(), _own_seconds()

    def conditions(self) -> Conditions:
        """Of the time since this was made."""
        times, seconds = psutil.cpu_times(), time.perf_counter() - self._began
        gone = {key: getattr(times, key) - getattr(self._times, key) for key in times._fields}
        idle = gone["idle"] + gone.get("iowait", 0.0)
        inside = gone.get("guest", 0.0) + gone.get("guest_nice", 0.0)  # counted as user and nice too
        total = sum(gone.values()) - inside
        steal = gone.get("steal", 0.0)
        others = total - idle - steal - (_own_seconds() - self._own)
        clock = _clock()
        return Conditions(
            load_average=(round(self._load, 2), round(psutil.getloadavg()[0], 2)),
            cpu_mhz=(round(self._clock), round(clock)) if self._clock and clock else None,
            steal_pct=_percent(steal, total),
            others_pct=_percent(others, total),
            seconds=round(seconds, 3),
        )


def _own_seconds() -> float:
    """Processor time that this process and its children have taken, those that have ended among them."""
    own = psutil.Process()
    seconds = 0.0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            taken = process.cpu_times()
            seconds += taken.user + taken.system + taken.children_user + taken.children_system
    return seconds


def _clock() -> float | None:
    """The cores' mean clock in MHz, where the kernel tells it."""
    frequency = psutil.cpu_freq()
    return frequency.current if frequency else None


def _percent(part: float, total: float) -> float:
    return round(100 * max(0.0, part) / total, 2) if total > 0 else 0.0
