"""What runs an artifact of vitquant-int8 without PyTorch and timm: native code, compiled for this CPU, in one call.

    from vitquant import runtime

    classifier = runtime.load("models/recipes/vitquant-int8")
    logits = classifier(["cell.png"])

It takes NumPy and safetensors, and pydantic and Pillow to read recipe.json and images.
"""

from vitquant.runtime.classifier import Classifier, load

__all__ = ["Classifier", "load"]
