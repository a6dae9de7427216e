import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import CLASSES, PREPROCESSING, write_images

from vitquant.data import folder
from vitquant.data.prepare import prepare
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.params import FolderData, Params


def data(params: Params, path: Path) -> FolderData:
    return params.data.model_copy(update={"path": str(path)})


def fetched(params: Params, path: Path, raw: Path) -> Prepared:
    """What the stages fetch and prepare make of a folder."""
    folder.fetch(data(params, path), raw)
    prepare(
        folder.samples(data(params, path), raw),
        PREPROCESSING,
        data(params, path),
        raw.parent / "processed",
    )
    return Prepared(raw.parent / "processed")


def test_train_and_val_folders_are_the_split(params: Params, tmp_path: Path) -> None:
    write_images(tmp_path / "images/train", 5)
    write_images(tmp_path / "images/val", 2)
    prepared = fetched(params, tmp_path / "images", tmp_path / "raw")
    assert len(prepared.labels("train")) == 5 * len(CLASSES)
    assert len(prepared.labels("val")) == 2 * len(CLASSES)
    manifest = pd.read_csv(prepared.path / "manifest.csv")
    assert (manifest["path"].str.split("/").str[0] == manifest["split"]).all()


def test_a_class_that_one_split_lacks(params: Params, tmp_path: Path) -> None:
    write_images(tmp_path / "images/train", 5)
    write_images(tmp_path / "images/val", 2)
    shutil.rmtree(tmp_path / "images/val/disc")
    with pytest.raises(VitquantError, match=r"train and val differ in the classes \['disc'\]"):
        folder.fetch(data(params, tmp_path / "images"), tmp_path / "raw")


def test_a_class_without_images(params: Params, tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 4)
    (source / "empty").mkdir()
    (source / "empty" / "readme.txt").write_text("no image")
    with pytest.raises(VitquantError, match=r"no images in the class folders \['empty'\]: fill or remove them"):
        folder.fetch(data(params, source), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_fewer_than_two_classes_and_no_folder(params: Params, tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 1)
    for label in CLASSES[1:]:
        shutil.rmtree(source / label)
    with pytest.raises(VitquantError, match=r"at least two class folders, found \['disc'\]"):
        folder.fetch(data(params, source), tmp_path / "raw")
    with pytest.raises(VitquantError, match="is not a folder"):
        folder.fetch(data(params, tmp_path / "none"), tmp_path / "raw")


def test_files_that_are_no_images_are_left_out(params: Params, tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 5)
    (source / "disc" / "Thumbs.db").write_bytes(b"\0")
    (source / "disc" / "notes.txt").write_text("a note")
    (source / "labels.csv").write_text("a,b")
    (source / ".cache").mkdir()
    prepared = fetched(params, source, tmp_path / "raw")
    assert len(prepared.labels("train")) + len(prepared.labels("val")) == 5 * len(CLASSES)


def test_class_names_with_spaces_commas_and_unicode(params: Params, tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 5)
    names = {"disc": "a disc, red", "noise": "Rauschen – größer", "square": "正方形", "stripes": 'quo"te'}
    for old, new in names.items():
        (source / old).rename(source / new)
    prepared = fetched(params, source, tmp_path / "raw")
    assert prepared.classes == sorted([*names.values(), *set(CLASSES) - set(names)])
    manifest = pd.read_csv(prepared.path / "manifest.csv")
    assert set(manifest["class"]) == set(prepared.classes)
    assert manifest.loc[manifest["class"] == "a disc, red", "path"].str.startswith("a disc, red/").all()
