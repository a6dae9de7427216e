"""From results to findings: of the study, and of what was measured on GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant.analysis import estimates
from vitquant.analysis.estimates import Evidence
from vitquant.analysis.findings import Device, Findings, Roofline, Study
from vitquant.analysis.load import Arrays, Results
from vitquant.errors import VitquantError, printable
from vitquant.results.benchmark import Benchmarked
from vitquant.results.gpu import Gpu, GpuStudy, array_name


@contextmanager
def possible() -> Iterator[None]:
    """Raise VitquantError where what is done inside finds a number in the results that cannot be."""
    try:
        yield
    except (ArithmeticError, ValueError) as error:  # pydantic's are ValueErrors
        said = printable(error)[:200]
        raise VitquantError(f"the results hold a number that cannot be ({said}): run `dvc repro`") from None


def analyse(results: Results) -> Findings:
    """All that the results say."""
    benchmark, profile, tails = results.benchmark, results.profile, results.tails
    roofline = Roofline(
        products_per_image=benchmark.products_per_image,
        register_products_per_s=benchmark.register_products_per_s,
        unavailable=benchmark.unavailable_register_rate,
    )
    study = Study(
        facts=results.facts,
        environment=benchmark.environment,
        conditions=benchmark.conditions,
        trial=benchmark.trial,
        repeated=benchmark.repeated,
        allocator=benchmark.allocator,
        idle_w=benchmark.idle_w,
        unavailable_energy=benchmark.unavailable_energy,
        roofline=roofline,
        recipes=estimates.recipes(results.evidence, results.prepared.labels("val"), roofline),
        tails=estimates.tails(tails.timed) if tails and tails.timed else None,
        unavailable_tails=tails.unavailable if tails else None,
        profile=profile.recipes if profile else {},
        profile_batch=profile.batch if profile else None,
    )
    return Findings(study=study, gpus=[analyse_device(gpu, arrays) for gpu, arrays in results.gpus])


def analyse_device(gpu: Gpu, arrays: Arrays) -> Device:
    """All that the results of one GPU say; `arrays` lie beside them."""
    studies = {name: _gpu_study(name, study, arrays) for name, study in gpu.studies.items()}
    return Device(device=gpu.device, quantize_dynamic=gpu.quantize_dynamic, studies=studies)


def _gpu_study(name: str, study: GpuStudy, arrays: Arrays) -> Study:
    evidence = {recipe: _evidence(name, recipe, found, arrays) for recipe, found in study.recipes.items()}
    labels: NDArray[np.int64] = _array(arrays, array_name(name, "labels"), np.int64, np.empty(0, np.int64))
    roofline = Roofline(products_per_image=study.products_per_image, unavailable="it is measured on the CPU only")
    return Study(
        facts=study.study,
        environment=study.environment,
        date=study.date,
        conditions=study.conditions,
        repeated=study.repeated,
        idle_w=study.idle_w,
        unavailable_energy=study.unavailable_energy,
        copy_ms=study.copy_ms,
        roofline=roofline,
        recipes=estimates.recipes(evidence, labels, roofline),
        profile=study.profile,
    )


def _evidence(study: str, name: str, found: Benchmarked, arrays: Arrays) -> Evidence:
    measured = found.measured
    if not measured:
        return Evidence(found.traits, unavailable={"benchmark": found.unavailable or "no reason was given"})
    unavailable = {f"batch {size}": reason for size, reason in measured.unavailable_batches.items()}
    if measured.unavailable_accuracy:
        unavailable["accuracy"] = measured.unavailable_accuracy
    if measured.process_memory_bytes is None:
        unavailable["memory_process"] = "NVML shows no memory by process here"
    return Evidence(
        traits=found.traits,
        measured=measured,
        device="cuda",
        logits=_array(arrays, array_name(study, "logits", name), np.float32, None) if measured.logits_sha256 else None,
        cosine=_array(arrays, array_name(study, "cosine", name), np.float32, None),
        unavailable=unavailable,
    )


def _array(arrays: Arrays, name: str, dtype: type[np.generic], missing: Any) -> Any:
    return np.asarray(arrays[name], dtype=dtype) if name in arrays else missing
