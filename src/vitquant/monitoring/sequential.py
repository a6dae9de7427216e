"""Tests and intervals of a share that hold at all times at once, however often they are looked at.

The test is a bet (Waudby-Smith & Ramdas 2024): a gambler who begins with 1 has, if the mean is at most the bound, at
any time at most once in a hundred games 100 or more (Ville's inequality); at 100 it alarms.
"""

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import brentq
from scipy.special import betaln, xlog1py, xlogy

from vitquant.results.form import Form

ALPHA = 0.01  # false alarms over the whole life of one artifact
ODDS = (3, 6, 12)  # what the bets are best for: so many times the bound's odds
FIRST = 0.8  # of the money, at the first image; the rest later, for a share that rises later
PRIOR = 0.5  # Jeffreys': of the interval's mixture


def stake(number: int) -> float:
    """What is put in at an image, counted from 1: in all of them together 1.

    After the first it falls about as slowly as a sum that ends can.
    """
    if number == 1:
        return FIRST
    return (1 - FIRST) * (1 / math.log(math.e + number - 2) - 1 / math.log(math.e + number - 1))


def step(capital: NDArray[np.float64], number: int, loss: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """The capital (…, 3), one for each of ODDS, after image `number`, counted from 1.

    Where the mean of the losses is at most `bound`, given those before, its sum is a supermartingale that begins at or
    below 1. With losses of 0 and 1 each bet is the likelihood ratio of its share to the bound.

    Args:
        loss: of the image, between 0 and 1, (…, 1).
        bound: between 0 and 1, both excluded.
    """
    odds = np.array(ODDS, float)
    shares = odds * bound / (1 - bound + odds * bound)
    bets = (shares - bound) / (bound * (1 - bound))
    found: NDArray[np.float64] = (capital + stake(number) / len(ODDS)) * (1 + bets * (loss - bound))
    return found


class Watch(Form):
    """What has been seen of one artifact: enough to go on with."""

    bound: Annotated[float, Field(gt=0, lt=1)] | None
    """The share of images of another class than FP32's that is still right; None where nobody knows."""
    seen: int = 0
    differ: int = 0
    capital: list[float] = [0.0] * len(ODDS)
    alarm: int | None = None
    """The number of the image at which more than `bound` was shown."""

    def add(self, differs: bool) -> bool:
        """Take another image; whether it raises the alarm."""
        self.seen += 1
        self.differ += differs
        if self.bound is None or self.alarm is not None:
            return False
        capital = step(np.array(self.capital), self.seen, np.array([float(differs)]), self.bound)
        self.capital = capital.tolist()
        if capital.sum() < 1 / ALPHA:
            return False
        self.alarm = self.seen
        return True


def evidence(share: float, count: NDArray[np.int64] | int, total: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """The logarithm of a capital that is at most 1 in the mean if `share` is true, after `count` of `total` images.

    A mixture of all shares by Jeffreys' prior against this one (Robbins 1970).
    """
    same = np.asarray(total) - np.asarray(count)
    mixed = betaln(PRIOR + np.asarray(count), PRIOR + same) - betaln(PRIOR, PRIOR)
    return np.asarray(mixed - xlogy(count, share) - xlog1py(same, -share), np.float64)


def interval(count: int, total: int, alpha: float = 0.05) -> tuple[float, float]:
    """A share's confidence sequence at one time: `count` of `total` images.

    All such intervals of a growing sample hold the share together, in 1 - alpha of the samples.
    """
    if not total:
        return 0.0, 1.0
    most, middle, edge = math.log(1 / alpha), count / total, 1e-12

    def excess(share: float) -> float:
        return float(evidence(share, count, total)) - most

    low = brentq(excess, edge, middle) if count and excess(edge) > 0 else 0.0
    high = brentq(excess, middle, 1 - edge) if count < total and excess(1 - edge) > 0 else 1.0
    return float(low), float(high)
