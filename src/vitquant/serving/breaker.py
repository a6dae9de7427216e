"""A circuit breaker: a recipe that keeps failing is left alone for a while, then probed."""

import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Closed until `threshold` failures in a row, then open for `seconds`, then half-open: one image probes.

    Args:
        clock: seconds that only go up.
    """

    def __init__(self, threshold: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold, self._seconds, self._clock = threshold, seconds, clock
        self._failures, self._until, self._probing = 0, 0.0, False

    @property
    def state(self) -> State:
        """Whether what it guards may be used: closed, yes; open, no; half-open, once."""
        if self._failures < self._threshold:
            return "closed"
        return "open" if self._clock() < self._until else "half-open"

    @property
    def allows(self) -> bool:
        """Whether it may be used now."""
        return self.state == "closed" or (self.state == "half-open" and not self._probing)

    @property
    def opens_in(self) -> float:
        """Seconds until an open one is half-open; 0 of any other."""
        return self._until - self._clock() if self.state == "open" else 0.0

    def started(self) -> None:
        """It is used now."""
        self._probing = self.state == "half-open"

    def succeeded(self) -> None:
        """It did what it should."""
        self._failures, self._probing = 0, False

    def failed(self) -> None:
        """It did not."""
        self._failures, self._probing = self._failures + 1, False
        if self._failures >= self._threshold:
            self._until = self._clock() + self._seconds
