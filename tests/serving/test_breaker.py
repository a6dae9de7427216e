"""The breaker by a clock that the test turns."""

from vitquant.serving.breaker import Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_three_failures_in_a_row_open_it_and_one_probe_closes_it() -> None:
    clock = Clock()
    breaker = Breaker(3, 10, clock)
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert breaker.allows
    breaker.failed()
    assert (breaker.state, breaker.allows, breaker.opens_in) == ("open", False, 10)
    clock.now = 10
    assert (breaker.state, breaker.allows) == ("half-open", True)
    breaker.started()
    assert not breaker.allows
    breaker.failed()
    assert (breaker.state, breaker.opens_in) == ("open", 10)
    clock.now = 20
    breaker.started()
    breaker.succeeded()
    assert (breaker.state, breaker.allows) == ("closed", True)
