"""The machine and the software that a number belongs to."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from vitquant.cpu import cores, quota
from vitquant.measure import nvml
from vitquant.results.environment import Environment, Machine

ISA_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "onnxruntime", "openvino", "nncf", "zentorch")  # or not installed
CODE = ("src", "dvc.yaml", "params.yaml", "pyproject.toml", "uv.lock")


def machine() -> Machine:
    """What decides whether a measurement still stands: the host, its processor, memory, and the libraries."""
    model, flags = _processor()
    return Machine(
        host=platform.node(),
        cpu=model,
        isa=[flag for flag in ISA_FLAGS if flag in flags],
        cores=cores(),
        cpu_quota=quota(),
        gpu=nvml.name(),
        memory_gb=round(psutil.virtual_memory().total / 1e9),
        os=platform.system(),
        python=platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
    )


def environment(**facts: Any) -> Environment:
    """This machine, the code's commit, and what else is known of a measurement: `Environment`'s keys."""
    commit = git_commit() or "unknown: not a git checkout"
    return Environment(**{**machine().model_dump(), **facts, "git_commit": commit})


def git_commit() -> str | None:
    """The commit of the code, `+changes` where tracked code differs from it.

    Where there is no git checkout the environment's VITQUANT_COMMIT is believed; None without it.
    """
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}+changes" if _git("status", "--porcelain", "--", *CODE) else commit
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("VITQUANT_COMMIT")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> tuple[str, set[str]]:
    """The processor's name and its instruction-set flags, from /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", platform.machine()), set(fields.get("flags", fields.get("Features", "")).split())
