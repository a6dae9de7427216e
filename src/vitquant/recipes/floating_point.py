"""Floating point as a GPU runs it: FP32, TF32, FP16 or BF16, eager or compiled. The CPU runs them too.

TF32 keeps FP32's range and rounds the factors of matrix products to 10 bits of mantissa.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from vitquant.artifact import Artifact
from vitquant.engines import cuda_graph
from vitquant.engines.capability import check_capability
from vitquant.models.loading import CastBackbone, cast, load_model
from vitquant.models.patches import PatchProduct
from vitquant.params import Section
from vitquant.predictor import read_weights, write_weights
from vitquant.traits import Traits

DTYPES = {"float32": torch.float32, "tfloat32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Options(Section):
    """What params.yaml may say of this recipe."""

    dtype: Literal["float32", "tfloat32", "float16", "bfloat16"]
    """Of the backbone's weights and activations; the head stays FP32."""
    compile: bool
    """Whether Inductor compiles the blocks, in a CUDA graph on a GPU; else eager."""
    whole: bool = False
    """With `compile`: the model as one, not block by block; slower to compile, a few percent faster to run."""
    patches: Literal["convolution", "product"] = "convolution"
    """How patches are embedded: by timm's convolution, or by a copy and a matrix product, which GPUs are faster at."""

    @model_validator(mode="after")
    def _whole_is_compiled(self) -> "Options":
        if self.whole and not self.compile:
            raise ValueError("whole: true is for compile: true")
        return self


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    bits = 8 * DTYPES[options.dtype].itemsize
    execution: Literal["eager", "compiled"] = "compiled" if options.compile else "eager"
    return Traits(
        weight_bits=bits,
        activation_bits=bits,
        arithmetic=options.dtype,
        execution=execution,
        devices=("cpu", "cuda"),
    )


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Write the weights in the wanted type."""
    write_weights(directory, cast(read_weights(fp32.path), DTYPES[options.dtype]))
    return {}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model on `device`. Whether FP32 may become TF32 is a setting of the whole process, made here."""
    options = Options.model_validate(artifact.spec.options)
    check_capability(options.dtype, device)
    allow_tf32(options.dtype == "tfloat32")
    classifier = load_model(artifact, DTYPES[options.dtype])
    if options.patches == "product":
        embedding: Any = classifier.backbone.patch_embed
        embedding.proj = PatchProduct(embedding.proj)
    model = CastBackbone(classifier).to(device).eval()
    _keep_rotations(classifier.backbone)
    if not options.compile:
        return model
    if options.whole:
        return cuda_graph.compile_whole(model, device)
    return cuda_graph.compile_blocks(getattr(classifier.backbone, "blocks", None), model, device)


def _keep_rotations(backbone: Any) -> None:
    """Compute rotary embeddings once: timm does for each batch, from the CPU, which a CUDA graph cannot record."""
    rope = getattr(backbone, "rope", None)
    if rope is not None and backbone.dynamic_img_size:
        rotations = rope.get_embed(shape=backbone.patch_embed.grid_size)
        rope.get_embed = lambda **_: rotations


def allow_tf32(allowed: bool) -> None:
    """Let FP32 products round their factors to TF32, or not; in matrix products and convolutions alike."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
