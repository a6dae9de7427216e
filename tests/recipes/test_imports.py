"""What a process loads that only runs an artifact."""

import subprocess
import sys


def test_engines_with_files_of_their_own_load_no_timm() -> None:
    """It takes longer to import than their artifacts to load."""
    program = """
import sys
from vitquant import recipes
for name in ("onnxruntime", "openvino", "vitquant_int8"):
    recipes.method(name)
print("timm" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
