"""Unpacks a .tar.gz that anybody may have made.

`tarfile.extractall` is not used: with it a member may be a link that leads out of the folder, and nothing stops an
archive of a megabyte that holds a terabyte. Here each member is looked at and then written by hand: regular files and
folders only, below the root only, never over something that is there already. The archive is read as a stream, so that
a bomb ends when it goes over a limit and not when the disk is full.
"""

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from .errors import InvalidArchive, printable

MIB = 1 << 20
CHUNK = 64 << 10
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    members: int = 100_000
    file_bytes: int = 1024 * MIB
    total_bytes: int = 2048 * MIB  # less than `workspace.size` in definition.yaml
    ratio: int = 100  # unpacked : packed; XML reaches 20, gzip's own end is 1032
    ratio_from: int = 16 * MIB  # small archives may have any ratio
    header_bytes: int = 1 * MIB  # between two files; tarfile keeps such headers in memory
    depth: int = 16
    path_bytes: int = 1024


@dataclass
class Unpacked:
    files: int = 0
    folders: int = 0
    bytes: int = 0


def unpack(archive: Path, root: Path, limits: Limits = Limits(), progress: Callable[[int, int], None] | None = None) -> Unpacked:
    """Unpacks `archive` into the empty folder `root`. `progress` gets the bytes of the archive: read, total.

    Raises InvalidArchive. What was written until then stays in `root`; the caller throws it away.
    """
    total = archive.stat().st_size
    with archive.open("rb") as packed:
        stream = _Stream(packed, limits)
        try:
            tar = _header(lambda: tarfile.open(fileobj=stream, mode="r|"))
            result = Unpacked()
            for member in _each(tar, stream, limits):
                if progress:
                    progress(packed.tell(), total)
                _place(tar, stream, member, root, result, limits)
            _expect_end(tar, stream)
        except tarfile.TarError as error:
            raise InvalidArchive(f"The file holds no readable tar archive ({error}). Upload the .tar.gz file that the export of a course gives.") from None
    if progress:
        progress(total, total)
    return result


class _Stream:
    """The unpacked bytes, counted: against the bytes they came from, and against what the reader was allowed to take."""

    def __init__(self, packed: BinaryIO, limits: Limits) -> None:
        self._packed = packed
        self._plain = gzip.GzipFile(fileobj=packed, mode="rb")
        self._limits = limits
        self._allowed = limits.header_bytes
        self.given = 0
        self.zeros = 0  # zero bytes at the end of what was given

    def allow(self, payload: int) -> None:
        """Room for a payload and for the headers after it; tarfile itself would read headers of any size."""
        self._allowed = self.given + payload + self._limits.header_bytes

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self.given += len(data)
        content = len(data.rstrip(b"\0"))
        self.zeros = len(data) - content + (0 if content else self.zeros)
        if self.given > self._limits.ratio_from and self.given > self._limits.ratio * self._packed.tell():
            raise InvalidArchive(
                f"The archive unpacks to more than {self._limits.ratio} times its size, as a decompression bomb does. It was not unpacked further."
            )
        if self.given > self._allowed:
            raise InvalidArchive("The archive has more between its files than names of files need. Export the course again.")
        return data

    def _read(self, size: int) -> bytes:
        try:
            return self._plain.read(size)
        except EOFError:
            raise InvalidArchive("The archive ends too early: the export or the upload was cut off. Try it again.") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            if self.given == 0:
                raise InvalidArchive("The file is not a .tar.gz archive. Upload the file that the export of a course gives.") from None
            raise InvalidArchive(f"The archive is damaged ({error}). Export the course again.") from None


def _header(read: Callable[[], T]) -> T:
    try:
        return read()
    except (ValueError, OverflowError, RecursionError):  # numbers that are none, headers of headers of headers
        raise InvalidArchive("The archive is damaged: a header in it is not readable. Export the course again.") from None


def _each(tar: tarfile.TarFile, stream: _Stream, limits: Limits) -> Iterator[tarfile.TarInfo]:
    for _ in range(limits.members + 1):
        stream.allow(0)
        member = _header(tar.next)
        tar.members.clear()  # tarfile would keep a record of each
        if member is None:
            return
        yield member
    raise InvalidArchive(f"The archive holds more than {limits.members:,} files and folders.")


def _place(tar: tarfile.TarFile, stream: _Stream, member: tarfile.TarInfo, root: Path, sofar: Unpacked, limits: Limits) -> None:
    target = root.joinpath(*_parts(member.name, limits))
    try:
        if member.isdir():
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            sofar.folders += 1
        elif member.isreg() and not member.issparse():
            _reject_size(member, sofar, limits)
            stream.allow(member.size)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(tar, member, target)
            sofar.files += 1
            sofar.bytes += member.size
        else:
            raise InvalidArchive(_refused(member))
    except (FileExistsError, NotADirectoryError):
        raise InvalidArchive(f"The archive holds {printable(member.name)!r} twice, or as a file and as a folder.") from None


def _parts(name: str, limits: Limits) -> list[str]:
    shown = printable(name)
    if name.startswith("/"):
        raise InvalidArchive(f"The archive holds the absolute path {shown!r}. Paths must be relative to the course.")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidArchive(f"The archive holds {shown!r}, which leads out of the course ('..').")
    if len(parts) > limits.depth or len(os.fsencode(name)) > limits.path_bytes or any(len(os.fsencode(part)) > 255 for part in parts):
        raise InvalidArchive(f"The archive holds the path {shown!r}, which is too long or too deep.")
    if "\0" in name:
        raise InvalidArchive(f"The archive holds {shown!r}, which is not a file name.")
    return parts


def _refused(member: tarfile.TarInfo) -> str:
    shown = printable(member.name)
    if member.issym() or member.islnk():
        return f"The archive holds the link {shown!r}. Links are not allowed: put the file itself in its place."
    if member.isdev():
        return f"The archive holds {shown!r}, which is a device or a pipe. Only files and folders are allowed."
    return f"The archive holds {shown!r}, which is neither a plain file nor a folder."


def _reject_size(member: tarfile.TarInfo, sofar: Unpacked, limits: Limits) -> None:
    if not 0 <= member.size <= limits.file_bytes:
        raise InvalidArchive(f"{printable(member.name)!r} is larger than {limits.file_bytes // MIB:,} MiB.")
    if sofar.bytes + member.size > limits.total_bytes:
        raise InvalidArchive(f"The archive unpacks to more than {limits.total_bytes // MIB:,} MiB.")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None, "a regular file has content"
    left = member.size
    # O_EXCL: never over a file of the same archive. No link can be in the way, as none is ever made.
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while left > 0:
            try:
                data = source.read(min(CHUNK, left))
            except tarfile.ReadError:
                data = b""
            if not data:
                raise InvalidArchive(f"The archive ends inside {printable(member.name)!r}: it says {member.size:,} bytes and holds fewer.")
            file.write(data)
            left -= len(data)


def _expect_end(tar: tarfile.TarFile, stream: _Stream) -> None:
    """Reads to the very end, which makes gzip check its checksum.

    tarfile takes a broken header for the end of the archive; then there would be content after it, or no zeros at the end.
    """
    while tar.fileobj.read(CHUNK):
        pass
    if stream.given - tar.offset > stream.zeros or stream.zeros < 2 * tarfile.BLOCKSIZE:
        raise InvalidArchive("The archive is damaged: there is no proper end after the last file that could be read. Export the course again.")
