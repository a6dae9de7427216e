import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server, isolate, serve

from vitquant import files
from vitquant.errors import VitquantError
from vitquant.models import download
from vitquant.params import Dinov2Model, FileModel, RandomModel, TimmModel

BODY, HEAD = b"weights" * 1000, b"head" * 100
CUT = "the connection is lost, .*; 100 bytes are kept in .*: run again later to go on, or point model.url at a mirror"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serve({"/backbone.pth": BODY, "/head.pth": HEAD}) as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("cache")
    isolate(monkeypatch, path)
    return path


def dinov2(root: str, file: str = "backbone.pth", sha256: str = digest(BODY)) -> Dinov2Model:
    return Dinov2Model.model_construct(
        source="dinov2",
        name="vit_small_patch14_dinov2",
        url=f"{root}/{file}",
        sha256=sha256,
        head_url=f"{root}/head.pth",
        head_sha256=digest(HEAD),
    )


def refused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_dinov2_weights_and_the_head_where_it_is_wanted(server: Server, tmp_path: Path) -> None:
    download.fetch(dinov2(server.root), "probe", tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"backbone.pth": BODY}
    download.fetch(dinov2(server.root), "imagenet1k", tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"backbone.pth": BODY, "head.pth": HEAD}


def test_a_cut_download_goes_on_in_the_next_run(server: Server, tmp_path: Path) -> None:
    server.script = ["good", 3000, 0]
    with pytest.raises(VitquantError, match="; 3000 bytes are kept in "), files.atomic(tmp_path / "raw") as raw:
        raw.mkdir()
        download.fetch(dinov2(server.root), "imagenet1k", raw)
    assert server.starts == [0, 0, 3000, 3000, 3000, 3000]
    server.script = ["good"]
    with files.atomic(tmp_path / "raw") as raw:
        raw.mkdir()
        download.fetch(dinov2(server.root), "imagenet1k", raw)
    assert (tmp_path / "raw/backbone.pth").read_bytes() == BODY
    assert server.starts[6:] == [0, 3000]
    assert server.sent[6:] == [len(HEAD), len(BODY) - 3000]


def test_a_file_url(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "raw").mkdir()
    (tmp_path / "mirror/backbone.pth").write_bytes(BODY)
    params = dinov2((tmp_path / "mirror").as_uri())
    download.fetch(params, "probe", tmp_path / "raw")
    assert (tmp_path / "raw/backbone.pth").read_bytes() == BODY
    (tmp_path / "mirror/backbone.pth").unlink()
    with pytest.raises(
        VitquantError, match="^file://.*/backbone.pth: /.*/backbone.pth is not a file: correct model.url$"
    ):
        download.fetch(params, "probe", tmp_path / "raw")


@pytest.mark.parametrize(
    ("step", "file", "sha256", "says"),
    [
        ("good", "backbone.pth", "0" * 64, f"SHA-256 is {digest(BODY)}, .* expects {'0' * 64}: .*; check model.url$"),
        (100, "backbone.pth", digest(BODY), CUT),
        (("chunked", 100), "backbone.pth", digest(BODY), CUT),
        ("good", "missing.pth", digest(BODY), "the server answers 404 Not Found: correct model.url$"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    server: Server, tmp_path: Path, step: object, file: str, sha256: str, says: str
) -> None:
    server.script = [step, 0]
    with pytest.raises(VitquantError, match=f"^{server.root}/{file}: {says}") as error:
        download.fetch(dinov2(server.root, file, sha256), "probe", tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "vitquant.invalid"])
def test_a_host_that_cannot_be_reached(tmp_path: Path, host: str) -> None:
    params = dinov2(f"http://{host}:{refused_port()}")
    with pytest.raises(VitquantError, match=f"^cannot reach {host} .*check the network, or point model.url at"):
        download.fetch(params, "probe", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_fails_is_named_by_its_own_key(server: Server, tmp_path: Path) -> None:
    params = dinov2(server.root).model_copy(update={"head_url": f"{server.root}/other_head.pth"})
    with pytest.raises(VitquantError, match="/other_head.pth: .* 404 .*correct model.head_url$"):
        download.fetch(params, "imagenet1k", tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_keeps_its_suffix(tmp_path: Path, suffix: str) -> None:
    source, raw = tmp_path / f"mine{suffix}", tmp_path / "raw"
    source.write_bytes(BODY)
    raw.mkdir()
    params = FileModel(source="file", name="test_vit", path=str(source))
    download.fetch(params, "probe", raw)
    assert {file.name: file.read_bytes() for file in raw.iterdir()} == {f"weights{suffix}": BODY}
    assert download.file_name(params) == f"weights{suffix}"


def test_a_local_file_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pth", tmp_path):
        with pytest.raises(VitquantError, match=f"^model.path: {path} is not a file"):
            download.fetch(FileModel(source="file", name="test_vit", path=str(path)), "probe", tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_bas_patch16_224", "timm has no ViT 'vit_bas_patch16_224': did you mean vit_base_patch16_224, "),
        ("resnet18", "'resnet18' is of timm's module resnet: "),
        ("vit_base_patch16_224_in21k", "timm has renamed .*: write vit_base_patch16_224.augreg_in21k$"),
        ("vit_base_patch16_224.augreg_in22k", "timm has no weights 'augreg_in22k' of .*: it has augreg_in21k, .*, …$"),
        ("vit_small_patch16_36x1_224", "timm publishes no weights of 'vit_small_patch16_36x1_224': take one that "),
        ("vit_small_patch16_36x1_224.untrained", "timm publishes no weights of 'vit_small_patch16_36x1_224.untrained'"),
    ],
)
def test_weights_that_timm_does_not_publish(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(VitquantError, match=f"^model.name: {says}"):
        download.fetch(TimmModel(source="timm", name=name), "probe", tmp_path)


def test_timm_weights_without_the_hub(tmp_path: Path) -> None:
    script = (
        "import socket, sys; from pathlib import Path; from vitquant.models import download; "
        "from vitquant.params import TimmModel; from vitquant.errors import VitquantError\n"
        "try: download.fetch(TimmModel(source='timm', name='test_vit.r160_in1k'), 'probe', Path(sys.argv[1]))\n"
        "except VitquantError as error: print(error, socket.getdefaulttimeout())"
    )
    raw = tmp_path / "raw"
    raw.mkdir()
    hub = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}  # a refused port is tried again for a minute
    result = subprocess.run(
        [sys.executable, "-c", script, raw], env={**os.environ, **hub}, capture_output=True, text=True, check=True
    )
    assert result.stdout.count("\n") == 1
    assert "model.name: the weights test_vit.r160_in1k cannot be had from huggingface.co (" in result.stdout
    assert result.stdout.endswith(" None\n")  # the timeout is put back
    assert list(raw.iterdir()) == []


def test_random_weights_need_no_file_and_the_module_no_torch(tmp_path: Path) -> None:
    download.fetch(RandomModel(source="random", name="test_vit", seed=0), "probe", tmp_path)
    assert list(tmp_path.iterdir()) == []
    script = "import sys; import vitquant.models.download; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
