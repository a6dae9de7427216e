import hashlib
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, PREPROCESSING, SIDE
from PIL import Image

from vitquant import recipes
from vitquant.data import folder
from vitquant.data.prepare import _Budget, prepare
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.images import Preprocessing
from vitquant.models import baseline
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
    for file in (path for path in sorted(prepared.path.rglob("*")) if path.is_file()):
        assert (again.path / file.relative_to(prepared.path)).read_bytes() == file.read_bytes()
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


@pytest.mark.parametrize(("split", "least"), [("train", 2), ("val", 1)])
def test_a_class_that_skipping_empties_in_one_split(
    own_images: Path, params: Params, prepared: Prepared, tmp_path: Path, split: str, least: int
) -> None:
    manifest = pd.read_csv(prepared.path / "manifest.csv")
    for path in manifest.loc[(manifest["split"] == split) & (manifest["class"] == "disc"), "path"]:
        (own_images / path).write_bytes(b"no image")
    with pytest.raises(
        VitquantError, match=rf"the {split} split has too few .* \(each class needs {least}\): disc \(0\)"
    ):
        run(own_images, params, tmp_path / "out", on_undecodable="skip")


def test_the_smallest_class_that_is_promised_can_be_fitted(
    images: Path, params: Params, fp32: Path, tmp_path: Path
) -> None:
    """Four images of each class: one to hold out and one to fit at least, and one to validate."""
    few = tmp_path / "few"
    for file in sorted(path for path in images.rglob("*.png") if int(path.stem) < 4):
        (few / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, few / file.parent.name)
    prepared = run(few, params, tmp_path / "out")
    assert (np.bincount(prepared.labels("train")) >= 2).all()
    baseline.build(params, Path("unused"), prepared, tmp_path / "baseline", threads=2)
    assert recipes.load(tmp_path / "baseline")(prepared.images("val")).shape == (10, len(CLASSES))


def test_copies_in_both_splits_are_said(
    own_images: Path, params: Params, prepared: Prepared, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = pd.read_csv(prepared.path / "manifest.csv")
    train, val = (manifest.loc[manifest["split"] == split, "path"].iloc[0] for split in ("train", "val"))
    run(own_images, params, tmp_path / "none")
    assert "too" not in capfd.readouterr().err
    shutil.copy(own_images / train, own_images / val)
    run(own_images, params, tmp_path / "out")
    assert f"1 of 24 validation images are in the train split too, e.g. {val}" in capfd.readouterr().err


def test_a_class_too_small_to_split(own_images: Path, params: Params, tmp_path: Path) -> None:
    for file in sorted((own_images / "disc").iterdir())[3:]:
        file.unlink()
    with pytest.raises(VitquantError, match=r"too few images .*: disc \(3\)"):
        run(own_images, params, tmp_path / "out")


def test_a_split_that_cannot_hold_every_class(images: Path, params: Params, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match=r"data.val_fraction: 0.05 cannot split"):
        run(images, params, tmp_path / "out", val_fraction=0.05)


def test_a_part_of_the_rest_trains(images: Path, params: Params, tmp_path: Path) -> None:
    """Of ten images in each of six classes; what validates is the same."""
    some, whole = (
        run(images, params, tmp_path / name, train_fraction=part) for name, part in (("some", 0.2), ("all", None))
    )
    assert (np.bincount(some.labels("train")) == 2).all()
    assert len(some.labels("val")) == len(whole.labels("val")) == 24
    with pytest.raises(VitquantError, match=r"data.val_fraction: 0.4 and train_fraction: 0.7 cannot split"):
        run(images, params, tmp_path / "out", train_fraction=0.7)


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


def test_an_image_of_too_many_pixels(own_images: Path, params: Params, tmp_path: Path) -> None:
    Image.new("L", (1000, 1001)).save(own_images / "disc/000.png")
    assert len(run(own_images, params, tmp_path / "out", max_megapixels=1.001).labels("train")) == 36
    with pytest.raises(VitquantError, match=r"disc/000.png \(it has 1000 × 1001 pixels, more than max_megapixels: 1\)"):
        run(own_images, params, tmp_path / "out", max_megapixels=1)


def test_threads_together_decode_no_more_than_an_image_may_have(
    images: Path, params: Params, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image has 96 × 80 pixels: of eight threads, one decodes at a time, then as many as like."""
    lock, now, most = threading.Lock(), [0], [0]
    pixels = Preprocessing.pixels

    def counted(self: Preprocessing, image: Image.Image) -> np.ndarray:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        try:
            return pixels(self, image)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(Preprocessing, "pixels", counted)
    monkeypatch.setattr("vitquant.data.prepare.cores", lambda: 8)
    monkeypatch.setattr("vitquant.data.prepare.CHUNK", 1)
    one = run(images, params, tmp_path / "one", max_megapixels=96 * 80 / 1e6)
    assert most == [1]
    assert np.array_equal(one.images("val"), prepared.images("val"))


def test_a_share_is_given_back_and_waited_for() -> None:
    budget, order = _Budget(10), []

    def second() -> None:
        with budget.share(5):
            order.append("second")

    thread = threading.Thread(target=second)
    with budget.share(4), pytest.raises(ValueError, match="broken"), budget.share(6):
        thread.start()
        order.append("first")
        raise ValueError("broken")
    thread.join()
    assert order == ["first", "second"]
    with budget.share(10):
        pass
