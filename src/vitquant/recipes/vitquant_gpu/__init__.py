"""An 8-bit ViT on a GPU: few kernels of our own, and 8 bits between them.

INT8 is smoothed and rounded by GPTQ, by the calibration images, and folded as in vitquant-int8; FP8 needs neither.
LayerNorm gives each token its scale. What attention and GELU give has one scale for all tokens, found on the
calibration images (`static`, the fast way), or a scale for each token and head, or group of hidden columns, found at
run time (`dynamic`, the safe way). With `float16` or `bfloat16` the same kernels run without 8 bits: what is left of a
difference then is fusion's. docs/vitquant-gpu.md has what it gives.

The kernels are Triton's, for GPUs of compute capability 8.0 and later, and CUDA C++, with INT8 alone, for 7.5; on the
CPU PyTorch computes the same, slowly.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from vitquant import cache
from vitquant.artifact import Artifact
from vitquant.engines.capability import check_capability
from vitquant.models.loading import check_tensors, empty_model, load_model
from vitquant.parallel import choose_device
from vitquant.params import Section
from vitquant.predictor import read_weights, write_weights
from vitquant.recipes.vitquant_gpu import weights
from vitquant.recipes.vitquant_gpu.reference import Reference
from vitquant.recipes.vitquant_gpu.shape import shape_of
from vitquant.recipes.vitquant_gpu.token_head import use_token_head, wanted
from vitquant.traits import Traits


class Options(Section):
    """What params.yaml may say of this recipe."""

    format: Literal["int8", "float8", "float16", "bfloat16"]
    """Of the linear layers' weights and inputs. With 8 bits, all else but norms and head is FP16."""
    scales: Literal["static", "dynamic"]
    """Of what attention and GELU give: fixed by the calibration images, or found at run time. 16 bits have none."""

    @model_validator(mode="after")
    def _scales_are_of_eight_bits(self) -> "Options":
        if self.scales == "dynamic" and weights.TYPES[self.format].itemsize > 1:
            raise ValueError(f"format: {self.format} has no scales: write scales: static")
        return self


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    bits = 8 * weights.TYPES[options.format].itemsize
    return Traits(
        weight_bits=bits,
        activation_bits=bits,
        arithmetic=options.format,
        execution="compiled",
        devices=("cpu", "cuda"),
    )


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Observe, smooth, round and write the weights.

    Raises:
        UnsupportedError: the kernels do not take this model.
    """
    device = choose_device("auto")
    model = load_model(fp32)
    use_token_head(model)
    model.to(device)
    shape_of(model)
    images = fp32.spec.preprocessing.normalise(torch.from_numpy(calibration).to(device))
    tensors, details = weights.quantize(model, images, options.format, static=options.scales == "static")
    write_weights(directory, tensors)
    return details


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network on `device`; kernels are compiled when a batch size first comes.

    Raises:
        VitquantError: the artifact's tensors are not what the architecture needs.
        UnsupportedError: there are no kernels for this GPU and the numbers' type.
    """
    options = Options.model_validate(artifact.spec.options)
    if device.type == "cuda":
        from vitquant.recipes.vitquant_gpu import kernels  # Triton is for GPUs

        kernels.check(torch.cuda.get_device_capability(device), options.format)
        check_capability(options.format, device)
    static = options.scales == "static"
    model, tensors = empty_model(artifact), read_weights(artifact.path)
    use_token_head(model)
    check_tensors(artifact, tensors, weights.expected(model, options.format, static=static))
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("backbone.blocks.")}
    model.load_state_dict(rest, strict=False, assign=True)
    shape = shape_of(model)
    positions = weights.positions(model, shape)
    network: Callable[[Tensor], Tensor]
    if device.type == "cpu":
        network = Reference(tensors, positions, shape, static=static)
    else:
        cache.for_inductor()  # Triton keeps its kernels there
        from vitquant.recipes.vitquant_gpu.graphs import Graphs
        from vitquant.recipes.vitquant_gpu.launch import Gpu
        from vitquant.recipes.vitquant_gpu.network import Network

        chosen = kernels.choose(Gpu.of(device), shape, device, static=static)
        network = Graphs(Network(tensors, positions, shape, chosen, device, static=static))
    plain = artifact.spec.classes and artifact.spec.pooling != "mean"
    return network if plain else lambda images: wanted(network(images), artifact.spec)
