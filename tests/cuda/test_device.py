"""Accuracy on a GPU is that of the CPU. Runs where there is a CUDA device."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vitquant import recipes
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import accuracy, benchmark, nvml
from vitquant.models import baseline
from vitquant.params import Batch, Benchmark, Evaluate, Params, Recipe
from vitquant.predictor import read_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = torch.device("cuda")


def test_predictions_are_the_cpus_for_any_batch_size_and_worker_count(fp32: Path, prepared: Prepared) -> None:
    expected = accuracy.predict(
        recipes.load(fp32), prepared, Evaluate(batch_size=1, cuda_batch_size=1, large_batch=5, workers=0), threads=1
    )
    predictor = recipes.load(fp32, CUDA)
    assert predictor.device == CUDA
    for batch_size, workers in ((1, 0), (5, 2), (64, 1)):
        params = Evaluate(batch_size=1, cuda_batch_size=batch_size, large_batch=5, workers=workers)
        outputs = accuracy.predict(predictor, prepared, params, threads=2)
        assert np.abs(outputs - expected).max() < 1e-2
        assert np.array_equal(outputs[:, :6].argmax(axis=1), expected[:, :6].argmax(axis=1))


def test_the_baseline_can_be_fitted_on_the_gpu(params: Params, prepared: Prepared, fp32: Path, tmp_path: Path) -> None:
    baseline.build(params.model_copy(update={"device": "cuda"}), Path("unused"), prepared, tmp_path / "fp32", 2)
    on_cpu, on_gpu = read_weights(fp32), read_weights(tmp_path / "fp32")
    assert torch.equal(on_gpu["backbone.cls_token"], on_cpu["backbone.cls_token"])
    assert (on_gpu["head.weight"] - on_cpu["head.weight"]).abs().max() < 0.05


def test_a_recipe_without_cuda_kernels_stays_on_the_cpu(
    fp32: Path, prepared: Prepared, calibration, tmp_path: Path
) -> None:
    options = {"method": "dynamic_int8", "per_channel": True, "keep_float": ["head"], "engine": "auto"}
    recipes.build("r", Recipe.model_validate(options), fp32, tmp_path / "r", calibration)
    predictor = recipes.load(tmp_path / "r", CUDA)
    assert predictor.device.type == "cpu"
    assert predictor(prepared.images("val")[:2]).shape == (2, 6)


def test_another_process_on_the_gpu_is_named() -> None:
    nvml.check_idle()
    program = "import torch, time; held = torch.zeros(1, device='cuda'); print('holding', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(VitquantError, match=r"in use by python.*--busy-ok"):
            nvml.check_idle()
        other.kill()


def test_a_batch_that_does_not_fit_is_a_row(fp32: Path, prepared: Prepared) -> None:
    image_bytes = 4 * np.prod(prepared.images("val").shape[1:])
    size = int(torch.cuda.mem_get_info()[1] / image_bytes) + 1  # more images than the GPU can hold
    params = Benchmark(
        launches=1,
        max_busy_pct=100,
        max_repeats=0,
        warmup=1,
        batches=[Batch(size=1, rounds=2), Batch(size=size, rounds=2)],
        seed=0,
        energy_seconds=0.1,
    )
    measured = benchmark.run([fp32], prepared.path, params, 1, CUDA).recipes[fp32.name].measured
    assert measured
    assert list(measured.latency_ms) == [1]
    assert "out of memory" in measured.unavailable_batches[size]
