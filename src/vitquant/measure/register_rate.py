"""What this machine reaches at most: products per second while all operands stay in registers."""

from typing import get_args

from vitquant.errors import UnsupportedError
from vitquant.runtime.library import Library, RegisterArithmetic
from vitquant.traits import Arithmetic


def measure(threads: int) -> tuple[dict[Arithmetic, float], str | None]:
    """Products per second of `threads` threads together, by arithmetic, and why there are none, if so.

    An arithmetic that this CPU has no instruction for is absent.
    """
    try:
        library = Library()
    except UnsupportedError as reason:
        return {}, str(reason)
    rates = {arithmetic: library.register_rate(arithmetic, threads) for arithmetic in get_args(RegisterArithmetic)}
    return {arithmetic: rate for arithmetic, rate in rates.items() if rate}, None
