"""Biases joined to their layer, and checkpoints of other families under the names that people have them by."""

from pathlib import Path

import pytest
import timm
import torch
from families import FAMILIES, SIDE, strengthen
from safetensors.torch import save_file
from torch import Tensor, nn

from vitquant.errors import VitquantError
from vitquant.models import biases, weights
from vitquant.models.vit import ViTClassifier
from vitquant.params import FileModel


def timms(name: str) -> nn.Module:
    """A small family's backbone as timm makes it, with weights of which every one matters."""
    backbone = timm.create_model(name, num_classes=0, img_size=SIDE).eval().requires_grad_(False)
    strengthen(backbone)
    return backbone


def loaded(name: str, state: dict[str, Tensor], folder: Path) -> nn.Module:
    """The backbone of a classifier that has read the weights from a file."""
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "weights.safetensors")
    model = ViTClassifier(name, SIDE, 3).eval().requires_grad_(False)
    weights.load_into(model, FileModel(source="file", name=name, path="weights.safetensors"), folder)
    return model.backbone


JOINED = [FAMILIES[name].name for name in ("DINOv3, qkv bias", "EVA-02", "BEiT", "Swin V2")]


@pytest.mark.parametrize("name", JOINED)
def test_a_joined_layer_computes_the_same_and_is_called(name: str) -> None:
    backbone, images = timms(name), torch.randn(2, 3, SIDE, SIDE)
    expected = backbone(images)
    biases.join(backbone)
    called = []
    for path, module in backbone.named_modules():
        if path.endswith("attn.qkv"):
            module.register_forward_hook(lambda *_: called.append(1))
    assert torch.allclose(backbone(images), expected, rtol=1e-4, atol=1e-4)
    assert called
    assert not [key for key in backbone.state_dict() if key.endswith(("q_bias", "v_bias"))]


@pytest.mark.parametrize("name", [*JOINED, *(FAMILIES[name].name for name in ("EVA-02, norms", "SigLIP", "Swin"))])
def test_a_checkpoint_in_timms_names_gives_timms_features(name: str, tmp_path: Path) -> None:
    backbone, images = timms(name), torch.randn(2, 3, SIDE, SIDE)
    state = backbone.state_dict() | {"head.weight": torch.ones(3, 3), "head.bias": torch.ones(3)}
    found = loaded(name, state, tmp_path)
    assert torch.allclose(found(images), backbone(images), rtol=1e-4, atol=1e-4)


def test_an_official_dinov3_checkpoint_is_read(tmp_path: Path) -> None:
    name, images = FAMILIES["DINOv3, qkv bias"].name, torch.randn(2, 3, SIDE, SIDE)
    backbone = timms(name)
    official = {"mask_token": torch.zeros(1, 128), "rope_embed.periods": torch.ones(16)}
    for key, tensor in backbone.state_dict().items():
        path = key.rpartition(".")[0]
        if key.endswith("q_bias"):
            value = backbone.state_dict()[f"{path}.v_bias"]
            official[f"{path}.qkv.bias"] = torch.cat([tensor, torch.zeros_like(tensor), value])
            official[f"{path}.qkv.bias_mask"] = torch.ones(3 * len(tensor))
        elif not key.endswith("v_bias"):
            short = key.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma")
            official[short.replace("gamma_2", "ls2.gamma")] = tensor
    found = loaded(name, official, tmp_path)
    assert torch.allclose(found(images), backbone(images), rtol=1e-4, atol=1e-4)


def test_another_familys_checkpoint_is_one_line(tmp_path: Path) -> None:
    state = timms(FAMILIES["CLIP"].name).state_dict()
    with pytest.raises(
        VitquantError, match="does not fit the model: .*: check model.name and the weights file"
    ) as error:
        loaded(FAMILIES["EVA-02"].name, state, tmp_path)
    assert "\n" not in str(error.value)
