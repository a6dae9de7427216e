"""The kernels, run: check_kernels.py in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import torch

FILE = Path(__file__).with_name("check_kernels.py")


def test_each_kernel_computes_its_definition() -> None:
    """On a GPU, or by Triton's interpreter."""
    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", str(FILE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
