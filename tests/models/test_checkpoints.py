"""Checkpoints as people have them, each written by what writes it: training scripts, wrappers, transformers."""

import argparse
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.utils import CheckpointSaver
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group

from vitquant.errors import VitquantError
from vitquant.models import checkpoint, download, layouts, own_head, weights
from vitquant.models.vit import ViTClassifier
from vitquant.params import FileModel

CLASSES = list("abcde")


def random(model: nn.Module) -> nn.Module:
    """Weights of which every one matters."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture
def model() -> Any:
    return random(timm.create_model("test_vit", num_classes=5, img_size=64))


def loaded(file: Path, name: str = "test_vit", side: int = 64) -> ViTClassifier:
    """Through `fetch`, as a study reads it, its own classifier on it."""
    raw = file.parent / "raw"
    raw.mkdir()
    params = FileModel(source="file", name=name, path=str(file))
    download.fetch(params, "own", raw)
    found = ViTClassifier(name, side, 5).requires_grad_(False).eval()
    own_head.attach(found, weights.load_into(found, params, raw), CLASSES, None)
    return found


def check(found: ViTClassifier, model: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(found(images)[:, :5], model(images), atol=1e-5)


def test_a_compiled_distributed_model(model: nn.Module, tmp_path: Path) -> None:
    init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        wrapped: Any = torch.compile(nn.parallel.DistributedDataParallel(model))
        torch.save({"model": wrapped.state_dict(), "step": 7}, tmp_path / "last.pt")
    finally:
        destroy_process_group()
    names = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    assert all(name.startswith("_orig_mod.module.") for name in names)
    check(loaded(tmp_path / "last.pt"), model)


def test_what_timms_training_script_saves(model: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    arguments = argparse.Namespace(model="test_vit", num_classes=5, lr=1e-3, mean=None)
    saver = CheckpointSaver(model, optimizer, args=arguments, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(3, metric=71.5)
    check(loaded(tmp_path / "last.pth.tar"), model)


@pytest.mark.parametrize("name", checkpoint.ATTRIBUTE_DICT)
def test_what_lightning_saves(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module, _, kind = name.rpartition(".")
    settings = type(kind, (dict,), {"__module__": module})
    stand_in = ModuleType(module)
    setattr(stand_in, kind, settings)
    parents = module.split(".")
    with monkeypatch.context() as patch:
        for depth in range(1, len(parents)):
            patch.setitem(sys.modules, ".".join(parents[:depth]), ModuleType(".".join(parents[:depth])))
        patch.setitem(sys.modules, module, stand_in)
        content = {
            "epoch": 3,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {f"model.{key}": tensor for key, tensor in model.state_dict().items()},
            "hyper_parameters": settings(lr=1e-3, names=["a"]),
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": ""}},
        }
        torch.save(content, tmp_path / "epoch=3.ckpt")
    check(loaded(tmp_path / "epoch=3.ckpt"), model)


class Runs:
    """What would run code when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("it ran",)


def test_what_would_run_code_is_refused_still(model: nn.Module, tmp_path: Path, capfd: Any) -> None:
    for content in ({"args": Runs()}, {"args": argparse.Namespace(model=Runs())}):
        torch.save({"state_dict": model.state_dict(), **content}, tmp_path / "mine.pth")
        with pytest.raises(VitquantError, match="mine.pth holds more than tensors and would have to run code to load"):
            checkpoint.read(tmp_path / "mine.pth")
    assert "it ran" not in capfd.readouterr().out


def transformers_state(prefix: str, registers: int, own: bool) -> dict[str, Tensor]:
    """What `save_pretrained` gives of a DINOv2 of two blocks, 64 wide, by its names; and its own classifier."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, 64),
        "embeddings.mask_token": (1, 64),
        "embeddings.position_embeddings": (1, 17, 64),
        "embeddings.patch_embeddings.projection.weight": (64, 3, 16, 16),
        "embeddings.patch_embeddings.projection.bias": (64,),
        "layernorm.weight": (64,),
        "layernorm.bias": (64,),
    } | ({"embeddings.register_tokens": (1, registers, 64)} if registers else {})
    for block in range(2):
        layers = {f"attention.attention.{part}": (64, 64) for part in ("query", "key", "value")}
        layers |= {"attention.output.dense": (64, 64), "mlp.fc1": (128, 64), "mlp.fc2": (64, 128)}
        path = f"encoder.layer.{block}"
        shapes |= {f"{path}.layer_scale{number}.lambda1": (64,) for number in (1, 2)}
        shapes |= {f"{path}.norm{number}.{part}": (64,) for number in (1, 2) for part in ("weight", "bias")}
        shapes |= {f"{path}.{name}.weight": shape for name, shape in layers.items()}
        shapes |= {f"{path}.{name}.bias": shape[:1] for name, shape in layers.items()}
    state = {f"{prefix}{name}": 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    head = {"classifier.weight": torch.randn(5, 128, generator=generator), "classifier.bias": torch.ones(5)}
    return state | (head if own else {})


def transformers_forward(state: dict[str, Tensor], prefix: str, images: Tensor, registers: int) -> Tensor:
    """What transformers' Dinov2Model and Dinov2ForImageClassification compute, by its documented structure."""

    def of(name: str) -> Tensor:
        return state[f"{prefix}{name}"]

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, of(f"{name}.weight"), of(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (64,), of(f"{name}.weight"), of(f"{name}.bias"), 1e-6)

    kernel = of("embeddings.patch_embeddings.projection.weight")
    patches = F.conv2d(images, kernel, of("embeddings.patch_embeddings.projection.bias"), stride=16)
    x = torch.cat([of("embeddings.cls_token").expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    x = x + of("embeddings.position_embeddings")
    if registers:
        x = torch.cat([x[:, :1], of("embeddings.register_tokens").expand(len(images), -1, -1), x[:, 1:]], dim=1)
    for block in range(2):
        path = f"encoder.layer.{block}"
        y = norm(x, f"{path}.norm1")
        query, key, value = (
            linear(y, f"{path}.attention.attention.{part}").unflatten(2, (2, 32)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{path}.attention.output.dense") * of(f"{path}.layer_scale1.lambda1")
        y = linear(F.gelu(linear(norm(x, f"{path}.norm2"), f"{path}.mlp.fc1")), f"{path}.mlp.fc2")
        x = x + y * of(f"{path}.layer_scale2.lambda1")
    x = norm(x, "layernorm")
    pooled = torch.cat([x[:, 0], x[:, 1 + registers :].mean(dim=1)], dim=1)
    return F.linear(pooled, state["classifier.weight"], state["classifier.bias"])


@pytest.mark.parametrize(("registers", "prefix"), [(0, "dinov2."), (4, "dinov2_with_registers.")])
def test_dinov2_of_transformers(tmp_path: Path, registers: int, prefix: str) -> None:
    (tmp_path / "mine").mkdir()
    state = transformers_state(prefix, registers, own=True)
    save_file(state, tmp_path / "mine/model.safetensors")
    options = {"embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "init_values": 1.0}
    if registers:
        options |= {"reg_tokens": registers, "no_embed_class": True}
    backbone = timm.models.VisionTransformer(img_size=64, patch_size=16, num_classes=0, **options).eval()
    own, classifier = layouts.parts(checkpoint.read(tmp_path / "mine/model.safetensors"))
    backbone.load_state_dict(own)
    found = ViTClassifier("test_vit", 64, 5).eval()
    found.backbone = backbone
    own_head.attach(found, classifier, CLASSES, None)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = transformers_forward(state, prefix, images, registers)
    assert torch.allclose(found(images)[:, :5], expected, atol=1e-5 * float(expected.abs().max()))


def test_a_folder_of_transformers_is_told_its_file(tmp_path: Path) -> None:
    save_file(transformers_state("", 0, own=False), tmp_path / "model.safetensors")
    with pytest.raises(VitquantError, match="is not a file: name the weights file to use, the one in it, model.safe"):
        download.fetch(FileModel(source="file", name="test_vit", path=str(tmp_path)), "probe", tmp_path)


def test_another_input_size_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    larger = random(timm.create_model("test_vit", num_classes=5, img_size=160))
    save_file(larger.state_dict(), tmp_path / "mine.safetensors")
    loaded(tmp_path / "mine.safetensors")
    said = "the weights are for another input size: position embeddings are resized from 10 × 10 patches to 4 × 4"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_tiny_patch16_224", "it is 192 wide with 12 blocks, the model 64 wide with 6 blocks; "),
        ("resnet10t", "holds no ViT by timm's names, but bn1.bias, bn1.running_mean, "),
    ],
)
def test_a_checkpoint_of_another_architecture(tmp_path: Path, name: str, says: str) -> None:
    save_file(timm.create_model(name, num_classes=5).state_dict(), tmp_path / "mine.safetensors")
    with pytest.raises(VitquantError, match=says) as error:
        loaded(tmp_path / "mine.safetensors")
    assert "\n" not in str(error.value)
