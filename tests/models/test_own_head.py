"""The classifier of a checkpoint: the same predictions as timm's own, from the image files on."""

import csv
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import CLASSES, write_images
from families import FAMILIES, strengthen
from PIL import Image
from recipes.vision_transformer import vit_of_attention, vit_of_the_mean, vit_of_the_normed_mean, vit_of_two_tokens
from safetensors.torch import save_file
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config
from torch import Tensor, nn

from vitquant import recipes
from vitquant.artifact import open_artifact
from vitquant.data import folder
from vitquant.data.prepare import prepare
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.models import baseline, biases, download, layouts, own_head, weights
from vitquant.models.vit import ViTClassifier, preprocessing
from vitquant.params import FileModel, Params, TimmModel
from vitquant.recipes.vitquant_gpu.token_head import use_token_head, wanted

SYNSETS = ImageNetInfo().label_names()


def strong(model: nn.Module) -> nn.Module:
    """Weights of which every one matters, so that classes differ from image to image."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        spread = 1.0 if "norm" in name and name.endswith("weight") else parameter.shape[-1] ** -0.5
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def classifier(rows: int, width: int = 64) -> dict[str, Tensor]:
    """Row r of the weight holds r, and its bias is -r."""
    numbers = torch.arange(float(rows))
    return {"head.weight": numbers[:, None].expand(rows, width), "head.bias": -numbers}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 files: of 6 classes, 33 or 34 in each."""
    root = write_images(tmp_path_factory.mktemp("pictures"), 33)
    for label in CLASSES[:2]:
        (root / label / "again.png").write_bytes((root / label / "000.png").read_bytes())
    return root


@pytest.fixture
def study(params: Params, pictures: Path) -> Params:
    """All as timm has it, of the checkpoint's own classifier."""
    data = params.data.model_copy(
        update={"path": str(pictures), "resize": "auto", "crop": "auto", "interpolation": "auto", "val_fraction": 0.5}
    )
    return params.model_copy(update={"data": data, "head": "own"})


def build(study: Params, folder_: Path) -> tuple[Path, Prepared]:
    """Fetch the weights, prepare the images, and build the FP32 artifact."""
    (folder_ / "raw").mkdir()
    download.fetch(study.model, study.head, folder_ / "raw")
    samples = folder.samples(study.data, Path(study.data.path))
    prepare(samples, preprocessing(study.model.name, study.data), study.data, folder_ / "processed")
    prepared = Prepared(folder_ / "processed")
    baseline.build(study, folder_ / "raw", prepared, folder_ / "baseline", threads=2)
    return folder_ / "baseline", prepared


def test_predictions_are_timms_to_the_image(study: Params, tmp_path: Path) -> None:
    model: Any = strong(timm.create_model("test_vit", num_classes=len(CLASSES)))
    torch.save({"arch": "test_vit", "epoch": 3, "state_dict": model.state_dict()}, tmp_path / "checkpoint.pth.tar")
    own = FileModel(source="file", name="test_vit", path=str(tmp_path / "checkpoint.pth.tar"))
    artifact, prepared = build(study.model_copy(update={"model": own}), tmp_path)
    transform = create_transform(**resolve_model_data_config(model))
    with (prepared.path / "manifest.csv").open(newline="") as file:
        rows = [(row["path"], row["split"]) for row in csv.DictReader(file)]
    assert len(rows) == 200
    predictor, predicted = recipes.load(artifact), set()
    for split in ("train", "val"):
        files = [Path(study.data.path, path) for path, part in rows if part == split]
        with torch.inference_mode():
            expected = model(torch.stack([transform(Image.open(file).convert("RGB")) for file in files])).numpy()
        found = predictor(np.array(prepared.images(split)))
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
        assert np.abs(found - expected).max() < 0.1 * expected.std()
        predicted |= set(found.argmax(axis=1).tolist())
    assert len(predicted) > 1
    details = open_artifact(artifact).spec.details
    assert details == {"classifier": {"classes": len(CLASSES), "rows": "the folders' names, sorted"}}


def loaded(name: str, model: Any, classes: list[str], listed: list[str] | None = None) -> ViTClassifier:
    """The weights of `model`, a classifier, through the study's own classifier."""
    own = ViTClassifier(name, 64, len(classes)).requires_grad_(False).eval()
    backbone, classifier = layouts.parts(biases.join_weights(model.state_dict()), own.backbone.state_dict().keys())
    own.backbone.load_state_dict(backbone)
    own_head.attach(own, classifier, classes, listed)
    return own


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("test_vit", "class"),
        (vit_of_the_mean.__name__, "mean"),
        (vit_of_the_normed_mean.__name__, "own"),
        (vit_of_attention.__name__, "own"),
        (vit_of_two_tokens.__name__, "two"),
    ],
)
def test_logits_are_timms_whatever_the_classifier_reads(name: str, pooling: str) -> None:
    model: Any = strong(timm.create_model(name, num_classes=5, img_size=64)).requires_grad_(False)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    own = loaded(name, model, list("abcde"))
    assert own.pooling == pooling
    outputs, expected = own(images), model(images)
    assert torch.allclose(outputs[:, :5], expected, atol=1e-5 * expected.abs().max())
    assert torch.equal(outputs[:, 5:], own.features(images)[:, :64])
    if pooling in ("own", "two"):
        with pytest.raises(UnsupportedError, match="more than the class token and the mean patch token"):
            use_token_head(own)
        return
    use_token_head(own)
    spec: Any = SimpleNamespace(classes=list("abcde"), pooling=pooling)
    assert torch.allclose(wanted(own(images), spec), outputs, atol=1e-5 * outputs.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_each_familys_logits_are_timms(family: str) -> None:
    name = FAMILIES[family].name
    model: Any = timm.create_model(name, num_classes=5, img_size=64).requires_grad_(False).eval()
    strengthen(model)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    own = loaded(name, model, list("abcde"))
    expected = model(images)
    assert torch.allclose(own(images)[:, :5], expected, atol=1e-4 * expected.abs().max())


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_features_alone_as_native_code_gives_them(fp32: Path, pooling: Any) -> None:
    model = ViTClassifier("test_vit", 64, 0, pooling).requires_grad_(False).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = model.backbone.forward_features(images)
    given = model(images)
    use_token_head(model)
    spec = open_artifact(fp32).spec.model_copy(update={"classes": [], "pooling": pooling})
    expected = tokens[:, 0] if pooling == "class" else tokens[:, 1:].mean(dim=1)
    assert torch.equal(given, expected)
    assert torch.allclose(wanted(model(images), spec), expected, atol=1e-6)


def test_a_classifier_of_the_class_token_and_the_mean_patch_token() -> None:
    own = ViTClassifier("test_vit", 64, 2)
    own_head.attach(own, classifier(2, 128), ["a", "b"], None)
    assert own.pooling == "tokens"


@pytest.mark.parametrize(
    ("count", "classes", "listed", "rows"),
    [
        (3, ["cat", "dog", "eel"], None, [0, 1, 2]),
        (3, ["cat", "dog", "eel"], ["eel", "cat", "dog"], [1, 2, 0]),
        (4, ["cat", "eel"], ["eel", "ape", "cat", "dog"], [2, 0]),
        (1000, [SYNSETS[n] for n in (3, 0, 999)], None, [3, 0, 999]),
        (1000, ["b", "a"], [f"{n}" for n in range(998)] + ["a", "b"], [999, 998]),
    ],
)
def test_a_row_for_each_class(count: int, classes: list[str], listed: list[str] | None, rows: list[int]) -> None:
    own = ViTClassifier("test_vit", 64, len(classes))
    own_head.attach(own, classifier(count), classes, listed)
    assert own.head.weight[:, 0].tolist() == rows
    assert own.head.bias.tolist() == [-row for row in rows]


@pytest.mark.parametrize(
    ("count", "classes", "listed", "says"),
    [
        (
            10,
            ["a", "b"],
            None,
            r"own classifier has 10 classes, and the data has 2 \(a, b\): name a file by model.classes",
        ),
        (1000, ["n01440764", "dog"], None, "own classifier has 1000 classes, and the data has 2 "),
        (3, ["a", "b"], ["a", "b"], "model.classes: it lists 2 classes, and the classifier has 3: write one a line"),
        (2, ["a", "c"], ["a", "b"], "1 of the data's 2 classes are not among its 2: c: rename the folders"),
    ],
)
def test_classes_that_are_others(count: int, classes: list[str], listed: list[str] | None, says: str) -> None:
    with pytest.raises(VitquantError, match=says) as error:
        own_head.attach(ViTClassifier("test_vit", 64, 2), classifier(count), classes, listed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            {},
            r"no classifier of one linear layer, head.weight \(found: none\): take the model without it",
        ),
        (classifier(2) | {"head_dist.weight": torch.ones(2, 64)}, "more than one linear layer .head_dist.weight."),
        ({"head.mlp.weight": torch.ones(2)}, "no classifier of one linear layer, head.weight .found: head.mlp.weight"),
        (classifier(2, 32), "own classifier reads 32 features, and the model gives 64: check the model's name"),
        (classifier(2) | {"head.bias": torch.ones(3)}, r"head.bias is \(3,\), expected \(2,\)"),
        (classifier(2) | {"head.bias": torch.full((2,), torch.nan)}, "head holds NaN or infinity"),
    ],
)
def test_a_classifier_that_is_none(tensors: dict[str, Tensor], says: str) -> None:
    with pytest.raises(VitquantError, match=f"^model.path: mine.pth: the weights.*{says}"):
        own_head.attach(ViTClassifier("test_vit", 64, 2), tensors, ["a", "b"], None, "model.path: mine.pth")


def test_a_file_of_classes(tmp_path: Path) -> None:
    assert own_head.read_classes(tmp_path / "none") is None
    (tmp_path / "classes").write_text("crème brûlée\nb\n\n", "utf-8")
    assert own_head.read_classes(tmp_path / "classes") == ["crème brûlée", "b"]
    (tmp_path / "classes").write_bytes("\N{BYTE ORDER MARK}crème brûlée \r\nb\t\r\n".encode())
    assert own_head.read_classes(tmp_path / "classes") == ["crème brûlée", "b"]
    (tmp_path / "classes").write_text("a\nb\na\n")
    with pytest.raises(VitquantError, match="model.classes: a stand there more than once"):
        own_head.read_classes(tmp_path / "classes")
    (tmp_path / "classes").write_bytes(b"\xff")
    with pytest.raises(VitquantError, match="model.classes: the file is no UTF-8 text"):
        own_head.read_classes(tmp_path / "classes")


class Hub(SimpleHTTPRequestHandler):
    """Files as a model hub serves them: with the headers that its client asks for."""

    def log_message(self, *_: object) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("ETag", '"0"')
        self.send_header("X-Repo-Commit", "0" * 40)
        super().end_headers()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A model hub on this machine: its root folder, and its address."""
    (tmp_path / "hub").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(tmp_path / "hub"))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield tmp_path / "hub", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_classifier_that_timm_publishes_comes_along(hub: tuple[Path, str], tmp_path: Path) -> None:
    root, address = hub
    model: Any = strong(timm.create_model("test_vit", num_classes=1000))
    place = root / "timm/test_vit.r160_in1k/resolve/main"
    place.mkdir(parents=True)
    save_file(model.state_dict(), place / "model.safetensors")
    (tmp_path / "classes").write_text("\n".join(SYNSETS))
    script = (
        "import sys; from pathlib import Path\n"
        "from vitquant.models import download; from vitquant.params import TimmModel\n"
        "model = TimmModel(source='timm', name='test_vit.r160_in1k', classes=sys.argv[2])\n"
        "download.fetch(model, 'own', Path(sys.argv[1]))"
    )
    raw = tmp_path / "raw"
    raw.mkdir()
    own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    subprocess.run([sys.executable, "-c", script, raw, tmp_path / "classes"], env={**os.environ, **own}, check=True)
    found = ViTClassifier("test_vit", 160, 2).requires_grad_(False).eval()
    params = TimmModel(source="timm", name="test_vit.r160_in1k")
    classes = [SYNSETS[207], SYNSETS[8]]
    tensors = weights.load_into(found, params, raw)
    own_head.attach(found, tensors, classes, own_head.read_classes(raw / download.CLASSES_FILE))
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        assert torch.allclose(found(images)[:, :2], model(images)[:, [207, 8]], atol=1e-4)
