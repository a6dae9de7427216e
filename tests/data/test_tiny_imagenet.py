import hashlib
import io
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitquant.data import tiny_imagenet
from vitquant.data.samples import Sample
from vitquant.errors import VitquantError
from vitquant.params import TinyImagenetData

SHARED = Path(os.environ.get("VITQUANT_SHARED") or Path(__file__).parents[3] / "shared")
SAMPLE = SHARED / "data/tiny-imagenet-sample.zip"
SAMPLE_MD5 = "440d72056bd4537d8fb1295c0ced4d5d"

TOP = "tiny-imagenet-200"
LABELS = ("n02124075", "n04067472", "n01443537")
TRAIN, VAL = 8, 4  # images of each class
ANNOTATIONS = f"{TOP}/val/val_annotations.txt"

Members = dict[str, bytes]
Change = Callable[[Members], object]


def jpeg(seed: int) -> bytes:
    """A 64 × 64 picture; every third one is grey-scale."""
    shape = (64, 64) if seed % 3 == 0 else (64, 64, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def members() -> Members:
    """A miniature of Tiny ImageNet, in its layout, the folders and the unlabelled test images included."""
    found = {
        f"{TOP}/": b"",
        f"{TOP}/wnids.txt": "\n".join(LABELS).encode(),
        f"{TOP}/words.txt": b"n02124075\tEgyptian cat\n",
        f"{TOP}/test/images/test_0.JPEG": jpeg(99),
        f"{TOP}/val/images/": b"",
    }
    for number, label in enumerate(LABELS):
        found[f"{TOP}/train/{label}/{label}_boxes.txt"] = b"n_0.JPEG\t0\t0\t63\t63\n"
        for i in range(TRAIN):
            found[f"{TOP}/train/{label}/images/{label}_{i}.JPEG"] = jpeg(10 * number + i)
    lines = [f"val_{i}.JPEG\t{LABELS[i % len(LABELS)]}\t0\t32\t44\t62\n" for i in range(VAL * len(LABELS))]
    found[ANNOTATIONS] = "".join(lines).encode()
    return found | {f"{TOP}/val/images/val_{i}.JPEG": jpeg(50 + i) for i in range(len(lines))}


def write_zip(path: Path, content: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if name.endswith(".txt") else zipfile.ZIP_STORED)
    return path


def params(file: Path, **changes: object) -> TinyImagenetData:
    values = {
        "source": "tiny-imagenet",
        "url": file.absolute().as_uri(),
        "md5": hashlib.md5(file.read_bytes()).hexdigest(),
        "train_per_class": "all",
        "val_per_class": "all",
        "resize": 64,
        "crop": 64,
        "interpolation": "auto",
        "seed": 7,
        "on_undecodable": "stop",
        "max_megapixels": 80,
    }
    return TinyImagenetData.model_validate(values | changes)


def fetched(file: Path, raw: Path, **changes: object) -> list[Sample]:
    """The samples of a zip, as the two stages make them."""
    source = params(file, **changes)
    tiny_imagenet.fetch(source, raw)
    return tiny_imagenet.samples(source, raw)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "mini.zip", members())


def test_every_labelled_image_is_found_in_place(archive: Path, tmp_path: Path) -> None:
    found = fetched(archive, tmp_path / "raw")
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["tiny-imagenet.zip"]
    counts = Counter((sample.split, sample.label) for sample in found)
    assert counts == {(s, label): n for s, n in (("train", TRAIN), ("val", VAL)) for label in LABELS}
    assert [sample.split for sample in found] == ["train"] * TRAIN * 3 + ["val"] * VAL * 3
    content = members()
    assert all(sample.read() == content[sample.name] for sample in found)
    assert {Image.open(io.BytesIO(sample.read())).mode for sample in found} == {"L", "RGB"}


def test_validation_images_have_their_annotated_class(archive: Path, tmp_path: Path) -> None:
    labels = {sample.name: sample.label for sample in fetched(archive, tmp_path / "raw")}
    assert labels[f"{TOP}/val/images/val_4.JPEG"] == LABELS[1]


def chosen(found: list[Sample]) -> dict[tuple[str | None, str], set[str]]:
    """The images' names by split and class."""
    groups: dict[tuple[str | None, str], set[str]] = {}
    for sample in found:
        groups.setdefault((sample.split, sample.label), set()).add(sample.name)
    return groups


def test_a_subset_is_seeded_and_has_every_class(archive: Path, tmp_path: Path) -> None:
    def draw(**changes: object) -> dict[tuple[str | None, str], set[str]]:
        return chosen(fetched(archive, tmp_path / "raw", **changes))

    three = draw(train_per_class=3, val_per_class=2)
    assert {key: len(names) for key, names in three.items()} == {
        (split, label): count for split, count in (("train", 3), ("val", 2)) for label in LABELS
    }
    assert three == draw(train_per_class=3, val_per_class=2)
    assert three != draw(train_per_class=3, val_per_class=2, seed=8)
    more = draw(train_per_class=5, val_per_class="all")
    assert all(names <= more[key] for key, names in three.items())
    places = {tuple(sorted(name.rpartition("_")[2] for name in three["train", label])) for label in LABELS}
    assert len(places) > 1  # not the same places in every class


def test_a_class_keeps_its_images_when_another_one_changes(tmp_path: Path) -> None:
    content = members()
    before = chosen(fetched(write_zip(tmp_path / "a.zip", content), tmp_path / "raw", train_per_class=3))
    del content[f"{TOP}/train/{LABELS[0]}/images/{LABELS[0]}_0.JPEG"]
    after = chosen(fetched(write_zip(tmp_path / "b.zip", content), tmp_path / "raw", train_per_class=3))
    assert all(before["train", label] == after["train", label] for label in LABELS[1:])


def test_more_than_a_class_has_is_refused(tmp_path: Path) -> None:
    content = members()
    del content[f"{TOP}/train/{LABELS[1]}/images/{LABELS[1]}_0.JPEG"]
    file = write_zip(tmp_path / "mini.zip", content)
    with pytest.raises(VitquantError) as error:
        fetched(file, tmp_path / "raw", train_per_class=TRAIN)
    assert str(error.value) == (
        f"data.train_per_class: 8 is more than the 7 train images of class {LABELS[1]}: ask for at most 7, or all"
    )


def annotate(line: bytes) -> Change:
    return lambda content: content.update({ANNOTATIONS: content[ANNOTATIONS] + line})


def without(prefix: str) -> Change:
    return lambda content: [content.pop(name) for name in list(content) if name.startswith(f"{TOP}/{prefix}")]


def adding(name: str) -> Change:
    return lambda content: content.update({name: b"x"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (adding("/etc/passwd"), "member '/etc/passwd' would leave the folder"),
        (adding(f"{TOP}/../../up"), f"member '{TOP}/../../up' would leave the folder"),
        (adding("..\\up"), r"member '..\\up' would leave the folder"),
        (adding("C:/up"), "member 'C:/up' would leave the folder"),
        (without("wnids.txt"), f"lacks {TOP}/wnids.txt"),
        (lambda content: content.update({f"{TOP}/wnids.txt": b"\n"}), "wnids.txt is empty"),
        (lambda content: content.update({f"{TOP}/wnids.txt": b"\xff"}), "wnids.txt cannot be read"),
        (without("val/val_annotations.txt"), f"lacks {ANNOTATIONS}"),
        (without(f"train/{LABELS[2]}/images"), f"1 of the classes in wnids.txt have no training images ({LABELS[2]})"),
        (without("val/images/val_4.JPEG"), "line 5 names the image 'val_4.JPEG', which is absent"),
        (annotate(b"val_0.JPEG\tn99999999\t0\t0\t9\t9\n"), "line 13 names the class 'n99999999', which is not in"),
        (annotate(b"val_0.JPEG\n"), "line 13 names the class '', which is not in wnids.txt"),
        (annotate(f"val_0.JPEG\t{LABELS[0]}\t0\n".encode()), "line 13 names the image 'val_0.JPEG' a second time"),
        (
            lambda content: content.update({ANNOTATIONS: f"val_0.JPEG\t{LABELS[0]}\n".encode()}),
            "2 of the classes in wnids.txt have no validation images (n01443537, n04067472)",
        ),
    ],
)
def test_a_bad_archive_is_refused_by_fetch(tmp_path: Path, change: Change, message: str) -> None:
    content = members()
    change(content)
    file = write_zip(tmp_path / "mini.zip", content)
    with pytest.raises(VitquantError) as error:
        tiny_imagenet.fetch(params(file), tmp_path / "raw")
    assert message in str(error.value)
    assert "data.url" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_symbolic_link_is_refused(archive: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo(f"{TOP}/train/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(VitquantError, match=f"member '{TOP}/train/link' is a symbolic link"):
        tiny_imagenet.fetch(params(archive), tmp_path / "raw")


def test_dots_within_a_name_are_no_way_out(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "mini.zip", {**members(), f"{TOP}/..notes/a..b": b""})
    assert fetched(file, tmp_path / "raw")


@pytest.mark.parametrize("kept", [0, 200, -30])
def test_a_truncated_zip_is_refused(archive: Path, tmp_path: Path, kept: int) -> None:
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(VitquantError, match="tiny-imagenet.zip is not a whole zip .*point data.url at") as error:
        tiny_imagenet.fetch(params(archive), tmp_path / "raw")
    assert "\n" not in str(error.value)


def test_something_else_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.zip"
    page.write_text("<html>Not found</html>")
    with pytest.raises(VitquantError, match="is not a whole zip"):
        tiny_imagenet.fetch(params(page), tmp_path / "raw")


def test_another_digest_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match=f"params.yaml expects {'0' * 32}.*check data.url"):
        tiny_imagenet.fetch(params(archive, md5="0" * 32), tmp_path / "raw")
    assert not (tmp_path / "raw/tiny-imagenet.zip").exists()


def test_without_fetch_there_is_nothing_to_list(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match="tiny-imagenet.zip is missing: run `dvc repro -f fetch`"):
        tiny_imagenet.samples(params(archive), tmp_path / "raw")


def test_a_damaged_image_is_an_oserror_when_it_is_read(tmp_path: Path) -> None:
    content = members()
    name = f"{TOP}/val/images/val_3.JPEG"
    file = write_zip(tmp_path / "mini.zip", content)
    file.write_bytes(file.read_bytes().replace(content[name], content[name][:-9] + b"damaged!!"))
    samples = {sample.name: sample for sample in fetched(file, tmp_path / "raw")}
    with pytest.raises(OSError, match="Bad CRC-32"):
        samples.pop(name).read()
    assert all(sample.read() == content[other] for other, sample in samples.items())


def test_several_threads_read_at_once(archive: Path, tmp_path: Path) -> None:
    content = members()
    found = fetched(archive, tmp_path / "raw") * 30
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda sample: sample.read(), found))
    assert read == [content[sample.name] for sample in found]


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"{SAMPLE} is absent; VITQUANT_SHARED names another shared folder")
def test_the_real_sample(tmp_path: Path) -> None:
    found = fetched(SAMPLE, tmp_path / "raw", md5=SAMPLE_MD5)
    counts = Counter((sample.split, sample.label) for sample in found)
    assert len(counts) == 2 * 200
    assert {(split, count) for (split, _), count in counts.items()} == {("train", 25), ("val", 10)}
    with ThreadPoolExecutor(4) as pool:
        sizes = Counter(pool.map(lambda sample: Image.open(io.BytesIO(sample.read())).size, found))
    assert sizes == {(64, 64): 200 * 35}


def test_a_member_that_is_too_large(tmp_path: Path) -> None:
    name = f"{TOP}/train/{LABELS[0]}/images/{LABELS[0]}_0.JPEG"
    content = {**members(), name: bytes(tiny_imagenet.LARGEST + 1)}
    with zipfile.ZipFile(tmp_path / "mini.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in content.items():
            archive.writestr(member, data)
    samples = {sample.name: sample for sample in fetched(tmp_path / "mini.zip", tmp_path / "raw")}
    with pytest.raises(OSError, match=f"{LABELS[0]}_0.JPEG has 16000001 bytes unpacked, more than 16000000"):
        samples[name].read()


def test_a_list_that_is_too_large(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "mini.zip", {**members(), f"{TOP}/wnids.txt": b"\n" * 16_000_001})
    with pytest.raises(VitquantError, match=r"wnids.txt cannot be read \(.* 16000001 bytes unpacked.*check data.url"):
        tiny_imagenet.fetch(params(file), tmp_path / "raw")
