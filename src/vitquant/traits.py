"""What a recipe is, as its method declares it: the one place that says whether it quantizes, and how it computes."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Arithmetic = Literal["float32", "tfloat32", "bfloat16", "float16", "float8", "int8"]


class Traits(BaseModel):
    """What recipe.json and every result say of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight_bits: PositiveInt
    """Of a stored weight of the linear layers."""
    activation_bits: PositiveInt
    """Of a linear layer's input as it is multiplied."""
    arithmetic: Arithmetic
    """The type in which the linear layers multiply."""
    execution: Literal["eager", "compiled"]
    """Eager: PyTorch calls one operator after another. Compiled: a compiler or an engine has fused them."""
    devices: Annotated[tuple[Literal["cpu", "cuda"], ...], Field(min_length=1)]
    """The types of device that have kernels for it."""
    batch_scales: bool = False
    """One activation scale at run time for the whole batch: its images affect each other."""

    @property
    def quantized(self) -> bool:
        """Whether weights are stored as integers, or as floating point of 8 bits or fewer."""
        return self.weight_bits <= 8  # noqa: PLR2004


FP32 = Traits(
    weight_bits=32, activation_bits=32, arithmetic="float32", execution="eager", devices=("cpu", "cuda")
)  # the baseline's
