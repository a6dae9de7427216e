"""A model in memory: what `vitquant.quantize` gives is the recipes', and takes and gives what the model does."""

import copy
import doctest
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from conftest import draw_image
from recipes.vision_transformer import vit_of_attention, vit_of_parallel_things, vit_of_the_normed_mean
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vitquant
from vitquant import quantized, recipes
from vitquant.artifact import open_artifact
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.models import in_memory

REPOSITORY = Path(__file__).parents[1]
NAME = "test_vit"


def strong(model: nn.Module) -> nn.Module:
    """Weights of which every one matters."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        spread = 1.0 if "norm" in name and name.endswith("weight") else parameter.shape[-1] ** -0.5
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return model


def made(name: str, classes: int) -> Any:
    """A ViT of this name, which its configuration says, too."""
    model: Any = strong(timm.create_model(name, num_classes=classes, img_size=64))
    model.pretrained_cfg = {**model.pretrained_cfg, "architecture": name}
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    """In training mode, as people have it."""
    return made(NAME, 7).train()


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    """Photographs as the model takes them, float32 (12, 3, 64, 64)."""
    images = [draw_image("disc", seed).resize((64, 64)) for seed in range(12)]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2)) / 127.5 - 1


def cosine(ours: Tensor, theirs: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(ours, theirs).min())


@torch.inference_mode()
def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """In evaluation mode; the mode is put back."""
    training = model.training
    result: Tensor = model.eval()(images)
    model.train(training)
    return result


def test_a_classifier_saved_and_loaded_gives_the_same(model: Any, inputs: Tensor, tmp_path: Path) -> None:
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    small = vitquant.quantize(model, inputs)
    found = small(inputs)
    assert found.shape == (12, 7)
    assert found.dtype == torch.float32
    assert cosine(found, outputs(model, inputs)) > 0.99
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    (found * nn.Parameter(torch.ones(7))).sum().backward()  # as an input of what is trained on it
    vitquant.save(small, tmp_path / "small")
    vitquant.save(small, tmp_path / "small")  # again, over an artifact
    again = vitquant.load(tmp_path / "small")
    assert torch.equal(again(inputs), found)
    assert f"{NAME}, {open_artifact(tmp_path / 'small').spec.recipe}" in repr(again)
    assert np.array_equal(recipes.load(tmp_path / "small").forward(inputs)[:, :7].numpy(), found.numpy())


@pytest.mark.parametrize("name", [NAME, vit_of_the_normed_mean.__name__, vit_of_attention.__name__])
def test_a_backbone_without_a_classifier(inputs: Tensor, name: str) -> None:
    backbone = made(name, 0)
    small = vitquant.quantize(backbone, inputs, "dynamic-int8-per-channel")
    assert small(inputs).shape == (12, 64)
    assert cosine(small(inputs), outputs(backbone, inputs)) > 0.98


def test_the_named_recipe_and_a_method_with_options(model: Any, inputs: Tensor) -> None:
    named = vitquant.quantize(model, inputs, "dynamic-int8-per-channel")
    assert named.artifact.spec.method == "dynamic_int8"
    options = {"method": "dynamic_int8", "per_channel": True, "keep_float": ["head"], "engine": "auto"}
    assert torch.equal(vitquant.quantize(model, inputs, options)(inputs), named(inputs))


def test_the_names_are_those_of_params_yaml() -> None:
    study = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["recipes"]
    assert {name: study.get(name) for name in quantized.NAMED} == quantized.NAMED
    assert set(quantized.FASTEST) <= set(quantized.NAMED)
    assert set(quantized.FASTEST_ON_GPU) <= set(quantized.NAMED_ON_GPU)
    for name, recipe in quantized.NAMED_ON_GPU.items():
        recipes.check_options(name, recipes.Recipe.model_validate(recipe))


def test_calibration_in_every_form_is_the_same(model: Any, inputs: Tensor) -> None:
    loader = DataLoader(TensorDataset(inputs, torch.zeros(12)), batch_size=5)
    photographs = [draw_image("disc", seed).resize((64, 64)) for seed in range(12)]
    forms: list[Any] = [inputs, inputs.double(), loader, list(inputs.split(5)), photographs, np.stack(photographs)]
    results = [vitquant.quantize(model, form, "dynamic-int8-smooth") for form in forms]
    weights = [result.artifact.spec.files["model.safetensors"].sha256 for result in results]
    assert weights[:4] == weights[:1] * 4
    for result in results[4:]:
        assert cosine(result(inputs), results[0](inputs)) > 0.999  # files are resized first, to 67 pixels


def test_what_cannot_take_the_model_is_passed_over(model: Any, inputs: Tensor) -> None:
    odd = made(vit_of_parallel_things.__name__, 7)
    small = vitquant.quantize(odd, inputs)
    assert small.artifact.spec.recipe != "vitquant-int8"
    assert cosine(small(inputs), outputs(odd, inputs)) > 0.95
    with pytest.raises(UnsupportedError, match="^vitquant-int8: "):
        vitquant.quantize(odd, inputs, "vitquant-int8")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"recipe": "vitquant_int7"}, "recipe: unknown name 'vitquant_int7': on cpu there are fp32, "),
        ({"recipe": {"precision": "int8"}}, "names no method: write it as"),
        ({"images": torch.rand(2, 3, 32, 32)}, r"must be float \(N, 3, 64, 64\), .*: not \(2, 3, 32, 32\)"),
        ({"recipe": {"method": "dynamic_int8", "engine": 3}}, "^recipe: "),
        ({"recipe": ["fp32"]}, "^recipe: give one, by its name or as a mapping: not list"),
        (
            {"images": torch.zeros(2, 3, 64, 64, dtype=torch.uint8)},
            r"must be float \(N, 3, H, W\), .*: not torch.uint8",
        ),
        ({"images": torch.rand(2, 3, 64, 64) / torch.eye(64)}, r"calibration image 0 \(from 0\) holds NaN or infinity"),
        ({"images": None}, "^calibration images: NoneType is none of their forms: give "),
        ({"images": Path("images")}, "^calibration images: PosixPath is none of their forms: give "),
        ({"images": [Path("/none.png")]}, "^/none.png: No such file or directory$"),
        ({"model": "test_vit"}, "^'test_vit' is a name: give the model itself, timm.create_model"),
        ({"model": nn.Identity()}, "^Identity is no ViT of timm's"),
        ({"images": []}, "there are no calibration images"),
        ({"images": torch.rand(0, 3, 64, 64)}, "there are no calibration images"),
        ({"model": nn.Linear(2, 2)}, "^Linear is no ViT of timm's"),
    ],
)
def test_what_is_refused(model: Any, inputs: Tensor, change: dict[str, Any], says: str) -> None:
    with pytest.raises(VitquantError, match=says) as error:
        vitquant.quantize(**{"model": model, "images": inputs} | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_what_has_been_put_around_a_model_is_taken_off(model: Any, inputs: Tensor, wrap: Any) -> None:
    model.blocks[0].eval()  # as people freeze a part
    small = vitquant.quantize(wrap(model), inputs, "fp32")
    assert torch.equal(small(inputs), vitquant.quantize(model, inputs, "fp32")(inputs))
    assert (model.training, model.blocks[0].training, model.blocks[1].training) == (True, False, True)
    with pytest.raises(VitquantError, match="^the model is quantized already"):
        vitquant.quantize(small, inputs)


@pytest.mark.parametrize(
    "name", ["hiera_tiny_224", "levit_128s", "crossvit_tiny_240", "mvitv2_tiny", "swin_tiny_patch4_window7_224"]
)
def test_models_that_do_not_say_their_size(name: str) -> None:
    backbone: Any = timm.create_model(name, num_classes=0)
    inputs = torch.randn(2, *backbone.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    copied, found, preprocessing = in_memory.copied(backbone, inputs)
    in_memory.compare(backbone, copied, inputs, name)
    assert (found, preprocessing.crop) == (name, inputs.shape[-1])


def test_statistics_of_batch_norms_are_kept() -> None:
    backbone: Any = timm.create_model("levit_128s", num_classes=0)
    inputs = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    small = vitquant.quantize(backbone, inputs, "dynamic-int8-per-channel")
    assert cosine(small(inputs), outputs(backbone, inputs)) > 0.95


def test_weights_that_are_no_numbers_are_named(inputs: Tensor) -> None:
    broken = made(NAME, 7)
    broken.blocks[1].mlp.fc1.weight.data[3, 3] = torch.nan
    with pytest.raises(VitquantError, match="^blocks.1.mlp.fc1.weight holds NaN or infinity"):
        vitquant.quantize(broken, inputs)


@pytest.mark.parametrize("recipe", ["vitquant-int8", "dynamic-int8", "openvino-int8-static", "fp32"])
def test_pixels_that_are_no_numbers_give_none(model: Any, inputs: Tensor, recipe: str) -> None:
    small = vitquant.quantize(model, inputs, recipe)
    for flaw in (torch.nan, torch.inf):
        broken = inputs.clone()
        broken[3, 1, 5, 5] = flaw
        black = inputs.clone()
        black[3] = 0
        expected = small(black)
        expected[3] = torch.nan
        assert torch.equal(small(broken).nan_to_num(nan=9e9), expected.nan_to_num(nan=9e9))
    assert small(inputs[:0]).shape == (0, 7)


@pytest.mark.parametrize("recipe", ["fp32-compiled", "dynamic-int8-smooth", "vitquant-int8"])
def test_another_default_type(model: Any, inputs: Tensor, recipe: str) -> None:
    expected = vitquant.quantize(model, inputs, recipe)(inputs)
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            found = vitquant.quantize(model, inputs, recipe)(inputs)
            assert torch.get_default_dtype() == dtype
        finally:
            torch.set_default_dtype(torch.float32)
        assert found.dtype == torch.float32
        assert torch.allclose(found, expected, atol=1e-5)


def test_copies_share_what_files_are_refused(model: Any, inputs: Tensor, tmp_path: Path) -> None:
    small = vitquant.quantize(model, inputs, "fp32")
    expected, copied = small(inputs), copy.deepcopy(nn.Sequential(small))
    for write in (pickle.dumps, lambda module: torch.save(module, tmp_path / "small.pt")):
        with pytest.raises(VitquantError, match="is not pickled: write it by vitquant.save"):
            write(small)
    del small
    assert torch.equal(copied(inputs), expected)
    vitquant.save(copied[0], tmp_path / "small")  # its folder is still there
    with pytest.raises(VitquantError, match="^device: 'gpu' is none of PyTorch's"):
        vitquant.load(tmp_path / "small", "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(VitquantError, match="^device: cuda, but PyTorch finds no CUDA device"):
            vitquant.load(tmp_path / "small", "cuda")


@pytest.mark.parametrize("images", [np.zeros((1, 3, 64, 64), np.float32), torch.zeros(1, 3, 64, 64).byte(), None])
def test_inputs_of_another_type(model: Any, inputs: Tensor, images: Any) -> None:
    with pytest.raises(VitquantError, match="^the model takes preprocessed images, a tensor of floats, not "):
        vitquant.quantize(model, inputs, "fp32")(images)


def test_a_cache_that_cannot_be_made(
    model: Any, inputs: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path / "file/cache"))
    for recipe in ("vitquant-int8", "static-int8"):
        with pytest.raises(VitquantError, match=f"^{tmp_path}/file/cache cannot be made") as error:
            vitquant.quantize(model, inputs, recipe)
        assert "\n" not in str(error.value)


def test_a_model_that_was_changed_is_refused(inputs: Tensor) -> None:
    other = made(NAME, 7)
    other.blocks[1].mlp.act = nn.ReLU()
    with pytest.raises(VitquantError, match="does not compute what timm.create_model.* does with its weights"):
        vitquant.quantize(other, inputs, "fp32")
    del other.blocks[1]
    with pytest.raises(VitquantError, match="its layers are others"):
        vitquant.quantize(other, inputs, "fp32")


def test_an_input_of_another_size_and_a_folder_that_is_no_artifact(model: Any, inputs: Tensor, tmp_path: Path) -> None:
    small = vitquant.quantize(model, inputs, "fp32")
    with pytest.raises(VitquantError, match=r"the model takes \(N, 3, 64, 64\), not \(1, 3, 32, 64\)"):
        small(torch.rand(1, 3, 32, 64))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/recipe.json").write_text("{}")
    with pytest.raises(VitquantError, match="mine is there, and is no whole artifact alone: name a new folder"):
        vitquant.save(small, tmp_path / "mine")
    vitquant.save(small, tmp_path / "small")
    with pytest.raises(VitquantError, match="sub would lie in an artifact: name another folder"):
        vitquant.save(vitquant.load(tmp_path / "small"), tmp_path / "small/sub")
    (tmp_path / "small/thesis.tex").write_text("mine")
    with pytest.raises(VitquantError, match="small is there, and is no whole artifact alone: name a new folder"):
        vitquant.save(small, tmp_path / "small")
    assert (tmp_path / "small/thesis.tex").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    vitquant.save(small, tmp_path / "empty")
    assert torch.equal(vitquant.load(tmp_path / "empty")(inputs), small(inputs))
    with pytest.raises(VitquantError, match="a VisionTransformer cannot be saved: quantize it first"):
        vitquant.save(model, tmp_path / "other")
    with pytest.raises(VitquantError, match="is not an artifact directory"):
        vitquant.load(tmp_path / "other")


def test_the_readmes_lines_and_the_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall("```pycon\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    runner = doctest.DocTestRunner()
    runner.run(doctest.DocTestParser().get_doctest(block, {}, "README.md", "README.md", 0))
    assert runner.summarize(verbose=False) == (0, block.count(">>>"))
    assert doctest.testmod(quantized).failed == 0


def test_the_package_itself_needs_no_pytorch() -> None:
    program = "import sys, vitquant; sys.exit('torch' in sys.modules or hasattr(vitquant, 'nothing'))"
    subprocess.run([sys.executable, "-c", program], check=True)
