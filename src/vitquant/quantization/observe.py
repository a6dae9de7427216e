"""What a model's linear layers see on the calibration images."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from vitquant.errors import VitquantError

SAMPLE_IMAGES = 4  # whole images whose tokens are kept


@dataclass
class Ranges:
    """The range of one linear layer's inputs, K values a token, over all tokens of all calibration images."""

    lowest: Tensor
    """Per channel, float32 (K,)."""
    highest: Tensor
    """Per channel, float32 (K,)."""

    @classmethod
    def empty(cls, x: Tensor) -> Self:
        """Of nothing yet; `x`, float32 (images, …, K), comes first."""
        none = torch.full(x.shape[-1:], torch.inf, device=x.device)
        return cls(none, -none)

    def add(self, tokens: Tensor) -> None:
        """Take in further tokens, float32 (tokens, K)."""
        self.lowest = torch.minimum(self.lowest, tokens.amin(0))
        self.highest = torch.maximum(self.highest, tokens.amax(0))


@dataclass
class Inputs(Ranges):
    """Ranges and second moments, and the tokens of a few images."""

    mean: Tensor
    """Per channel, float64 (K,)."""
    scatter: Tensor
    """Sum of (x - mean) (x - mean)ᵀ, float64 (K, K)."""
    count: int
    """Tokens seen."""
    sample: Tensor
    """The tokens of a few images, float32 (images, tokens, K)."""

    @classmethod
    def empty(cls, x: Tensor) -> Self:
        """Of nothing yet but the sample, which is of the first batch, `x`."""
        ranges, width = Ranges.empty(x), x.shape[-1]
        zeros = torch.zeros(width, dtype=torch.float64, device=x.device)
        scatter = torch.zeros(width, width, dtype=torch.float64, device=x.device)
        return cls(ranges.lowest, ranges.highest, zeros, scatter, 0, x[:SAMPLE_IMAGES].clone())

    def moment(self, centre: Tensor | float = 0.0) -> Tensor:
        """Sum of (x - centre) (x - centre)ᵀ, float64 (K, K), for a centre of each channel, (K,), or of all.

        Nothing is subtracted from the scatter, so that no channel's moment is lost beside a large mean or centre.
        """
        shift = self.mean - centre
        return self.scatter + self.count * torch.outer(shift, shift)

    def add(self, tokens: Tensor) -> None:
        """Take in further tokens, float32 (tokens, K).

        Means and scatters of two sets are joined as in Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115.
        """
        super().add(tokens)
        exact = tokens.double()
        mean = exact.mean(0)
        centred = (exact - mean).float()
        both = self.count + len(tokens)
        shift = mean - self.mean
        self.scatter += (centred.T @ centred).double()
        self.scatter += self.count * len(tokens) / both * torch.outer(shift, shift)
        self.mean = self.mean + shift * len(tokens) / both
        self.count = both


Seen = TypeVar("Seen", bound=Ranges)


def observe(model: nn.Module, batches: Iterable[Tensor], names: Iterable[str], kind: type[Seen]) -> dict[str, Seen]:
    """Run `model` on `batches`, float32 (N, 3, H, W), and record the inputs of the linear layers `names`.

    Args:
        kind: what is recorded, Ranges or Inputs.

    Raises:
        VitquantError: a layer sees NaN or infinity.
    """
    seen: dict[str, Seen] = {}

    def record(name: str, x: Tensor) -> None:
        tokens = x.flatten(0, -2)
        if not torch.isfinite(tokens).all():
            raise VitquantError(f"{name} sees NaN or infinity on the calibration images: look at them and the weights")
        if name not in seen:
            seen[name] = kind.empty(x)
        seen[name].add(tokens)

    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: record(name, args[0]))
        for name in names
    ]
    try:
        with torch.inference_mode():
            for batch in batches:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return seen
