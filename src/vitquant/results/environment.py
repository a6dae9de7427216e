"""The machine and the software that numbers belong to, and how busy that machine was."""

from pydantic import NonNegativeFloat, PositiveInt

from vitquant.results.form import Form

Range = tuple[int, int]
"""The least and the greatest value that was seen."""


class Machine(Form):
    """What decides whether a measurement still stands."""

    host: str
    cpu: str
    isa: list[str]
    cores: PositiveInt
    cpu_quota: float | None = None
    """CPU time per time that passes; None without a limit."""
    gpu: str
    memory_gb: int
    os: str
    python: str
    torch: str
    torchvision: str
    timm: str
    numpy: str
    onnxruntime: str
    openvino: str
    nncf: str
    zentorch: str = "not installed"


class Environment(Machine):
    """A machine during a measurement; on a GPU with what NVML says."""

    threads: PositiveInt | None = None
    cpu_capability: str | None = None
    """The instruction set that PyTorch's own kernels use."""
    cuda: str | None = None
    compute_capability: str | None = None
    gpu_memory_gb: int | None = None
    driver: str | None = None
    power_limit_w: int | None = None
    clock_sm_mhz: Range | None = None
    clock_memory_mhz: Range | None = None
    temperature_c: Range | None = None
    power_w: Range | None = None
    throttling: list[str] | None = None
    """Why the clock was held down, as far as that was seen."""
    git_commit: str


class Conditions(Form):
    """What may explain a slow phase of a benchmark."""

    load_average: tuple[NonNegativeFloat, NonNegativeFloat]
    """Processes that ran or waited, over a minute: before and after."""
    cpu_mhz: tuple[NonNegativeFloat, NonNegativeFloat] | None = None
    """The mean clock of the cores before and after, where the kernel tells it."""
    steal_pct: NonNegativeFloat
    """Of the cores' time during the benchmark: what a virtual machine's host gave to others."""
    others_pct: NonNegativeFloat
    """Of the cores' time during the benchmark: what processes other than the benchmark's took."""
    seconds: NonNegativeFloat

    @property
    def busy_pct(self) -> float:
        """Of the cores' time: what the benchmark could not have."""
        return self.steal_pct + self.others_pct
