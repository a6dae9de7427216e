"""One way from an image to the model's input: the same pixels from a file, its content, or an image in memory."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PREPROCESSING, SIDE, draw_image
from PIL import Image

from vitquant import recipes
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.images import FORMATS, Preprocessing, UndecodableError, extensions


def sources(path: Path) -> dict[str, Path | bytes | Image.Image]:
    return {"path": path, "bytes": path.read_bytes(), "image": Image.open(path)}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_the_same_pixels_from_every_source(tmp_path: Path, suffix: str, mode: str) -> None:
    image = draw_image("disc", 0).convert(mode)
    file = tmp_path / f"image{suffix}"
    (image if suffix == ".png" or mode in ("RGB", "L") else image.convert("RGB")).save(file)
    pixels = {name: PREPROCESSING.pixels(source) for name, source in sources(file).items()}
    assert pixels["path"].shape == (SIDE, SIDE, 3)
    assert pixels["path"].dtype == np.uint8
    assert np.array_equal(pixels["path"], pixels["bytes"])
    assert np.array_equal(pixels["path"], pixels["image"])


def test_they_are_the_pixels_that_prepare_writes(images: Path, prepared: Prepared, fp32: Path) -> None:
    """Bit for bit, and so are the logits of a Predictor that is given the files."""
    manifest = pd.read_csv(prepared.path / "manifest.csv")
    files = [images / path for path in manifest.loc[manifest["split"] == "val", "path"]]
    stored = prepared.images("val")
    assert np.array_equal(np.stack([prepared.preprocessing.pixels(file) for file in files]), stored)
    predictor = recipes.load(fp32)
    assert predictor.artifact.spec.preprocessing == prepared.preprocessing
    mixed = [files[0], files[1].read_bytes(), Image.open(files[2])]
    assert np.array_equal(predictor(mixed), predictor(stored[:3]))


def test_the_crop_is_of_the_centre_and_the_shorter_side_is_resized() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 255  # the middle square
    same = Preprocessing(resize=40, crop=40, interpolation="bilinear", mean=[0.0] * 3, std=[1.0] * 3)
    assert (same.pixels(Image.fromarray(pixels)) == 255).all()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n cut"])
def test_what_does_not_decode_is_named(tmp_path: Path, fp32: Path, content: bytes) -> None:
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    with pytest.raises(UndecodableError, match="broken.png: "):
        PREPROCESSING.pixels(file)
    with pytest.raises(UndecodableError, match="."):
        recipes.load(fp32)([content])


def test_a_cut_photograph_is_undecodable_whatever_opened_it(tmp_path: Path) -> None:
    file = tmp_path / "cut.jpg"
    draw_image("noise", 0).save(file)
    file.write_bytes(file.read_bytes()[:700])
    for source in sources(file).values():
        with pytest.raises(UndecodableError, match="truncated"):
            PREPROCESSING.pixels(source)


@pytest.mark.parametrize("wrong", [None, 3, np.zeros((8, 8, 3), np.uint8)])
def test_what_is_no_source_of_an_image(fp32: Path, wrong: object) -> None:
    with pytest.raises(VitquantError, match="an image is a path, a file's bytes, or one of Pillow's: not "):
        recipes.load(fp32)([wrong])


def test_a_predictor_takes_lists_and_arrays(images: Path, fp32: Path, tmp_path: Path) -> None:
    predictor, file = recipes.load(fp32), next(images.rglob("*.png"))
    assert np.array_equal(predictor([str(file)]), predictor((file,)))
    for single in (file, file.read_bytes(), str(file)):
        with pytest.raises(VitquantError, match="give images as a list, or as an array, not as "):
            predictor(single)
    with pytest.raises(VitquantError, match="there is no image to predict"):
        predictor(np.zeros((0, SIDE, SIDE, 3), np.uint8))
    with pytest.raises(VitquantError, match="not object"):
        predictor(np.array([None]))
    with pytest.raises(UndecodableError, match="it has no pixels"):
        predictor([Image.new("RGB", (0, 5))])


def test_a_missing_file_and_no_file_at_all(tmp_path: Path, fp32: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PREPROCESSING.pixels(tmp_path / "none.png")
    with pytest.raises(VitquantError, match="there is no image to predict"):
        recipes.load(fp32)([])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_a_16_bit_ramp_is_a_ramp_of_8_bits(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)
    file = tmp_path / f"ramp{suffix}"
    Image.fromarray(np.tile(ramp, (256, 1))).save(file)
    pixels = Preprocessing(resize=256, crop=256, interpolation="bilinear", mean=[0.0] * 3, std=[1.0] * 3).pixels(file)
    assert np.array_equal(pixels[0, :, 0], np.arange(256))
    assert pixels.mean() == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_an_unknown_range_are_refused(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.ones((80, 80), kind)).save(tmp_path / "range.tiff")
    with pytest.raises(UndecodableError, match=r"range.tiff: its pixels are of mode [IF], whose range is not known"):
        PREPROCESSING.pixels(tmp_path / "range.tiff")


@pytest.mark.parametrize("kind", ["EPS", "TGA", "ICO", "PCX"])
def test_a_format_that_is_not_taken_whatever_the_name_says(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "photograph.jpg"
    draw_image("disc", 0).save(file, kind)
    for source in (file, file.read_bytes()):
        with pytest.raises(UndecodableError, match="it is no AVIF, BMP, .* or WEBP image, or its header is damaged"):
            PREPROCESSING.pixels(source)
    with Image.open(file) as image:
        image.seek(0)  # Pillow itself takes it


def test_postscript_in_a_photograph_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ghostscript that leaves a trace stands first on the PATH."""
    trace = tmp_path / "trace"
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {trace}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Pillow looks for it once
    draw_image("disc", 0).save(tmp_path / "photograph.jpg", "EPS")
    with pytest.raises(UndecodableError):
        PREPROCESSING.pixels(tmp_path / "photograph.jpg")
    assert not trace.exists()
    with pytest.raises(UndecodableError), Image.open(tmp_path / "photograph.jpg") as image:
        PREPROCESSING.pixels(image)
    assert trace.exists()  # the trap does work


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_every_format_that_is_taken(tmp_path: Path, kind: str) -> None:
    draw_image("disc", 0).save(tmp_path / "image", kind)
    assert PREPROCESSING.pixels(tmp_path / "image").shape == (SIDE, SIDE, 3)


def test_extensions_are_those_of_the_formats() -> None:
    found = extensions()
    assert found >= {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".avif",
        ".jp2",
    }
    assert not found & {".eps", ".ps", ".pdf", ".psd", ".ico", ".fits", ".h5", ".mpg", ".wmf"}


def test_a_small_file_of_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    Image.new("L", (9000, 9000)).save(file)
    assert file.stat().st_size < 200_000
    with pytest.raises(
        UndecodableError, match=r"bomb.png: it has 9000 × 9000 pixels, more than max_megapixels: 80$"
    ) as error:
        PREPROCESSING.pixels(file)
    assert "\n" not in str(error.value)
    content = file.read_bytes()
    file.write_bytes(content[:100])  # without most of its pixels: it is the header that is read
    with pytest.raises(UndecodableError, match="more than max_megapixels"):
        PREPROCESSING.pixels(file)
    small = draw_image("disc", 0)
    small.save(file)
    assert PREPROCESSING.pixels(file, max_megapixels=0.00768).shape == (SIDE, SIDE, 3)  # 96 × 80
    with pytest.raises(UndecodableError, match="more than max_megapixels: 0.0076$"):
        PREPROCESSING.pixels(file, max_megapixels=0.0076)
    assert PREPROCESSING.pixels(small, max_megapixels=0.0076).shape == (SIDE, SIDE, 3)  # what Pillow opened is theirs
