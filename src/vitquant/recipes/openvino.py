"""OpenVINO on the CPU: FP32, or static INT8 by NNCF, its own post-training quantization.

INT8 is NNCF's scheme for transformers: weights symmetric per output channel, activations per tensor with ranges
from the calibration images, SmoothQuant before and fast bias correction after. The head stays FP32. Two settings
differ from NNCF's defaults, chosen on training images of the sample study (cosine of the logits to FP32, 0.986 with
the defaults): whole ranges, minimum to maximum, since clipped outliers cost most (0.995), and a milder SmoothQuant
(0.998).
"""

import contextlib
import functools
import importlib
import io
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from vitquant.artifact import Artifact
from vitquant.engines.require import require
from vitquant.errors import UnsupportedError
from vitquant.params import Section
from vitquant.pool import calls_at_once
from vitquant.traits import Arithmetic, Traits

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO and NNCF then send nothing
with contextlib.suppress(UnsupportedError):
    require("openvino")  # now, so that no measurement of `load` counts the import

SMOOTHING = 0.75  # SmoothQuant's alpha: how much of the activations' range moves into the weights
FILE = "model.xml"  # the graph; the weights lie in model.bin beside it
_loaded: list[Any] = []  # dropping a model has crashed, once, on a CPU with AVX2: they stay as long as the process


class Options(Section):
    """What params.yaml may say of this recipe."""

    precision: Literal["fp32", "int8"]
    """Of the linear layers, the patch embedding and attention's products; the head is FP32 in both."""
    inference_precision: Literal["f32", "auto"]
    """Of all else: FP32, or what OpenVINO takes by itself, which is BF16 where the CPU has that."""

    @model_validator(mode="after")
    def _fp32_is_fp32(self) -> "Options":
        if self.precision == "fp32" and self.inference_precision != "f32":
            raise ValueError("precision: fp32 takes inference_precision: f32; with auto it would be BF16 on some CPUs")
        return self


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    bits = 32 if options.precision == "fp32" else 8
    arithmetic: Arithmetic = "float32" if options.precision == "fp32" else "int8"
    return Traits(weight_bits=bits, activation_bits=bits, arithmetic=arithmetic, execution="compiled", devices=("cpu",))


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Write the model in OpenVINO's own format, quantized where that is wanted."""
    openvino = require("openvino")
    nncf = _nncf() if options.precision == "int8" else None
    from vitquant.engines.onnx_export import export  # the exporter; `load` has no use for it

    with tempfile.TemporaryDirectory() as folder:
        export(fp32, Path(folder) / "model.onnx")
        model = core().read_model(Path(folder) / "model.onnx")
        details = {"openvino": openvino.get_version()}
        if nncf:
            normalise = fp32.spec.preprocessing.normalise
            inputs = [normalise(torch.from_numpy(image[None])).numpy() for image in calibration]
            ranges = importlib.import_module("nncf.quantization.range_estimator").RangeEstimatorParametersSet
            with _quiet():
                model = nncf.quantize(
                    model,
                    nncf.Dataset(inputs),
                    preset=nncf.QuantizationPreset.MIXED,
                    model_type=nncf.ModelType.TRANSFORMER,
                    subset_size=len(inputs),
                    ignored_scope=nncf.IgnoredScope(names=[_head(model)] if fp32.spec.classes else []),
                    advanced_parameters=nncf.AdvancedQuantizationParameters(
                        activations_range_estimator_params=ranges.MINMAX,
                        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING),
                    ),
                )
            details["nncf"] = nncf.__version__
        openvino.save_model(model, directory / FILE, compress_to_fp16=False)
    return details


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model compiled for this CPU and as many threads as PyTorch has now; as many requests as calls at once.

    Requests of one stream wait for each other, so that in a pool of threads each has its own.
    """
    streams = calls_at_once()
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams * torch.get_num_threads(),  # of all streams together
    }
    if artifact.spec.options["inference_precision"] == "f32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = core().compile_model(artifact.path / FILE, "CPU", settings)
    _loaded.append(compiled)
    idle: list[Any] = []  # requests; they live as long as the model does, not as a thread that called it

    def forward(images: Tensor) -> Tensor:
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            return torch.from_numpy(request.infer({"images": images.numpy()}, share_inputs=True)["outputs"])
        finally:
            idle.append(request)

    side = artifact.spec.preprocessing.crop
    forward(torch.zeros(1, 3, side, side))  # alone: first calls from two threads can lock each other out for good
    return forward


@functools.cache
def core() -> Any:
    """OpenVINO's Core, kept for as long as the process lives.

    Its CPU plugin gives the thread that loads it a stack for signals, which goes when the plugin does: with the last
    Core or model. Where another thread drops that, the next signal kills the process.
    """
    return require("openvino").Core()


def preload() -> None:
    """Load the CPU plugin, which is a library of its own."""
    core().get_property("CPU", "FULL_DEVICE_NAME")


def _nncf() -> Any:
    """NNCF, which is slow to import."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it finds no compiler for CUDA
    nncf = require("nncf")
    nncf.set_log_level(logging.ERROR)
    return nncf


def _head(model: Any) -> str:
    """The name of the node that multiplies by the head's weight: the last product."""
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    return str(products[-1].get_friendly_name())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing printed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
