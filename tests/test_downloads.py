import hashlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server, isolate, serve

from vitquant import downloads
from vitquant.downloads import download
from vitquant.errors import VitquantError
from vitquant.params import TinyImagenetData

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serve({"/files/weights.bin?raw=1": CONTENT}) as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    isolate(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "weights.bin"


def fails(url: str, target: Path, digest: str = SHA256) -> str:
    """The message of a download that must not succeed."""
    with pytest.raises(VitquantError) as error:
        download(url, target, "sha256", digest, key="model.url")
    assert not target.exists()
    assert "\n" not in str(error.value)
    assert "model.url" in str(error.value)
    return str(error.value)


def leave_partial(server: Server, cache: Path, content: bytes) -> Path:
    """What an earlier, killed download of `server.url` left."""
    cache.mkdir()
    partial = cache / f"{SHA256}-weights.bin.partial"
    partial.write_bytes(content)
    return partial


def test_a_good_download(server: Server, target: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(server.url, target, "md5", MD5)
    assert target.read_bytes() == CONTENT
    assert list(cache.iterdir()) == []
    assert server.starts == [0]
    shown = capsys.readouterr().err
    assert "weights.bin: 100%" in shown
    assert "1.02M/1.02M" in shown


def test_a_cut_download_goes_on_where_it_ended(server: Server, target: Path) -> None:
    server.script = [300_001, 1, 200_000, 77, 65_536, 10, "good"]
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.starts) == 7
    assert server.starts == [sum(server.sent[:i]) for i in range(7)]
    assert sum(server.sent) == len(CONTENT)


def test_a_cut_chunked_answer_goes_on(server: Server, target: Path) -> None:
    server.script = [("chunked", 50_000), "good"]
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT
    assert server.starts == [0, 50_000]


def test_a_length_need_not_be_known(server: Server, target: Path) -> None:
    server.script = ["no length"]
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT


def test_a_server_that_always_cuts_is_given_up_and_what_came_is_kept(server: Server, target: Path, cache: Path) -> None:
    server.script = [500, 0]
    message = fails(server.url, target)
    assert "the connection is lost, 4 times in a row; 500 bytes are kept in" in message
    assert server.starts == [0, 500, 500, 500, 500]
    server.script = ["good"]
    download(server.url, target, "sha256", SHA256)
    assert server.starts[-1] == 500
    assert target.read_bytes() == CONTENT


def test_an_earlier_process_left_a_part(server: Server, target: Path, cache: Path) -> None:
    leave_partial(server, cache, CONTENT[:123_456])
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT
    assert server.starts == [123_456]


def test_an_earlier_process_left_all(server: Server, target: Path, cache: Path) -> None:
    leave_partial(server, cache, CONTENT)
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT
    assert server.starts == []


@pytest.mark.parametrize("extra", [b"", b"too long"])
def test_a_part_that_is_too_long_starts_again(server: Server, target: Path, cache: Path, extra: bytes) -> None:
    leave_partial(server, cache, b"x" * len(CONTENT) + extra)
    server.script = ["good", 1000, 1000, 1000, 1000, 1000, "good"]
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT
    assert server.starts == [len(CONTENT) + len(extra), 0, 1000, 2000, 3000, 4000, 5000]


def test_a_server_that_ignores_ranges(server: Server, target: Path, cache: Path) -> None:
    leave_partial(server, cache, CONTENT[:1000])
    server.script = ["no ranges"]
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT
    assert sum(server.sent) == len(CONTENT)


def test_a_server_that_sends_another_range(server: Server, target: Path, cache: Path) -> None:
    leave_partial(server, cache, CONTENT[:1000])
    server.script = ["moved range", "good"]
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT
    assert server.starts == [1000, 0]


@pytest.mark.parametrize("status", ["404", "403", "410", "416"])
def test_a_refusal_is_final(server: Server, target: Path, status: str) -> None:
    server.script = [status]
    assert f"{server.url}: the server answers {status}" in fails(server.url, target)
    assert server.starts == [0]


def test_a_password_in_the_url_is_not_shown(server: Server, target: Path) -> None:
    server.script = ["404"]
    message = fails(server.url.replace("//", "//me:secret@"), target)
    assert "secret" not in message
    assert server.url in message


def test_a_server_in_trouble_is_asked_again(server: Server, target: Path) -> None:
    server.script = ["500", "500", "good"]
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT
    assert server.starts == [0, 0, 0]


def test_a_server_that_stays_in_trouble(server: Server, target: Path) -> None:
    server.script = ["500"]
    assert "the server answers 500 Internal Server Error, 4 times in a row" in fails(server.url, target)
    assert server.starts == [0] * 4


@pytest.mark.parametrize("after", [None, 0, 40_000])
def test_a_server_that_hangs_once(server: Server, target: Path, after: int | None) -> None:
    server.script = [("hang", after), "good"]
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT
    assert server.starts == [0, after or 0]


def test_a_server_that_hangs_for_ever(server: Server, target: Path) -> None:
    server.script = [("hang", None)]
    assert "the server sends nothing for 0.3 s, 4 times in a row" in fails(server.url, target)


def test_another_digest_leaves_nothing(server: Server, target: Path, cache: Path) -> None:
    message = fails(server.url, target, "0" * 64)
    assert f"{server.url}: SHA-256 is {SHA256}, params.yaml expects {'0' * 64}" in message
    assert list(cache.iterdir()) == []
    assert not target.exists()


def test_what_was_there_before_stays_until_the_new_file_is_right(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"before")
    with pytest.raises(VitquantError):
        download(server.url, target, "sha256", "0" * 64)
    assert target.read_bytes() == b"before"
    download(server.url, target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT


def test_a_refused_port_names_the_host(target: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening
        port = closed.getsockname()[1]
        message = fails(f"http://127.0.0.1:{port}/weights.bin", target)
    assert message == (
        "cannot reach 127.0.0.1 (Connection refused): check the network, or point model.url at a mirror or a file"
    )


def test_an_unknown_host_is_named(target: Path) -> None:
    assert "cannot reach no-such-host.invalid (" in fails("https://no-such-host.invalid/weights.bin", target)


def test_a_proxy_that_is_down_is_named(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        message = fails("https://example.com/weights.bin", target)
    assert f"cannot reach example.com through the proxy 127.0.0.1:{port} (Connection refused)" in message


def test_no_url(target: Path) -> None:
    assert "is not a URL" in fails("https://host:port/weights.bin", target)


def test_a_second_process_is_told_to_wait(server: Server, target: Path, cache: Path) -> None:
    partial = leave_partial(server, cache, b"")
    with downloads._open_alone(partial), pytest.raises(VitquantError, match="by another process: wait"):
        download(server.url, target, "sha256", SHA256)
    assert server.starts == []


def test_a_cache_that_cannot_be_made(server: Server, target: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(VitquantError, match="cannot be made .*set VITQUANT_CACHE to a folder"):
        download(server.url, target, "sha256", SHA256)


def test_a_cache_on_another_disk(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == target.parents[1].stat().st_dev:
        pytest.skip("/dev/shm is no other file system here")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        monkeypatch.setenv("VITQUANT_CACHE", folder)
        download(server.url, target, "sha256", SHA256)
        assert list(Path(folder).iterdir()) == []
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["weights.bin"]


def test_a_file_on_this_disk(target: Path, tmp_path: Path) -> None:
    source = tmp_path / "my weights.bin"
    source.write_bytes(CONTENT)
    download(source.as_uri(), target, "sha256", SHA256)
    assert target.read_bytes() == CONTENT
    assert source.exists()


def test_a_file_with_another_digest(target: Path, tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(b"other")
    assert f"{source.as_uri()}: SHA-256 is" in fails(source.as_uri(), target)
    assert list(target.parent.iterdir()) == []


def test_a_file_that_is_not_there(target: Path, tmp_path: Path) -> None:
    assert f"{tmp_path / 'no'} is not a file" in fails((tmp_path / "no").as_uri(), target)


@pytest.mark.parametrize(
    ("url", "good"),
    [("https://host/a", True), ("file:///a", True), ("file://host/a", False), ("ftp://host/a", False), ("a", False)],
)
def test_the_urls_that_params_take(url: str, good: bool) -> None:
    values = {"source": "tiny-imagenet", "url": url, "md5": MD5, "train_per_class": 1, "val_per_class": 1}
    values |= {"resize": 64, "crop": 64, "interpolation": "auto", "seed": 0, "on_undecodable": "stop"}
    values |= {"max_megapixels": 80}
    if good:
        assert TinyImagenetData.model_validate(values).url == url
    else:
        with pytest.raises(ValueError, match="url"):
            TinyImagenetData.model_validate(values)


@pytest.mark.parametrize("step", ["good", "no length", ("chunked", 900_000)])
def test_more_than_any_file_has_is_not_kept(
    server: Server, target: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, step: object
) -> None:
    monkeypatch.setattr(downloads, "LARGEST", 500_000)
    server.script = [step]
    assert f"{server.url}: the server sends more than 500000 bytes: no such file;" in fails(server.url, target)
    assert sum(file.stat().st_size for file in cache.iterdir()) == 0
    assert server.starts == [0]


def test_more_than_the_server_said_is_not_kept(server: Server, target: Path, cache: Path) -> None:
    """It said so of a part, and sends the part without a length."""
    leave_partial(server, cache, CONTENT[:1000])
    server.script = ["longer range"]
    assert f"{server.url}: the server sends more than {len(CONTENT)} bytes" in fails(server.url, target)
    assert sum(file.stat().st_size for file in cache.iterdir()) == 0


@pytest.mark.parametrize("url", ["https://me:secret@host:port/a", "https://me:secret@[host/a"])
def test_a_password_in_what_is_no_url_is_not_shown(target: Path, url: str) -> None:
    assert "secret" not in fails(url, target)


def test_a_password_is_not_shown_of_another_digest_or_a_file(server: Server, target: Path) -> None:
    for url in (server.url.replace("//", "//me:secret@"), "file://me:secret@host/none"):
        assert "secret" not in fails(url, target, "0" * 64)


def test_a_link_in_place_of_a_partial_download_is_not_followed(
    server: Server, cache: Path, tmp_path: Path, target: Path
) -> None:
    partial = leave_partial(server, cache, b"")
    (tmp_path / "victim").write_text("precious")
    partial.unlink()
    partial.symlink_to(tmp_path / "victim")
    with pytest.raises(VitquantError, match="is a link, whose code would run as user"):
        download(server.url, target, "sha256", SHA256)
    assert (tmp_path / "victim").read_text() == "precious"
