"""FP32 weights to integers: symmetric INT8 with a scale per output channel, or INT4 with a scale and minimum per group.

GPTQ (Frantar et al. 2023, arXiv:2210.17323, algorithm 1) keeps the layer's outputs on the calibration tokens, not each
weight by itself: columns are rounded one after another, and what rounding one adds to the outputs is taken off the
columns still to come.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127  # of INT8, both ways
LARGEST_INT4 = 15  # from 0
BLOCK = 128  # columns whose corrections are applied to the rest at once
WIDER = (1.0, 1.2, 1.5, 2.0)  # than the largest magnitude needs
DAMPING = 0.01  # of the mean diagonal, so that the Cholesky decomposition exists


@dataclass(frozen=True)
class Grid:
    """What the weights of one column can become: minimum + scale × integer, by output channel."""

    scale: Tensor
    """(N,)."""
    minimum: Tensor
    """(N,)."""
    lowest: int
    highest: int

    def nearest(self, column: Tensor) -> Tensor:
        """The integers nearest to a column's weights, (N,), as floating point."""
        return ((column - self.minimum) / self.scale).round().clamp(self.lowest, self.highest)

    def restored(self, integers: Tensor) -> Tensor:
        """The weights that a column's integers stand for, (N,)."""
        return self.minimum + integers * self.scale


def scales(weight: Tensor) -> Tensor:
    """The scale of each output channel, its largest magnitude over 127: float32 (N, K) to float32 (N,)."""
    return (weight.abs().amax(dim=1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)


def nearest(weight: Tensor, scale: Tensor) -> Tensor:
    """Each weight to the nearest integer: float32 (N, K) to int8 (N, K)."""
    return (weight / scale[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8)


def gptq(weight: Tensor, scale: Tensor, moment: Tensor, most: int | None = None) -> Tensor:
    """INT8 by GPTQ, the columns that see the largest inputs first.

    Args:
        weight: float32 (N, K).
        scale: float32 (N,).
        moment: sum of x xᵀ over the layer's inputs, float64 (K, K).
        most: that the integers of one sign sum to in each of `sums_of_four`, or any.

    Returns:
        int8 (N, K).
    """
    step = scale.double()
    grid = Grid(step, torch.zeros_like(step), -LARGEST, LARGEST)
    order = torch.argsort(moment.diag(), descending=True)
    fit = _Room(weight, order, most).fit if most else _as_it_is
    integers = torch.empty_like(weight, dtype=torch.int8)
    rounded = _compensated(weight[:, order], moment[order][:, order], BLOCK, lambda _: grid, fit)
    integers[:, order] = rounded.to(torch.int8)
    return integers


def gptq_within(weight: Tensor, moment: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """INT8 by GPTQ as above, with the scale for each output channel, of a few, that least changes its outputs.

    A wider scale makes smaller integers: more to round off, less to cut off.

    Returns:
        int8 (N, K), and the scale, float32 (N,).
    """
    tried = len(WIDER)
    scale = torch.cat([wider * scales(weight) for wider in WIDER])
    integers = gptq(weight.repeat(tried, 1), scale, moment, most)
    error = (integers * scale[:, None] - weight.repeat(tried, 1)).double()
    best = ((error @ moment) * error).sum(dim=1).unflatten(0, (tried, -1)).argmin(dim=0)
    rows = best * len(weight) + torch.arange(len(weight))
    return integers[rows], scale[rows]


def sums_of_four(integers: Tensor) -> Tensor:
    """What the positive and the negative integers of (N, K) sum to, int32 (2, N, groups).

    A group is four inputs whose products the kernel sums in 16 bits: the first two of four and of the next four.
    """
    outputs, width = integers.shape
    sides = torch.stack([integers.clamp(min=0), -integers.clamp(max=0)]).int()
    sums = sides.new_zeros(2, outputs, int(_group(width).max()) + 1)
    return sums.index_add_(2, _group(width), sides)


def _group(width: int) -> Tensor:
    column = torch.arange(width)
    return column // 8 * 2 + column % 4 // 2


class _Room:
    """What is left of `most` in each of `sums_of_four` while columns are rounded in some order."""

    def __init__(self, weight: Tensor, order: Tensor, most: int) -> None:
        group = _group(weight.shape[1])
        self._group = group[order].tolist()
        self._above, self._below = weight.new_full((2, len(weight), int(group.max()) + 1), most, dtype=torch.float64)

    def fit(self, column: int, integers: Tensor) -> Tensor:
        """The integers of the column that comes next, (N,), cut to the room there is."""
        above, below = self._above[:, self._group[column]], self._below[:, self._group[column]]
        fitted = integers.minimum(above).maximum(-below)
        above -= fitted.clamp(min=0)
        below += fitted.clamp(max=0)
        return fitted


def _as_it_is(_: int, integers: Tensor) -> Tensor:
    return integers


def gptq_groups(weight: Tensor, moment: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """INT4 by GPTQ, with a scale and a minimum for each output channel and group of `size` neighbouring inputs.

    A group's scale and minimum are those of its weights as the columns before have left them.

    Args:
        weight: float32 (N, K), K a multiple of `size`.
        moment: sum of x xᵀ over the layer's inputs, float64 (K, K).

    Returns:
        Integers 0 … 15, uint8 (N, K); scale and minimum, float32 but exact in BF16, (N, K / size).
    """
    grids: list[Grid] = []

    def grid(group: Tensor) -> Grid:
        grids.append(int4_grid(group))
        return grids[-1]

    integers = _compensated(weight, moment, size, grid).to(torch.uint8)
    scale, minimum = (torch.stack([getattr(grid, part) for grid in grids], dim=1) for part in ("scale", "minimum"))
    return integers, scale.float(), minimum.float()


def int4_grid(group: Tensor) -> Grid:
    """The grid that spreads 0 … 15 over the range of a group of weights, (N, size); scale and minimum exact in BF16."""
    minimum = group.amin(dim=1).bfloat16().to(group.dtype)
    scale = ((group.amax(dim=1) - minimum) / LARGEST_INT4).clamp(min=torch.finfo(torch.float32).eps)
    return Grid(scale.bfloat16().to(group.dtype), minimum, 0, LARGEST_INT4)


def _compensated(
    weight: Tensor,
    moment: Tensor,
    block: int,
    grid: Callable[[Tensor], Grid],
    fit: Callable[[int, Tensor], Tensor] = _as_it_is,
) -> Tensor:
    """GPTQ's integers, float64 (N, K), column by column from the first to the last.

    Args:
        weight: float32 (N, K).
        moment: sum of x xᵀ over the layer's inputs, float64 (K, K).
        block: columns that share a grid, and whose corrections are applied to the rest at once.
        grid: gives a block's grid, from its weights as they are when the columns before are done, float64 (N, block).
        fit: changes the integers of a column, (N,), before what rounding adds to the outputs is taken off the rest.
    """
    rest, inverse = weight.double(), _inverse_factor(moment)
    integers = torch.empty_like(rest)
    for start in range(0, rest.shape[1], block):
        stop = min(start + block, rest.shape[1])
        own = grid(rest[:, start:stop])
        errors = torch.empty_like(rest[:, start:stop])
        for column in range(start, stop):
            integers[:, column] = fit(column, own.nearest(rest[:, column]))
            error = (rest[:, column] - own.restored(integers[:, column])) / inverse[column, column]
            rest[:, column:stop].addr_(error, inverse[column, column:stop], alpha=-1)
            errors[:, column - start] = error
        rest[:, stop:] -= errors @ inverse[start:stop, stop:]
    return integers


def _inverse_factor(moment: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped moment, float64 (K, K).

    A channel whose inputs were all zero has nothing but damping: it is rounded to the nearest, and moves no other.
    """
    damped = moment.clone()
    diagonal = damped.diagonal()
    diagonal += DAMPING * diagonal.mean() + torch.finfo(torch.float32).tiny
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    return factor
