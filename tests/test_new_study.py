"""The study file that `vitquant study` writes: an ordinary one, of a person's own images and model."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from conftest import CLASSES
from safetensors.torch import save_file

from vitquant import experiment, inputs, new_study, params, recipes, yaml_files
from vitquant.cli import main
from vitquant.errors import VitquantError
from vitquant.models import vit
from vitquant.params import Params

DEFAULT = Path(__file__).parents[1] / "params.yaml"


def write(tmp_path: Path, **changes: Any) -> tuple[Params, str, Path]:
    """The study, read as `vitquant experiment` reads it, and what it is said to classify by."""
    file, why = new_study.write(new_study.Wanted(**changes), DEFAULT, tmp_path / "out")
    study = params.validate(experiment.merge(file, DEFAULT, ()), file)
    inputs.check(study, DEFAULT.with_name("dvc.yaml"))
    vit.check(study)
    recipes.check(study, file)
    return study, why, file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of a classifier of as many classes as there are folders."""
    save_file(timm.create_model("test_vit", num_classes=len(CLASSES)).state_dict(), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_a_checkpoint_whose_classifier_fits_the_folders(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    study, why, file = write(tmp_path, images=images, model="test_vit", weights=checkpoint)
    assert file.name == f"{study.study}.yaml"
    assert experiment.NAME.fullmatch(study.study)
    assert study.head == "own"
    assert "6 classes: the folders' names, sorted" in why
    assert (study.model.source, study.model.name) == ("file", "test_vit")
    assert inputs.paths(study) == {"data.path": images, "model.path": checkpoint}
    assert list(study.recipes) == list(new_study.QUICK)
    assert study.calibration.images == 32  # 60 images, of which 36 are of the train split, and a tenth is spare
    assert write(tmp_path, images=images, model="test_vit", weights=checkpoint)[2] == file  # the same again


def test_a_classifier_of_other_classes(images: Path, tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=9).state_dict(), tmp_path / "mine.pth")
    study, why, _ = write(tmp_path, images=images, model="test_vit", weights=tmp_path / "mine.pth")
    assert study.head == "probe"
    assert "--weights: /" in why
    assert (
        "mine.pth: the weights' own classifier has 9 classes, and the data has 6 (disc, noise, square and 3 more): "
        in why
    )
    assert why.endswith("--classes that has the classifier's classes in its order, one a line")
    listed = tmp_path / "classes"
    listed.write_text("\n".join(["a", "b", "c", *CLASSES]))
    study, why, _ = write(
        tmp_path, images=images, model="test_vit", weights=tmp_path / "mine.pth", classes=listed, name="listed"
    )
    assert study.head == "own"
    assert inputs.paths(study)["model.classes"] == listed
    listed.write_text("a\nb\n")
    with pytest.raises(VitquantError, match="--classes: it lists 2 classes, and the classifier has 9"):
        write(tmp_path, images=images, model="test_vit", weights=tmp_path / "mine.pth", classes=listed, name="wrong")


def test_weights_without_a_classifier_and_those_that_timm_publishes(images: Path, tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "mine.safetensors")
    study, why, _ = write(tmp_path, images=images, model="test_vit", weights=tmp_path / "mine.safetensors")
    assert (study.head, why) == ("probe", "head: probe, fitted on your images: the weights have no classifier")
    study, why, _ = write(tmp_path, images=images, model="vit_small_patch16_224.augreg_in21k_ft_in1k")
    assert (study.model.source, study.head) == ("timm", "probe")
    assert "has 1000 classes, and the data has 6" in why
    study, _, _ = write(tmp_path, images=images, model="vit_small_patch14_dinov2", head="features")
    assert (study.head, study.embedding.neighbours) == ("features", 20)


def test_recipes_by_their_names(images: Path, tmp_path: Path) -> None:
    def names(name: str, *wanted: str) -> list[str]:
        return list(write(tmp_path, images=images, model="test_vit", recipes=wanted, name=name)[0].recipes)

    assert names("one", "vitquant-int8") == ["fp32", "vitquant-int8"]
    assert names("all", "all") == list(yaml_files.read(DEFAULT)["recipes"])
    with pytest.raises(VitquantError, match="--recipes: there is no 'int7': there are all, fp32, "):
        names("none", "int7")


def test_an_edited_study_is_not_overwritten(images: Path, tmp_path: Path) -> None:
    _, _, file = write(tmp_path, images=images, model="test_vit", name="mine")
    file.write_text(file.read_text().replace("images: 32", "images: 16"))
    with pytest.raises(VitquantError, match="mine.yaml is there, and is another study: run it by `vitquant experiment"):
        write(tmp_path, images=images, model="test_vit", name="mine")
    assert "images: 16" in file.read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": Path("nowhere")}, "--images: nowhere is not a folder"),
        ({"model": "vit_base"}, "--model: timm has no ViT 'vit_base': did you mean .*vit_base_patch16_224, "),
        ({"model": "resnet18"}, "--model: 'resnet18' is of timm's module resnet: "),
        ({"weights": Path("nowhere.pth")}, "--weights: nowhere.pth is not a file: name the one to use"),
        ({"classes": Path("nowhere")}, "--classes: nowhere is not a file"),
        ({"name": "a b"}, "--name: 'a b': take letters, digits, - and _ alone"),
    ],
)
def test_what_is_not_there(images: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(VitquantError, match=says) as error:
        write(tmp_path, **({"images": images, "model": "test_vit"} | change))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], r"^--images: .*mine needs at least two class folders, found \[\]$"),
        (["1.png", "2.png"], r"^--images: .*mine needs at least two class folders, found \[\]$"),
        (["a/1.png", "b/2.png"], r"too few images to split .*each class needs 4.: a .1., b .1."),
        (["a/1.png", "b/readme.txt"], r"^--images: .*mine: no images in the class folders \['b'\]"),
        (
            [f"{place}/{name}.png" for place in ("train/a", "val/a", "val/b") for name in "1234"] + ["train/b/1.png"],
            r"the train split has too few images .each class needs 2.: b .1.",
        ),
    ],
)
def test_images_that_a_study_would_stop_at(images: Path, tmp_path: Path, files: list[str], says: str) -> None:
    (tmp_path / "mine").mkdir()
    for file in files:
        (tmp_path / "mine" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images / "disc/000.png", tmp_path / "mine" / file)
    with pytest.raises(VitquantError, match=says):
        write(tmp_path, images=tmp_path / "mine", model="test_vit")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("head", [None, "own", "probe", "features"])
@pytest.mark.parametrize("fault", ["truncated", "another model's"])
def test_weights_that_a_study_would_stop_at(
    images: Path, checkpoint: Path, tmp_path: Path, head: Any, fault: str
) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2] if fault == "truncated" else content)
    model = "test_vit" if fault == "truncated" else "test_vit2"
    says = {"truncated": "is not a readable safetensors file", "another model's": "does not fit the model"}[fault]
    with pytest.raises(VitquantError, match=f"^--weights: {checkpoint} {says}") as error:
        write(tmp_path, images=images, model=model, weights=checkpoint, head=head)
    assert "dvc" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("head", "classes", "says"),
    [
        ("probe", 6, "--classes: they are those of the weights' own classifier, which --head probe leaves out"),
        ("features", 6, "--classes: they are those of the weights' own classifier, which --head features leaves out"),
        (None, 0, "--weights: .*mine.safetensors: the weights have no classifier of one linear layer, head.weight"),
        ("own", 7, "--weights: .*mine.safetensors: the weights' own classifier has 7 classes, and the data has 6 "),
    ],
)
def test_classes_and_heads_that_do_not_go_together(
    images: Path, tmp_path: Path, head: Any, classes: int, says: str
) -> None:
    save_file(timm.create_model("test_vit", num_classes=classes).state_dict(), tmp_path / "mine.safetensors")
    (tmp_path / "classes").write_text("\n".join(CLASSES))
    listed = None if classes == 7 else tmp_path / "classes"
    with pytest.raises(VitquantError, match=f"^{says}"):
        write(
            tmp_path, images=images, model="test_vit", weights=tmp_path / "mine.safetensors", head=head, classes=listed
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "pooling", "refused"),
    [
        ("test_vit", "class", None),
        ("eva02_tiny_patch14_224", "own", None),  # its class token is not normalised
        ("vit_base_patch16_siglip_224", "own", "class"),
        ("swin_tiny_patch4_window7_224", "own", "mean"),
    ],
)
def test_embeddings_that_the_architecture_gives(
    images: Path, tmp_path: Path, model: str, pooling: str, refused: str | None
) -> None:
    study, _, file = write(tmp_path, images=images, model=model, head="features")
    assert study.embedding.pooling == pooling
    if refused:
        file.write_text(file.read_text().replace(f"pooling: {pooling}", f"pooling: {refused}"))
        says = f"^embedding.pooling: {model} (has no class token: take mean or own|gives no row of tokens: take own)$"
        with pytest.raises(VitquantError, match=says):
            experiment.run(file, DEFAULT, (), tmp_path / "results")
        yaml_files.write(tmp_path / "params.yaml", experiment.merge(file, DEFAULT, ()))
        result = CliRunner().invoke(main, ["--params", str(tmp_path / "params.yaml"), "check"])
        assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
        assert re.match(says, result.output.removeprefix("Error: ").strip())


def test_a_classifier_of_more_than_one_layer_is_left_for_a_probe(images: Path, tmp_path: Path) -> None:
    study, why, _ = write(tmp_path, images=images, model="pit_ti_distilled_224")
    assert (study.head, study.model.source) == ("probe", "timm")
    assert why.endswith("the weights' own classifier is more than one linear layer (head_dist.bias, head_dist.weight)")


def test_the_command_says_what_it_wrote(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["--images", images, "--model", "test_vit", "--weights", checkpoint, "--recipes", "vitquant-int8, fp32"]
    arguments += ["--out", tmp_path / "out", "--name", "mine", "--dry-run"]
    result = CliRunner().invoke(main, ["--params", str(DEFAULT), "study", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    file = tmp_path / "out/mine.yaml"
    assert result.output.startswith(f"{file}: head: own, the weights' classifier of 6 classes: ")
    assert f"`vitquant experiment {file}`" in result.output
    assert list(yaml_files.read(file)["recipes"]) == ["fp32", "vitquant-int8"]
