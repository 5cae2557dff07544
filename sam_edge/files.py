"""Writing results so that nobody ever sees half of one.

Everything is written under a temporary name in the destination's own folder (a rename is atomic only within one file
system), flushed to the disk, and renamed. An error or Ctrl-C removes the temporary file and leaves what was there.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sam_edge.errors import OutputError

__all__ = ["atomic_file", "atomic_folder", "write_bytes_atomically"]

_WHAT_TO_DO = {
    errno.ENOSPC: "the disk is full. Free some space, or choose another folder",
    errno.EDQUOT: "the disk quota is used up. Free some space, or choose another folder",
    errno.EFBIG: "the file is larger than may be written here. Choose another folder, or raise the limit",
    errno.ENOENT: "its folder does not exist. Create it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder. Choose another path",
    errno.EACCES: "permission denied. Choose a folder you may write to",
    errno.EPERM: "permission denied. Choose a folder you may write to",
    errno.EROFS: "the file system is read-only. Choose another folder",
    errno.EISDIR: "it is a folder. Give the name of a file",
    errno.ENAMETOOLONG: "the name is too long. Choose a shorter one",
}


def write_bytes_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`; what was at `path` stays if anything fails. Raises OutputError."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path` when the block ends without an error.

    A device or a pipe (`/dev/stdout`) cannot be renamed over and is written directly. Raises OutputError.
    """
    given = Path(path)
    destination = given.resolve()  # a link stays a link; the file it points to is replaced
    temporary = _temporary_name(destination)
    with _as_output_error(given, destination, temporary):
        # Not resolved here: what /dev/stdout points to may have no path of its own.
        if given.exists() and not stat.S_ISREG(given.stat().st_mode):
            with given.open("wb") as file:  # a folder raises EISDIR here
                yield file
            return
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(destination)
        except BaseException:  # Ctrl-C too
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(destination.parent)


@contextmanager
def atomic_folder(path: str | Path, marker: str) -> Iterator[Path]:
    """Yield a new, empty folder that becomes `path` when the block ends without an error.

    An older folder at `path` is replaced only if it is empty or holds a file called `marker`: a mistyped path must not
    delete somebody's photos. Raises OutputError.
    """
    given = Path(path)
    destination = given.resolve()
    temporary = _temporary_name(destination)
    with _as_output_error(given, destination, temporary):
        if destination.exists() and not _may_be_replaced(destination, marker):
            raise OutputError(
                f"{path} already exists and holds no {marker}, so it is not replaced. Choose another path."
            )
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    _sync_file(file)
            _replace_folder(temporary, destination)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(destination.parent)


@contextmanager
def _as_output_error(given: Path, destination: Path, temporary: Path) -> Iterator[None]:
    """Turn what the system says of this output into an OutputError; an OSError about another file passes unchanged."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not any(
            Path(error.filename).is_relative_to(path) for path in (given, destination, temporary)
        ):
            raise
        reason = _WHAT_TO_DO.get(error.errno or 0, f"{error.strerror or error}. Choose another path")
        raise OutputError(f"{given} cannot be written: {reason}.") from error


def _temporary_name(destination: Path) -> Path:
    # Cut, so that a name that is itself just short enough does not fail for its temporary suffix.
    return destination.with_name(f".{destination.name[:100]}.{secrets.token_hex(4)}.tmp")


def _may_be_replaced(folder: Path, marker: str) -> bool:
    return folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))


def _replace_folder(new: Path, destination: Path) -> None:
    """A rename cannot replace a folder with content: the old one steps aside, and comes back if the new one fails."""
    if not destination.exists():
        new.rename(destination)
        return
    old = _temporary_name(destination)
    destination.rename(old)
    try:
        new.rename(destination)
    except BaseException:
        old.rename(destination)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable. Windows cannot open folders, and some network drives cannot sync them."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
