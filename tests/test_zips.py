import tracemalloc
import zipfile
from pathlib import Path

import pytest

from vitquant import zips

LIMIT = 1_000_000  # bytes


def write(path: Path, content: bytes, method: int) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("member", content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_up_to_the_limit(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(write(tmp_path / "a.zip", b"x" * LIMIT, method)) as archive:
        assert zips.read(archive, "member", LIMIT) == b"x" * LIMIT
        with pytest.raises(OSError, match="member has 1000000 bytes unpacked, more than 999999"):
            zips.read(archive, "member", LIMIT - 1)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_end_are_refused(tmp_path: Path, method: int) -> None:
    with (
        zipfile.ZipFile(write(tmp_path / "a.zip", b"x", method)) as archive,
        pytest.raises(OSError, match="member is compressed by method .*, not by deflate"),
    ):
        zips.read(archive, "member", LIMIT)


def test_a_member_that_lies_about_its_size(tmp_path: Path) -> None:
    """Of 100 MB, the zip says that they are 1,000 bytes; no more than the limit is unpacked."""
    file = write(tmp_path / "a.zip", bytes(100_000_000), zipfile.ZIP_DEFLATED)
    file.write_bytes(file.read_bytes().replace((100_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with zipfile.ZipFile(file) as archive:
        assert archive.getinfo("member").file_size == 1000
        tracemalloc.start()
        try:
            with pytest.raises(OSError, match="a.zip: Bad CRC-32"):
                zips.read(archive, "member", LIMIT)
            assert tracemalloc.get_traced_memory()[1] < 5 * LIMIT
        finally:
            tracemalloc.stop()
