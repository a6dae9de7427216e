"""Whether 8 bits beat 16 on a GPU, batch size by batch size."""

from dataclasses import dataclass

from vitquant.analysis.findings import Estimate, Half, Study

EIGHT = 8  # bits


@dataclass(frozen=True)
class Winner:
    """The fastest 8-bit recipe at a batch size."""

    name: str
    ratio: Estimate
    """The 16-bit recipe's time over its own."""


@dataclass(frozen=True)
class Race:
    """What 8 bits have to beat, and by batch size which of them came first."""

    half: Half
    winners: dict[int, Winner]


def race(study: Study) -> Race | None:
    """The race; None where one of the two sides was not timed."""
    if study.half is None:
        return None
    winners = {}
    for size in study.sizes:
        ratios = {
            name: ratio
            for name, recipe in study.recipes.items()
            if recipe.traits.weight_bits == EIGHT and size in recipe.speeds and (ratio := recipe.at(size).vs_half)
        }
        if ratios:
            best = max(ratios, key=lambda name: ratios[name].value)
            winners[size] = Winner(best, ratios[best])
    return Race(study.half, winners) if winners else None
