"""Members of zips that others made: no more of them is unpacked than was agreed on."""

import zipfile
import zlib

METHODS = (
    zipfile.ZIP_STORED,
    zipfile.ZIP_DEFLATED,
)  # of the others, Python unpacks a block whole, whatever it grows to


def check(member: zipfile.ZipInfo, limit: int) -> None:
    """See that a member may be read.

    Args:
        limit: bytes that it may have unpacked.

    Raises:
        OSError: it says that it is larger, or is compressed by another method than deflate.
    """
    if member.compress_type not in METHODS:
        raise OSError(f"{member.filename} is compressed by method {member.compress_type}, not by deflate")
    if member.file_size > limit:
        raise OSError(f"{member.filename} has {member.file_size} bytes unpacked, more than {limit}")


def read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member's content, of at most `limit` bytes, whatever the zip says of its size.

    Raises:
        OSError: it is larger, damaged, encrypted, or compressed by another method than deflate.
    """
    try:
        check(archive.getinfo(name), limit)
        with archive.open(name) as member:
            return member.read(limit + 1)  # with a size: without one, more than the zip says may be unpacked
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise OSError(f"{archive.filename}: {error}") from None
