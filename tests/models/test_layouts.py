"""Checkpoints in the layouts that training scripts and other libraries give them, and what is said of those that fit
not."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from families import FAMILIES, strengthen
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from vitquant.errors import VitquantError
from vitquant.models import loading, own_head, weights
from vitquant.models.vit import ViTClassifier
from vitquant.params import FileModel

SIDE = 64


def made(name: str = "test_vit", classes: int = 5, side: int = SIDE, seed: int = 0) -> nn.Module:
    model: nn.Module = timm.create_model(name, num_classes=classes, img_size=side).requires_grad_(False).eval()
    strengthen(model, seed)
    return model


def loaded(content: Any, folder: Path, name: str = "test_vit", side: int = SIDE) -> tuple[ViTClassifier, Any]:
    """The model with what was saved of `content`, and the classifier beside it."""
    torch.save(content, folder / "weights.pth")
    model = ViTClassifier(name, side, 5).requires_grad_(False).eval()
    return model, weights.load_into(model, FileModel(source="file", name=name, path="my/best.pth"), folder)


def below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


MINE, OTHER = (made(seed=seed).state_dict() for seed in (0, 1))
BACKBONE = {name: tensor for name, tensor in MINE.items() if not name.startswith("head.")}
LOSS = {"criterion.weight": torch.ones(5)}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"state_dict": OTHER, "state_dict_ema": MINE}, "state_dict_ema is taken, and not state_dict"),
        ({"model": OTHER, "model_ema": below("module.", MINE)}, "model_ema is taken, and not model"),
        ({"model_ema": None, "model": OTHER, "state_dict": MINE}, "state_dict is taken, and not model"),
        ({"model_state_dict": MINE, "epoch": 3}, "model_state_dict is taken"),
        ({"model": {"module": MINE}}, "model.module is taken"),
        ({"net": MINE}, "net is taken"),
        ({"student": OTHER, "teacher": below("module.backbone.", MINE)}, "teacher is taken, and not student"),
        (below("student.backbone.", OTHER) | below("teacher.backbone.", MINE), "left out, as beside it: student.back"),
        ({"state_dict": below("model.", MINE) | LOSS}, "left out, as beside it: criterion.weight"),
        ({"state_dict": below("net.", MINE) | below("ema_model.", OTHER)}, "left out, as beside it: ema_model.cls"),
        (below("backbone.", BACKBONE) | below("classifier.", made().head.state_dict()), ""),
        (
            {**MINE, "steps": torch.tensor(3), "index": torch.zeros(2, 2, dtype=torch.int64)},
            "as integers: steps, index",
        ),
    ],
)
def test_what_training_scripts_save(content: Any, says: str, tmp_path: Path, capsys: Any) -> None:
    model, classifier = loaded(content, tmp_path)
    assert says in capsys.readouterr().err
    found = model.backbone.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in BACKBONE.items())
    assert torch.equal(classifier["head.weight"], MINE["head.weight"])


@pytest.mark.parametrize("name", ["levit_128s", "xcit_nano_12_p16_224", "volo_d1_224"])
def test_models_with_batch_norms(name: str, tmp_path: Path) -> None:
    source: Any = made(name, side=224)
    model, classifier = loaded(source.state_dict(), tmp_path, name, 224)
    images = torch.randn(1, 3, 224, 224)
    expected = source.forward_head(source.forward_features(images), pre_logits=True)
    assert torch.allclose(model.features(images), expected, atol=1e-4 * float(expected.abs().max()))
    if name.startswith("volo"):  # timm adds half of the auxiliary logits
        with pytest.raises(VitquantError, match=r"more than one linear layer \(aux_head.bias"):
            own_head.attach(model, classifier, list("abcde"), None)
    halved = loading.cast(model.state_dict(), torch.bfloat16)
    assert all(not key.endswith("num_batches_tracked") or value.dtype == torch.int64 for key, value in halved.items())


def test_indices_that_old_swin_files_hold(tmp_path: Path) -> None:
    name = FAMILIES["Swin"].name
    state = made(name).state_dict()
    index = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.int64)}
    found = loaded(state | index, tmp_path, name)[0].backbone.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.items())


def open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A vision tower of timm's as open_clip's state_dict has it, with a text tower."""
    names = (
        ("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding"), ("cls_token", "class_embedding"),
        ("norm_pre", "ln_pre"), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"), (".norm", ".ln_"), ("blocks.", "transformer.resblocks."),
    )  # fmt: skip
    theirs = {"visual.proj": torch.ones(128, 8), "logit_scale": torch.tensor(1.0), "ln_final.weight": torch.ones(8)}
    for key, tensor in state.items():
        name = f"ln_post{key.removeprefix('norm')}" if key.startswith("norm.") else key
        for ours, its in names:
            name = name.replace(ours, its)
        theirs[f"visual.{name}"] = tensor[0, 0] if key == "cls_token" else tensor[0] if key == "pos_embed" else tensor
    return theirs


@pytest.mark.parametrize("layout", ["visual.", "visual.trunk.", "module.visual."])
def test_clip_as_timm_loads_it(layout: str, tmp_path: Path) -> None:
    name = FAMILIES["CLIP"].name
    state = made(name, classes=0).state_dict()
    content = below("visual.trunk.", state) if layout == "visual.trunk." else open_clip(state)
    if layout.startswith("module."):
        content = below("module.", content)
    timms: Any = timm.create_model(name, num_classes=0, img_size=SIDE).eval()
    timms.load_state_dict(checkpoint_filter_fn(dict(content), timms), strict=False)
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        expected = timms(images)
        found = loaded(content, tmp_path, name)[0].backbone(images)
    assert torch.equal(found, expected)
    assert all(torch.equal(timms.state_dict()[key], tensor) for key, tensor in state.items())


def test_dinov2_with_registers_as_its_authors_save_it(tmp_path: Path) -> None:
    name = FAMILIES["DINOv2, registers"].name
    state = made(name, classes=0).state_dict()
    theirs = {key: tensor for key, tensor in state.items() if key != "reg_token"}
    theirs |= {"register_tokens": state["reg_token"], "mask_token": torch.zeros(1, 128)}
    theirs["pos_embed"] = torch.cat([torch.ones_like(state["cls_token"]), state["pos_embed"]], dim=1)
    theirs["cls_token"] = state["cls_token"] - 1
    found = loaded(theirs, tmp_path, name)[0].backbone.state_dict()
    assert all(torch.allclose(found[key], tensor, atol=1e-6) for key, tensor in state.items())


def deit_of_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A distilled DeiT of timm's as transformers' DeiTForImageClassificationWithTeacher has it."""
    names = (
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"), ("pos_embed", "embeddings.position_embeddings"),
        ("cls_token", "embeddings.cls_token"), ("dist_token", "embeddings.distillation_token"),
        (".attn.proj", ".attention.output.dense"), (".mlp.fc1", ".intermediate.dense"), (".mlp.fc2", ".output.dense"),
        (".norm1", ".layernorm_before"), (".norm2", ".layernorm_after"), ("blocks.", "encoder.layer."),
    )  # fmt: skip
    theirs: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.startswith("head"):
            theirs[key.replace("head_dist", "distillation_classifier").replace("head.", "cls_classifier.")] = tensor
            continue
        name = f"layernorm.{key.removeprefix('norm.')}" if key.startswith("norm.") else key
        for ours, its in names:
            name = name.replace(ours, its)
        kinds = ("query", "key", "value") if ".attn.qkv" in name else ()
        for kind, part in zip(kinds, tensor.chunk(3), strict=False):
            theirs["deit." + name.replace("attn.qkv", f"attention.attention.{kind}")] = part.clone()
        if not kinds:
            theirs[f"deit.{name}"] = tensor
    return theirs


def test_deit_of_transformers(tmp_path: Path) -> None:
    name = FAMILIES["DeiT, distilled"].name
    model: Any = made(name)
    model.distilled_training = False
    found, classifier = loaded(deit_of_transformers(model.state_dict()), tmp_path, name)
    own_head.attach(found, classifier, list("abcde"), None)
    images = torch.randn(2, 3, SIDE, SIDE)
    expected = model(images)
    assert torch.allclose(found(images)[:, :5], expected, atol=1e-5 * float(expected.abs().max()))


MEAN = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: t for name, t in BACKBONE.items()}
DINOV3 = {"embeddings.patch_embeddings.weight": torch.ones(64, 3, 16, 16), "layer.0.norm1.weight": torch.ones(64)}
CLIP = {"vision_model.embeddings.patch_embedding.weight": torch.ones(64, 3, 16, 16), "logit_scale": torch.ones(1)}
RESNET = timm.create_model("resnet10t", num_classes=5).state_dict()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (MEAN, "pooling of the mean of its patch tokens .*, and model.name pools one token .*: name a model that"),
        (DINOV3, "is of transformers' save_pretrained, and not its ViT, DeiT or DINOv2 .*: take model.source: timm"),
        (CLIP, "is of transformers' save_pretrained, and not its ViT, DeiT or DINOv2 .*: take model.source: timm"),
        (RESNET, "holds no ViT by timm's names, but .*: take a checkpoint of model.name"),
        (MINE | LOSS, "criterion.weight is unknown"),
        (below("backbone.", BACKBONE) | {"backbone.neck.weight": torch.ones(1)}, "neck.weight is unknown"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(content: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match=f"^model.path: my/best.pth: .*weights.pth .*{says}") as error:
        loaded(content, tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(VitquantError, match=says):
        weights.check_file(tmp_path / "weights.pth", "test_vit", SIDE)


def test_a_file_is_checked_without_a_study(tmp_path: Path) -> None:
    save_file(MINE, tmp_path / "mine.safetensors")
    assert weights.check_file(tmp_path / "mine.safetensors", "test_vit", SIDE).keys() == {"head.weight", "head.bias"}
    (tmp_path / "mine.safetensors").write_bytes((tmp_path / "mine.safetensors").read_bytes()[:-1000])
    with pytest.raises(VitquantError, match="mine.safetensors is not a readable safetensors file"):
        weights.check_file(tmp_path / "mine.safetensors", "test_vit", SIDE)
