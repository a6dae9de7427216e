import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitquant.errors import VitquantError
from vitquant.models import checkpoint, position, weights
from vitquant.models.vit import ViTClassifier, create_backbone
from vitquant.params import Dinov2Model, FileModel, TimmModel

SMALL = "vit_small_patch14_dinov2"
DINOV2 = Dinov2Model.model_construct(source="dinov2", name=SMALL)
FILE = FileModel(source="file", name="test_vit", path="weights.pth")
SAFETENSORS = FileModel(source="file", name="test_vit", path="weights.safetensors")


def random_state(name: str, side: int) -> dict[str, Tensor]:
    """Weights of which every one matters: timm starts LayerScale at almost nothing, and biases at zero."""
    generator = torch.Generator().manual_seed(0)
    state = create_backbone(name, side).state_dict()
    return {key: 0.05 * torch.randn(value.shape, generator=generator) for key, value in state.items()}


def resized(plane: np.ndarray, grid: int, scale: float) -> np.ndarray:
    """Bicubic interpolation (Keys, a = -0.75) of a square (side, side, width), the border repeated, as matrices."""
    side = len(plane)
    matrix = np.zeros((grid, side))
    for i in range(grid):
        at = (i + 0.5) / scale - 0.5
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            x = abs(at - tap)
            near = 1.25 * x**3 - 2.25 * x**2 + 1
            far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[i, min(max(tap, 0), side - 1)] += near if x <= 1 else far
    return np.einsum("ip,jq,pqw->ijw", matrix, matrix, plane)


def test_an_official_dinov2_checkpoint_gives_the_same_tokens(tmp_path: Path) -> None:
    source = create_backbone(SMALL, 518).eval()
    state = random_state(SMALL, 518)
    source.load_state_dict(state)
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, tmp_path / "backbone.pth")
    model = ViTClassifier(SMALL, 518, 3).eval()
    weights.load_into(model, DINOV2, tmp_path)
    images = torch.randn(1, 3, 518, 518)
    with torch.inference_mode():
        assert torch.equal(model.backbone.forward_features(images), source.forward_features(images))

    smaller = ViTClassifier(SMALL, 224, 3)
    weights.load_into(smaller, DINOV2, tmp_path)
    embedding = smaller.backbone.pos_embed.detach()
    assert embedding.shape == (1, 1 + 16 * 16, 384)
    assert torch.equal(embedding[:, 0], state["pos_embed"][:, 0])
    expected = resized(state["pos_embed"][0, 1:].reshape(37, 37, 384).double().numpy(), 16, 16.1 / 37)
    assert np.abs(embedding[0, 1:].reshape(16, 16, 384).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("grid", [3, 5, 9])
def test_position_embeddings_are_resized_by_the_formula(grid: int, offset: float) -> None:
    cls, patches = torch.randn(1, 1, 4), torch.randn(1, 49, 4)
    result = position.resize(cls, patches, grid, offset)
    expected = resized(patches.reshape(7, 7, 4).numpy(), grid, (grid + offset) / 7)
    assert torch.equal(result[:, :1], cls)
    assert np.abs(result[0, 1:].reshape(grid, grid, 4).numpy() - expected).max() < 1e-5
    assert torch.equal(position.resize(cls, patches, 7, offset), torch.cat([cls, patches], dim=1))


def wrapped(state: dict[str, Tensor]) -> dict[str, dict]:
    """A backbone's weights as training scripts leave them."""
    head = {"head.weight": torch.ones(5, 64), "head.bias": torch.ones(5)}
    return {
        "plain": {**state, **head},
        "model": {"model": {**state, **head}, "epoch": 3},
        "state_dict": {"state_dict": {f"module.{key}": value for key, value in {**state, **head}.items()}},
        "compiled": {f"_orig_mod.{key}": value for key, value in {**state, **head}.items()},
        "compiled and distributed": {f"_orig_mod.module.{key}": value for key, value in {**state, **head}.items()},
        "lightning": {"state_dict": {f"model.{key}": value for key, value in {**state, **head}.items()}},
        "self-supervised": {"model": {f"teacher.backbone.{key}": value for key, value in state.items()}},
        "classifier": {**{f"backbone.{key}": value for key, value in state.items()}, **head},
    }


@pytest.mark.parametrize("layout", wrapped({}))
def test_checkpoints_of_torch_save(tmp_path: Path, layout: str) -> None:
    state = random_state("test_vit", 64)
    torch.save(wrapped(state)[layout], tmp_path / "weights.pth")
    model = ViTClassifier("test_vit", 64, 5)
    head = model.head.weight.clone()
    weights.load_into(model, FILE, tmp_path)
    loaded = model.backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert torch.equal(model.head.weight, head)


def test_safetensors_of_the_file_and_timm_sources_and_of_half_precision(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in random_state("test_vit", 64).items()}
    save_file(state, tmp_path / "weights.safetensors")
    for params in (SAFETENSORS, TimmModel(source="timm", name="test_vit.r160_in1k")):
        model = ViTClassifier(params.name, 64, 5)
        weights.load_into(model, params, tmp_path)
        loaded = model.backbone.state_dict()
        assert all(torch.equal(loaded[key], value.float()) for key, value in state.items())


def test_a_file_of_another_grid_is_resized_as_timm_does(tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed

    state = random_state("test_vit", 160)
    save_file(state, tmp_path / "weights.safetensors")
    model = ViTClassifier("test_vit", 64, 5)
    weights.load_into(model, SAFETENSORS, tmp_path)
    assert torch.equal(model.backbone.pos_embed, resample_abs_pos_embed(state["pos_embed"], [4, 4]))


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    torch.save(random_state("vit_tiny_patch16_224", 64), tmp_path / "weights.pth")
    with pytest.raises(
        VitquantError, match="weights.pth does not fit the model: .*blocks.6.* is unknown; .*and .* more"
    ):
        weights.load_into(ViTClassifier("test_vit", 64, 5), FILE, tmp_path)
    state = random_state("test_vit", 64)
    state["cls_token"] = torch.zeros(1, 1, 32)
    del state["norm.bias"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(VitquantError, match=r"norm.bias is missing; cls_token is \(1, 1, 32\), expected \(1, 1, 64\)"):
        weights.load_into(ViTClassifier("test_vit", 64, 5), FILE, tmp_path)


def test_an_unknown_prefix_is_named(tmp_path: Path) -> None:
    torch.save(
        {f"my.vit.{key}": value for key, value in random_state("test_vit", 64).items()}, tmp_path / "weights.pth"
    )
    with pytest.raises(VitquantError, match=r"all its names begin with 'my.vit.': save them without that"):
        weights.load_into(ViTClassifier("test_vit", 64, 5), FILE, tmp_path)


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (torch.ones(64, dtype=torch.int8), "int8"),
        (torch.ones(64, dtype=torch.complex64), "complex64"),
        (torch.ones(64).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.ones(64).to_sparse(), "sparse"),
        (torch.ones(64, device="meta"), "without values, on the meta device"),
        (torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8), "qint8"),
    ],
)
def test_tensors_that_are_no_floating_point_weights(tmp_path: Path, odd: Tensor, kind: str) -> None:
    torch.save({**random_state("test_vit", 64), "norm.bias": odd}, tmp_path / "weights.pth")
    with pytest.raises(VitquantError, match=f"weights.pth: norm.bias is {kind}: weights must be plain tensors of FP64"):
        weights.load_into(ViTClassifier("test_vit", 64, 5), FILE, tmp_path)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    state = random_state("test_vit", 64)
    state["norm.bias"][3] = float("nan")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(VitquantError, match="norm.bias holds NaN or infinity"):
        weights.load_into(ViTClassifier("test_vit", 64, 5), FILE, tmp_path)


class Code:
    """Its pickle makes a directory when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    file, trap = tmp_path / "weights.pth", tmp_path / "trap"
    torch.save({"model": Code(trap)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(VitquantError, match="would have to run code to load; refusing it: convert .* to safetensors"):
        checkpoint.read(file)
    assert not trap.exists()
    torch.load(file, weights_only=False)  # the trap does work
    assert trap.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"\x80\x02", b"PK\x03\x04 half an archive", b"\x00" * 99]
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_files_that_are_broken(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VitquantError, match=f"{name} is not a readable .*dvc repro -f fetch") as error:
        checkpoint.read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_checkpoint_cut_in_the_middle(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(random_state("test_vit", 64), file)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(VitquantError, match="weights.pth is not a readable checkpoint of torch.save"):
        checkpoint.read(file)


def test_files_without_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    with pytest.raises(VitquantError, match="weights.pth is missing: run `dvc repro -f fetch`"):
        checkpoint.read(file)
    for content, says in (({"epoch": 3, "net": {}}, "the keys epoch, net"), ([1, 2], "a list"), ({}, "a dict")):
        torch.save(content, file)
        with pytest.raises(VitquantError, match=f"weights.pth holds no named tensors but {says}: save"):
            checkpoint.read(file)


def test_tensors_of_more_values_than_the_file_holds(tmp_path: Path) -> None:
    """4 TB, which must not be asked for."""
    file = tmp_path / "weights.pth"
    torch.save({**random_state("test_vit", 64), "norm.bias": torch.zeros(1).expand(10**12)}, file)
    with pytest.raises(VitquantError, match="norm.bias is of 1000000000000 values, of which the file holds fewer"):
        weights.load_into(ViTClassifier("test_vit", 64, 5), FILE, tmp_path)


def test_a_checkpoint_that_grows_when_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"norm.bias": torch.zeros(10**6)}, tmp_path / "plain.pth")
    packed = tmp_path / "weights.pth"
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for member in plain.infolist():
            zipped.writestr(member.filename, plain.read(member))
    assert torch.load(packed, weights_only=True)["norm.bias"].shape == (10**6,)  # PyTorch itself takes it
    with pytest.raises(VitquantError, match=r"weights.pth would unpack to 4\d{6} bytes; refusing it: .* by torch.save"):
        checkpoint.read(packed)


def test_many_weights_that_share_their_values_are_not_copied(tmp_path: Path) -> None:
    """Each unknown name would take 2 MB as FP32: they are told by their names, in the memory that the file takes."""
    values = torch.zeros(500_000, dtype=torch.float16)
    file = tmp_path / "weights.pth"
    torch.save({f"part.{number}": values for number in range(1000)}, file)
    read = checkpoint.read(file)
    assert {tensor.data_ptr() for tensor in read.values()} == {read["part.0"].data_ptr()}
    with pytest.raises(VitquantError, match=r"does not fit the model: all its names begin with 'part.'"):
        weights.load_into(ViTClassifier("test_vit", 64, 5), FILE, tmp_path)


def test_doubles_that_are_infinite_as_float32(tmp_path: Path) -> None:
    state = random_state("test_vit", 64)
    state["norm.bias"] = torch.full((64,), 1e300, dtype=torch.float64)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(VitquantError, match="norm.bias holds NaN or infinity"):
        weights.load_into(ViTClassifier("test_vit", 64, 5), FILE, tmp_path)


def test_keys_without_end_are_not_shown(tmp_path: Path) -> None:
    torch.save({7: 1, "x" * 1000: 2, ("a", "b"): 3}, tmp_path / "weights.pth")
    with pytest.raises(VitquantError, match="holds no named tensors but the keys of type int, x{50}, of type tuple:"):
        checkpoint.read(tmp_path / "weights.pth")
