"""The number types that a GPU may lack."""

import torch

from vitquant.errors import UnsupportedError

NEEDED = {"tfloat32": (8, 0), "bfloat16": (8, 0), "float8": (8, 9)}  # NVIDIA, CUDA Programming Guide, table 27
NAMES = {"tfloat32": "TF32", "bfloat16": "BF16", "float8": "FP8"}


def check_capability(dtype: str, device: torch.device) -> None:
    """See that the GPU has the type.

    Raises:
        UnsupportedError: it has not.
    """
    if device.type == "cuda" and dtype in NEEDED:
        needed, found = NEEDED[dtype], torch.cuda.get_device_capability(device)
        if found < needed:
            raise UnsupportedError(
                f"{NAMES[dtype]} needs a GPU of compute capability {needed[0]}.{needed[1]}, this is "
                f"{found[0]}.{found[1]}"
            )
