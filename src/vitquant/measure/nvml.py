"""What NVIDIA's management library (NVML) says of the GPU: what it is, how it runs, who uses it, what it consumes.

The GPU is the first that this process may see (`CUDA_VISIBLE_DEVICES`), which is PyTorch's device 0.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pynvml

from vitquant.errors import UnsupportedError, VitquantError

THROTTLING = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "thermal (software)",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "thermal (hardware)",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power brake",
}


@contextmanager
def _opened() -> Iterator[Any]:
    """The GPU's handle, or None where there is no driver or no GPU."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        if visible.startswith("GPU-"):
            yield pynvml.nvmlDeviceGetHandleByUUID(visible)
        elif visible.isdigit() and int(visible) < pynvml.nvmlDeviceGetCount():
            yield pynvml.nvmlDeviceGetHandleByIndex(int(visible))
        else:
            yield None
    finally:
        pynvml.nvmlShutdown()


def name() -> str:
    """The GPU's name, or "none"."""
    with _opened() as handle:
        return "none" if handle is None else str(pynvml.nvmlDeviceGetName(handle))


def describe() -> dict[str, Any]:
    """The GPU's name, compute capability, memory in 10^9 bytes, driver, CUDA version and power limit in watts."""
    import torch

    with _opened() as handle:
        facts: dict[str, Any] = {
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            "cuda": torch.version.cuda or "none",
        }
        if torch.cuda.is_available():
            facts["compute_capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
            facts["gpu_memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9)
        if handle is not None:
            facts["driver"] = pynvml.nvmlSystemGetDriverVersion()
            limit = _ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
            facts["power_limit_w"] = None if limit is None else round(limit / 1000)
        return facts


def absent() -> str | None:
    """Why there is no GPU to measure, or None where there is one.

    Raises:
        VitquantError: there is a GPU, and PyTorch cannot use it.
    """
    import torch  # here, so that a machine's fingerprint is taken quickly

    if torch.cuda.is_available():
        return None
    with _opened() as handle:
        if handle is None:
            return "no CUDA device"
        driver = pynvml.nvmlSystemGetDriverVersion()
        gpu = pynvml.nvmlDeviceGetName(handle)
    raise VitquantError(
        f"{gpu}: PyTorch's CUDA {torch.version.cuda} cannot use it with driver {driver}: install a newer driver "
        "(https://docs.nvidia.com/deploy/cuda-compatibility), use a container image of an older CUDA, "
        "or set device: cpu in params.yaml"
    )


def check_idle() -> None:
    """See that no other process computes on the GPU.

    Raises:
        VitquantError: one does; it is named.
    """
    with _opened() as handle:
        processes = [] if handle is None else _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        others = [process.pid for process in processes if process.pid != os.getpid()]
        if others:
            raise VitquantError(
                f"the GPU is in use by {', '.join(map(_process, others))}, which would spoil the timing: "
                "end it, or go on with --busy-ok"
            )


class Monitor:
    """Watches clocks, temperature, power and throttling from `sample` to `sample`."""

    def __init__(self) -> None:
        self._ranges: dict[str, list[float]] = {}
        self._throttling: set[str] = set()

    def sample(self) -> None:
        """Look once."""
        with _opened() as handle:
            if handle is None:
                return
            for key, ask, unit in (
                ("clock_sm_mhz", lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM), 1),
                ("clock_memory_mhz", lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM), 1),
                ("temperature_c", lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU), 1),
                ("power_w", lambda: pynvml.nvmlDeviceGetPowerUsage(handle), 1000),
            ):
                value = _ask(ask)
                if value is not None:
                    low, high = self._ranges.get(key, (value / unit, value / unit))
                    self._ranges[key] = [min(low, value / unit), max(high, value / unit)]
            reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
            self._throttling |= {text for bit, text in THROTTLING.items() if reasons & bit}

    def summary(self) -> dict[str, Any]:
        """The lowest and the highest of each, and the reasons for throttling that were seen."""
        ranges = {key: tuple(map(round, values)) for key, values in self._ranges.items()}
        return {**ranges, "throttling": sorted(self._throttling)} if ranges else {}


def joules() -> float:
    """Joules that the GPU has consumed since its driver was loaded.

    Raises:
        UnsupportedError: NVML does not say.
    """
    with _opened() as handle:
        if handle is None:
            raise UnsupportedError("NVML finds no GPU")
        millijoules = _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    if millijoules is None:
        raise UnsupportedError("NVML does not tell this GPU's energy")
    return float(millijoules) / 1000


def process_memory(pid: int) -> int | None:
    """Bytes of GPU memory that a process holds, its CUDA context included; None where NVML does not say."""
    with _opened() as handle:
        processes = [] if handle is None else _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        return next((process.usedGpuMemory for process in processes if process.pid == pid), None)


def _ask(function: Any, *arguments: Any) -> Any:
    """NVML's answer, or None: not every GPU answers everything."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _process(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (process {pid})"
    except psutil.Error:
        return f"process {pid}"
