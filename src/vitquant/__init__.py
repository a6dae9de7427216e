"""vitquant: what post-training quantization really does to a Vision Transformer, on this machine.

`vitquant.quantize`, `vitquant.save` and `vitquant.load`, of vitquant.quantized, are for a model in memory.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitquant.quantized import load as load
    from vitquant.quantized import quantize as quantize
    from vitquant.quantized import save as save

OF_QUANTIZED = ("load", "quantize", "save")


def __getattr__(name: str) -> Any:
    """What needs PyTorch comes when it is asked for: vitquant.runtime does without."""
    if name in OF_QUANTIZED:
        return getattr(importlib.import_module("vitquant.quantized"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
