from pathlib import Path

import pytest
import torch
from timm.data import ImageNetInfo
from torch import Tensor, nn

from vitquant.errors import VitquantError
from vitquant.models import imagenet_head

IDS = ImageNetInfo().label_names()
URL = "https://example.org/head.pth"


def write_head(file: Path, **changes: Tensor) -> Path:
    """The official layout for a backbone of width 4: row r holds r, r + 0.1, …, its bias is -r."""
    rows = torch.arange(1000.0)
    torch.save({"weight": rows[:, None] + torch.arange(8) / 10, "bias": -rows, **changes}, file)
    return file


def test_the_rows_of_the_classes_in_their_order(tmp_path: Path) -> None:
    assert IDS[0] == "n01440764"  # tench
    assert IDS[999] == "n15075141"  # toilet tissue
    head = nn.Linear(8, 4)
    imagenet_head.load(write_head(tmp_path / "head.pth"), [IDS[n] for n in (999, 0, 500, 3)], head, URL)
    assert head.weight[:, 0].tolist() == [999, 0, 500, 3]
    assert head.bias.tolist() == [-999, 0, -500, -3]
    assert torch.allclose(head.weight[1], torch.arange(8) / 10)


def test_classes_that_are_not_of_imagenet(tmp_path: Path) -> None:
    classes = [IDS[0], "cat", "dog", "fish", "bird"]
    with pytest.raises(VitquantError, match="WordNet ids; cat, dog, fish and 1 more are not: use head: probe$"):
        imagenet_head.load(write_head(tmp_path / "head.pth"), classes, nn.Linear(8, 5), URL)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weight": torch.zeros(1000, 20)}, r"weight is \(1000, 20\), expected \(1000, 8\)"),
        ({"bias": torch.zeros(21)}, r"bias is \(21,\), expected \(1000,\)"),
        ({"bias": torch.full((1000,), float("nan"))}, "bias holds NaN or infinity"),
    ],
)
def test_a_head_of_another_shape_or_broken(tmp_path: Path, changes: dict[str, Tensor], says: str) -> None:
    with pytest.raises(VitquantError, match=f"^model.head_url: {URL}: {says}"):
        imagenet_head.load(write_head(tmp_path / "head.pth", **changes), IDS[:2], nn.Linear(8, 2), URL)


def test_a_file_that_is_no_head(tmp_path: Path) -> None:
    torch.save({"cls_token": torch.zeros(1, 1, 4)}, tmp_path / "head.pth")
    with pytest.raises(VitquantError, match=r"head.pth: weight is missing, expected \(1000, 8\)"):
        imagenet_head.load(tmp_path / "head.pth", IDS[:2], nn.Linear(8, 2), URL)
    with pytest.raises(VitquantError, match="head.pth is missing"):
        (tmp_path / "head.pth").unlink()
        imagenet_head.load(tmp_path / "head.pth", IDS[:2], nn.Linear(8, 2), URL)


def test_a_head_of_half_precision_and_one_that_is_too_large_for_float32(tmp_path: Path) -> None:
    half = write_head(tmp_path / "head.pth", bias=torch.arange(1000).half())
    head = nn.Linear(8, 2)
    imagenet_head.load(half, [IDS[3], IDS[999]], head, URL)
    assert head.bias.tolist() == [3, 999]
    assert head.bias.dtype == torch.float32
    large = write_head(tmp_path / "large.pth", bias=torch.full((1000,), 1e300, dtype=torch.float64))
    with pytest.raises(VitquantError, match="bias holds NaN or infinity"):
        imagenet_head.load(large, IDS[:2], head, URL)
