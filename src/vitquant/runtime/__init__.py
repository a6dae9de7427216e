"""What runs an artifact of vitquant-int8 with NumPy and safetensors: native code, compiled for this CPU, in one call.

    from vitquant import runtime

    classifier = runtime.load("models/recipes/vitquant-int8")
    logits = classifier(["cell.png"])

Nothing here imports PyTorch or timm.
"""

from vitquant.runtime.classifier import Classifier, load

__all__ = ["Classifier", "load"]
