"""vitquant: what post-training quantization really does to a Vision Transformer, on this machine.

`vitquant.quantize`, `vitquant.save` and `vitquant.load`, of vitquant.quantized, are for a model in memory.
"""

import importlib
from typing import Any

OF_QUANTIZED = ("Quantized", "load", "quantize", "save")  # whose types are in __init__.pyi


def __getattr__(name: str) -> Any:
    """What needs PyTorch comes when it is asked for: vitquant.runtime does without."""
    if name in OF_QUANTIZED:
        return getattr(importlib.import_module("vitquant.quantized"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
