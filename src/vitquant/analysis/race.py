"""Whether 8 bits beat floating point on a GPU, batch size by batch size."""

from dataclasses import dataclass

from vitquant.analysis.findings import Rival, Study

EIGHT = 8  # bits


@dataclass(frozen=True)
class Winner:
    """The fastest 8-bit recipe at a batch size."""

    name: str
    rival: Rival
    """The fastest recipe there that does not quantize."""


def race(study: Study) -> dict[int, Winner]:
    """The winner by batch size; a size at which one of the two sides was not timed is absent."""
    winners = {}
    for size in study.sizes:
        rivals = {
            name: rival
            for name, recipe in study.recipes.items()
            if recipe.traits.weight_bits == EIGHT and size in recipe.speeds and (rival := recipe.at(size).best_float)
        }
        if rivals:
            best = max(rivals, key=lambda name: rivals[name].ratio.value)
            winners[size] = Winner(best, rivals[best])
    return winners
