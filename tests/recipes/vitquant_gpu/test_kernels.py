"""Triton's kernels, run: check_*.py in a process of their own, since a process interprets all of them or none."""

import os
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent


def test_each_kernel_computes_its_definition() -> None:
    """On a GPU, or by Triton's interpreter."""
    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    options = ["-q", "-p", "no:cacheprovider", f"--confcutdir={HERE}"]
    command = [sys.executable, "-m", "pytest", *options, *sorted(HERE.glob("check_*.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
