"""What queueing alone does to latency, however good the server."""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def ideal(arrivals: Sequence[float], service: float, workers: int = 1) -> NDArray[np.float64]:
    """Latencies of requests to workers that take `service` for each and nothing for all else: first come, first served.

    A request begins when it has arrived and a worker is free. With one worker that is Lindley's recursion for the time
    that the next one waits, max(0, W + S - A), A being the time between the two (Lindley 1952, Mathematical
    Proceedings of the Cambridge Philosophical Society 48:277); with several, Kiefer and Wolfowitz's (1955, Transactions
    of the American Mathematical Society 78:1).

    Args:
        arrivals: when requests arrive, in any order.
        service: in the same unit, as what is returned, which has the order of `arrivals`.
    """
    times = np.asarray(arrivals, np.float64)
    free, ends = [-np.inf] * workers, np.empty_like(times)
    for index in np.argsort(times, kind="stable"):
        ends[index] = max(times[index], free[0]) + service
        heapq.heapreplace(free, ends[index])
    return ends - times
