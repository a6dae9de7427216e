"""TensorRT through Torch-TensorRT, an optional extra: FP16, or INT8 or FP8 by ModelOpt's post-training quantization.

The engine is built for the GPU at hand when the artifact is loaded, one for each batch size; the artifact holds the
weights, and for INT8 and FP8 the calibration images.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitquant.artifact import Artifact, read_weights, write_weights
from vitquant.engines.require import require
from vitquant.params import Section
from vitquant.recipes.compiled import CastBackbone, cast
from vitquant.recipes.fp32 import load_model
from vitquant.recipes.gpu_float import check_capability

DEVICES = ("cuda",)
CALIBRATION_FILE = "calibration.safetensors"
CALIBRATION_BATCH = 8


class Options(Section):
    """What params.yaml may say of this recipe."""

    precision: Literal["fp16", "int8", "fp8"]
    """Of the linear layers; all else is FP16."""


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Write what an engine is built from."""
    require("torch_tensorrt")
    if options.precision != "fp16":
        require("modelopt")
        save_file({"images": torch.from_numpy(calibration)}, directory / CALIBRATION_FILE)
    write_weights(directory, cast(read_weights(fp32.path), torch.float16))
    return {}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model as TensorRT engines, each built when its batch size is first met."""
    options = Options.model_validate(artifact.spec.options)
    if options.precision == "fp8":
        check_capability("float8", device)
    tensorrt = require("torch_tensorrt")
    model = CastBackbone(load_model(artifact)).to(device).eval()
    export_mode: Any = contextlib.nullcontext
    if options.precision != "fp16":
        quantization = require("modelopt.torch.quantization")
        export_mode = require("modelopt.torch.quantization.utils").export_torch_mode
        images = load_file(artifact.path / CALIBRATION_FILE)["images"].to(device)

        def calibrate(model: torch.nn.Module) -> None:
            for batch in artifact.spec.preprocessing.normalise(images).split(CALIBRATION_BATCH):
                model(batch)

        config = quantization.FP8_DEFAULT_CFG if options.precision == "fp8" else quantization.INT8_SMOOTHQUANT_CFG
        quantization.quantize(model, config, forward_loop=calibrate)
    engines: dict[torch.Size, Callable[[Tensor], Tensor]] = {}

    def forward(images: Tensor) -> Tensor:
        if images.shape not in engines:
            with torch.no_grad(), export_mode():
                program = torch.export.export(model, (images,), strict=False)
                engines[images.shape] = tensorrt.dynamo.compile(program, arg_inputs=[images], min_block_size=1)
        return engines[images.shape](images)

    return forward
