import os
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
    (source / "disc" / ".ipynb_checkpoints").mkdir()
    shutil.copy(source / "disc/000.png", source / "disc/.ipynb_checkpoints/000-checkpoint.png")
    (source / "disc" / "._000.png").write_bytes(b"\0\5\x16\7")  # what macOS leaves on other file systems
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


@pytest.mark.parametrize(("train", "val", "test"), [("Train", "Val", "Test"), ("training", "validation", "testing"),
                                                    ("train", "valid", None)])  # fmt: skip
def test_other_spellings_of_a_split(params: Params, tmp_path: Path, train: str, val: str, test: str | None) -> None:
    write_images(tmp_path / "images" / train, 5)
    write_images(tmp_path / "images" / val, 2)
    if test:
        write_images(tmp_path / "images" / test, 3)
    prepared = fetched(params, tmp_path / "images", tmp_path / "raw")
    assert prepared.classes == sorted(CLASSES)
    assert (len(prepared.labels("train")), len(prepared.labels("val"))) == (5 * len(CLASSES), 2 * len(CLASSES))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train", "test"], r"a split with 0 val folders: it needs one named train and one named val"),
        (["val", "test"], r"a split with 0 train folders"),
        (["train", "Training", "val"], r"a split with 2 train folders"),
        (["train", "val", "test", "notes"], r"a train and a val folder, and \['notes'\] beside them: move that out"),
    ],
)
def test_a_split_that_lacks_a_part(params: Params, tmp_path: Path, folders: list[str], message: str) -> None:
    for name in folders:
        write_images(tmp_path / "images" / name, 4)
    with pytest.raises(VitquantError, match=message):
        folder.fetch(data(params, tmp_path / "images"), tmp_path / "raw")


def test_class_folders_a_level_further_down(params: Params, tmp_path: Path) -> None:
    for name in ("train2020", "val2020"):
        write_images(tmp_path / "images" / name, 4)
    with pytest.raises(
        VitquantError, match=r"train2020 holds no images but folders of them, \['disc', 'noise', 'square'\]"
    ):
        folder.fetch(data(params, tmp_path / "images"), tmp_path / "raw")
    one = write_images(tmp_path / "one", 5)  # a single folder inside is Tiny ImageNet's layout
    (one / "disc").rename(one / "all")
    (one / "disc").mkdir()
    (one / "all").rename(one / "disc/images")
    assert len(fetched(params, one, tmp_path / "raw").labels("val")) == 2 * len(CLASSES)


def test_links_are_followed_and_a_circle_ends(params: Params, tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 4)
    other = write_images(tmp_path / "elsewhere", 8)
    (source / "disc/more").symlink_to(other / "disc")
    (source / "disc/circle").symlink_to(source / "disc")
    (source / "disc/up").symlink_to(source)  # where the other classes are
    (source / "noise/linked.png").symlink_to(other / "noise/007.png")
    folder.fetch(data(params, source), tmp_path / "raw")
    names = [sample.name for sample in folder.samples(data(params, source), tmp_path / "raw")]
    assert sum(name.startswith("disc/") for name in names) == 4 + 8
    assert "noise/linked.png" in names
    assert not any(path.is_symlink() for path in (tmp_path / "raw").rglob("*"))


def test_file_names_that_are_not_utf8(params: Params, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """They are kept with backslash escapes, from `fetch` on; and `prepare` takes a folder that has them, too."""
    images = write_images(tmp_path / "images", 5)
    try:
        (images / "disc").rename(images / os.fsdecode(b"gr\xfcn"))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    (images / "noise/000.png").rename(images / "noise" / os.fsdecode(b"\xe9.png"))
    (images / "noise" / os.fsdecode(b"b\xe4d.png")).write_text("no image")
    own = data(params, images).model_copy(update={"on_undecodable": "skip"})
    (tmp_path / "raw").mkdir()
    folder.fetch(own, tmp_path / "raw")
    for root in (tmp_path / "raw", images):
        prepare(folder.samples(own, root), PREPROCESSING, own, tmp_path / "processed")
        assert "skipped noise/b\\xe4d.png" in capfd.readouterr().err
        assert "gr\\xfcn" in Prepared(tmp_path / "processed").classes
        paths = pd.read_csv(tmp_path / "processed/manifest.csv")["path"]
        assert {"gr\\xfcn/000.png", "noise/\\xe9.png"} < set(paths)
    assert (tmp_path / "raw/gr\\xfcn/000.png").is_file()


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n"


def test_a_link_to_what_is_no_image_is_not_copied(
    params: Params, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_images(tmp_path / "images", 4)
    secret = tmp_path / "id_ed25519"
    secret.write_text(KEY)
    (source / "disc/link.jpg").symlink_to(secret)
    (source / "noise/program.png").write_bytes(b"\x7fELF")
    with pytest.raises(VitquantError, match=r"2 of 26 images cannot be decoded: disc/link.jpg \(it is no ") as error:
        folder.fetch(data(params, source), tmp_path / "raw")
    assert "noise/program.png" in str(error.value)
    assert "\n" not in str(error.value)
    own = data(params, source).model_copy(update={"on_undecodable": "skip"})
    folder.fetch(own, tmp_path / "rest")
    assert "fetch: skipped disc/link.jpg (it is no " in capfd.readouterr().err
    assert len(folder.samples(own, tmp_path / "rest")) == 24
    copied = [path.read_bytes() for root in ("raw", "rest") for path in (tmp_path / root).rglob("*.*")]
    assert copied
    assert all(content.startswith(b"\x89PNG") for content in copied)


def test_a_class_of_which_no_file_is_an_image(params: Params, tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 4)
    for file in (source / "disc").iterdir():
        file.write_text(KEY)
    own = data(params, source).model_copy(update={"on_undecodable": "skip"})
    with pytest.raises(VitquantError, match=r"no images in the class folders \['disc'\]: fill or remove them"):
        folder.fetch(own, tmp_path / "raw")


def test_files_of_other_formats_are_left_out(params: Params, tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 4)
    for name in ("figure.eps", "scan.pdf", "layers.psd", "favicon.ico"):
        (source / "disc" / name).write_text("whatever it holds")
    folder.fetch(data(params, source), tmp_path / "raw")
    assert len(folder.samples(data(params, source), tmp_path / "raw")) == 24


@pytest.mark.parametrize("kind", ["dangling", "pipe", "huge"])
def test_what_only_looks_like_a_file_is_named_and_not_read(params: Params, tmp_path: Path, kind: str) -> None:
    """A disk that is not mounted does not make the data smaller without a word."""
    source = write_images(tmp_path / "images", 4)
    odd = source / CLASSES[0] / "odd.png"
    if kind == "dangling":
        odd.symlink_to(tmp_path / "nowhere.png")
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.touch()
        os.truncate(odd, 30_000_000_000)  # sparse
    message = "odd.png .it has more than 1.5 GB" if kind == "huge" else "odd.png .it is no file, or a link that leads"
    with pytest.raises(VitquantError, match=message):
        folder.fetch(data(params, source), tmp_path / "raw")
    folder.fetch(data(params, source).model_copy(update={"on_undecodable": "skip"}), tmp_path / "raw")
    assert len(list((tmp_path / "raw").rglob("*.png"))) == 4 * len(CLASSES)
