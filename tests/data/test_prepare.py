import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, PREPROCESSING, SIDE
from PIL import Image

from vitquant.data import folder
from vitquant.data.prepare import prepare
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.params import Calibration, Params


@pytest.fixture
def own_images(images: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    shutil.copytree(images, tmp_path / "images")
    return tmp_path / "images"


def run(images: Path, params: Params, out: Path, **changes: object) -> Prepared:
    data = params.data.model_copy(update=changes)
    prepare(folder.samples(data, images), PREPROCESSING, data, out)
    return Prepared(out)


def test_the_split_is_stratified_and_complete(prepared: Prepared) -> None:
    assert prepared.classes == sorted(CLASSES)
    assert np.bincount(prepared.labels("train")).tolist() == [6] * len(CLASSES)
    assert np.bincount(prepared.labels("val")).tolist() == [4] * len(CLASSES)
    assert prepared.images("train").shape == (36, SIDE, SIDE, 3)
    assert prepared.images("val").dtype == np.uint8
    assert isinstance(prepared.images("val"), np.memmap)


def test_an_image_is_resized_then_cropped_in_the_centre(images: Path, prepared: Prepared) -> None:
    manifest = pd.read_csv(prepared.path / "manifest.csv")
    row = manifest[manifest["split"] == "val"].reset_index(drop=True).iloc[0]
    with Image.open(images / row["path"]) as image:
        width, height = image.size
        resized = image.resize((round(72 * width / height), 72), Image.Resampling.BICUBIC)
    left, top = (resized.width - SIDE) // 2, (72 - SIDE) // 2
    expected = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)), np.float32)
    assert np.abs(expected - prepared.images("val")[0]).mean() < 2  # of 255: the crop may fall between pixels


def test_the_manifest_names_every_image_with_its_digest(images: Path, prepared: Prepared) -> None:
    manifest = pd.read_csv(prepared.path / "manifest.csv")
    assert len(manifest) == 60
    for row in manifest.itertuples():
        assert hashlib.sha256((images / row.path).read_bytes()).hexdigest() == row.sha256
        assert row.path.startswith(f"{row._2}/")


def test_it_is_deterministic(images: Path, params: Params, prepared: Prepared, tmp_path: Path) -> None:
    again = run(images, params, tmp_path / "again")
    for file in sorted(prepared.path.iterdir()):
        assert (again.path / file.name).read_bytes() == file.read_bytes()
    other = run(images, params, tmp_path / "other", seed=1)
    assert not np.array_equal(other.images("val"), prepared.images("val"))


def test_grey_palette_and_transparent_images_become_rgb(own_images: Path, params: Params, tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "CMYK"):
        with Image.open(own_images / "disc/000.png") as image:
            image.convert(mode).save(own_images / f"disc/{mode}.tiff")
    assert len(run(own_images, params, tmp_path / "out").labels("train")) == 38


def test_an_image_that_does_not_decode_stops_the_run(own_images: Path, params: Params, tmp_path: Path) -> None:
    (own_images / "disc/000.png").write_bytes(b"no image")
    (own_images / "noise/001.png").write_bytes((own_images / "noise/002.png").read_bytes()[:200])
    with pytest.raises(VitquantError, match="2 of 60 images cannot be decoded") as error:
        run(own_images, params, tmp_path / "out")
    assert "disc/000.png" in str(error.value)
    assert "noise/001.png" in str(error.value)
    assert "0x" not in str(error.value)
    assert list(tmp_path.iterdir()) == [own_images]


def test_an_image_that_does_not_decode_can_be_skipped(
    own_images: Path, params: Params, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = run(own_images, params, tmp_path / "whole")
    manifest = pd.read_csv(tmp_path / "whole/manifest.csv")
    (own_images / manifest.query("split == 'train'").iloc[3]["path"]).write_bytes(b"no image")
    rest = run(own_images, params, tmp_path / "rest", on_undecodable="skip")
    assert "skipped" in capfd.readouterr().err
    assert np.array_equal(rest.images("train"), np.delete(whole.images("train"), 3, axis=0))
    assert np.array_equal(rest.labels("train"), np.delete(whole.labels("train"), 3))
    assert np.array_equal(rest.images("val"), whole.images("val"))


def test_a_class_too_small_to_split(own_images: Path, params: Params, tmp_path: Path) -> None:
    for file in sorted((own_images / "disc").iterdir())[3:]:
        file.unlink()
    with pytest.raises(VitquantError, match=r"too few images .*: disc \(3\)"):
        run(own_images, params, tmp_path / "out")


def test_a_split_that_cannot_hold_every_class(images: Path, params: Params, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match=r"data.val_fraction: 0.05 cannot split"):
        run(images, params, tmp_path / "out", val_fraction=0.05)


def test_prepared_data_that_cannot_be_read(images: Path, params: Params, tmp_path: Path) -> None:
    prepared = run(images, params, tmp_path / "out")
    (tmp_path / "out/val_images.npy").write_bytes(b"half")
    with pytest.raises(VitquantError, match=r"val_images.npy cannot be read .*dvc repro"):
        prepared.images("val")


def test_calibration_images_come_from_the_train_split_only(prepared: Prepared) -> None:
    train, val = ({image.tobytes() for image in prepared.images(split)} for split in ("train", "val"))
    drawn = prepared.calibration(Calibration(images=12, seed=1))
    assert len({image.tobytes() for image in drawn}) == 12
    assert {image.tobytes() for image in drawn} <= train - val
    assert np.array_equal(drawn, prepared.calibration(Calibration(images=12, seed=1)))
    assert not np.array_equal(drawn, prepared.calibration(Calibration(images=12, seed=2)))
    with pytest.raises(VitquantError, match=f"calibration.images: 9999 are wanted, the train split has {len(train)}"):
        prepared.calibration(Calibration(images=9999, seed=0))
