"""Files by path or URL: one place that knows fsspec, retries what may heal, and names what does not.

Every path of rayvos may be a local path or any fsspec URL (`s3://bucket/folder`). The commit primitive of a run is
`create_if_absent`: a whole file appears under its name in one step, or the name was taken before.

Why so: a hard link (local) and a conditional PUT (object stores) are atomic and need no lock, no log and no cleanup
by anybody else. Rename would replace a file that another process committed first; a lock outlives its killed holder.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from rayvos.errors import FileTooLargeError, MissingPathError, PermissionDeniedError, StorageError, UsageError
from rayvos.retries import failures, retrying, service_code
from rayvos.url_policy import HTTP, check_url, guarded_http_client

__all__ = [
    "absolute",
    "create_if_absent",
    "exists",
    "filesystem",
    "is_url",
    "join",
    "list_folder",
    "local_path",
    "naming",
    "open_input",
    "open_output",
    "read_bytes",
    "remove",
    "retrying",
    "write_bytes",
]

READ_BUFFER = 256 << 10  # bytes; fsspec reads ahead in larger blocks below it
PART_BYTES = 64 << 20  # larger objects travel in parts of this size, each tried again by itself
MAX_FILE_BYTES = 4 << 30  # of a file that is read whole: larger ones would end in a machine out of memory
REMOVALS = 5  # of one folder that others write into meanwhile
EMPTY_RANGE = 416  # HTTP's answer where a file has no byte at all
CLOCK_CODES = {"RequestTimeTooSkewed", "RequestExpired"}


def is_url(path: str) -> bool:
    """Tell whether `path` is a URL with a scheme (`s3://…`) rather than a local path."""
    return "://" in path


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of `path` and the path inside it.

    Raises:
        UsageError: the path is empty, or no file system is known for the URL's scheme.
        PermissionDeniedError: the policy on URLs forbids it.
        MissingPathError: it holds a NUL byte, which no file's name does.
    """
    if not path:  # an unset variable of a script; taken for a folder it would be the root of the disk
        raise UsageError("expected a path or URL, found an empty one")
    if "\0" in path:
        raise MissingPathError(f"{path!r}: nothing is there: no path holds a NUL byte; correct the name")
    try:
        scheme = urlsplit(path if is_url(path) else "").scheme
        if scheme in fsspec.available_protocols():  # of others fsspec says more
            check_url(path)
        options = {"get_client": guarded_http_client} if scheme in HTTP else {}
        fs, inner = fsspec.url_to_fs(os.fspath(path), **options)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{path}: {error}; use a local path or a URL whose scheme fsspec knows") from error
    return fs, inner


def local_path(path: str) -> Path | None:
    """Return the local path of `path`, or None where it lies on a remote file system."""
    if not is_url(path):
        return Path(path)
    fs, inner = filesystem(path)
    return Path(inner) if isinstance(fs, LocalFileSystem) else None


def absolute(path: str) -> str:
    """Return a path as processes with other working directories find it; a URL, or an empty path, as it is."""
    local = local_path(path)
    return path if local is None or not path else str(local.absolute())


def join(folder: str, *names: str) -> str:
    """Join a folder's path or URL and the names below it with forward slashes.

    Raises:
        UsageError: the folder's path is empty.
    """
    if not folder:
        raise UsageError("expected the path or URL of a folder, found an empty one")
    return "/".join([folder.rstrip("/") or "/", *(name.strip("/") for name in names)])


@contextmanager
def naming(path: str, verb: str = "read") -> Iterator[None]:
    """Turn what storage raises inside the block into an error that names `path`.

    Raises:
        MissingPathError: the path leads to nothing.
        PermissionDeniedError: it may not be touched.
        StorageError: anything else that storage reports.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingPathError(
            f"{path}: nothing is there to {verb}; check the path, or the URL's bucket and key"
        ) from error
    except PermissionError as error:
        if service_code(error)[0] in CLOCK_CODES:
            raise PermissionDeniedError(
                f"{path}: could not {verb} it: this machine's clock differs too much from the store's; set it (NTP)"
            ) from error
        raise PermissionDeniedError(f"{path}: no permission to {verb} it; check rights or credentials") from error
    except failures() as error:
        status = getattr(error, "status", None)  # of an HTTP answer
        refused = isinstance(getattr(error, "os_error", None), PermissionError)  # by our own policy, see url_policy
        if refused or status in (401, 403) or "Credentials" in type(error).__name__:
            raise PermissionDeniedError(f"{path}: no permission to {verb} it: {error}; check credentials") from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StorageError(f"{path}: could not {verb} it: {reason}") from error


def open_input(path: str) -> IO[bytes]:
    """Open a file for reading bytes; later reads of a remote one are tried again like all requests.

    Raises:
        StorageError: and its children, naming the path.
    """
    fs, inner = filesystem(path)
    with naming(path):
        file: IO[bytes] = retrying(lambda: fs.open(inner, "rb"), path=path)
    if isinstance(fs, LocalFileSystem) or not file.seekable():
        return file
    return cast(IO[bytes], io.BufferedReader(_PatientFile(file, path), READ_BUFFER))


class _PatientFile(io.RawIOBase):
    """A remote file whose reads are tried again: a failed one leaves the position where it was."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        super().__init__()
        self._file = file
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = retrying(lambda: self._file.read(len(buffer)), path=self._path)
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def read_bytes(path: str, max_bytes: int | None = None) -> bytes:
    """Return a file's bytes.

    Args:
        path: local path or URL.
        max_bytes: a larger file is refused before its bytes are fetched; None: `RAYVOS_MAX_FILE_BYTES` of this
            machine, or 4 GiB.

    Raises:
        FileTooLargeError: it holds more bytes.
        UsageError: the environment variable is no number.
        StorageError: and its children, naming the path.
    """
    fs, inner = filesystem(path)
    most = _most_bytes() if max_bytes is None else max_bytes
    with naming(path):
        data: bytes = retrying(lambda: _fetch(fs, inner, path, most), path=path)
    _check_size(path, len(data), most)
    return data


def _fetch(fs: fsspec.AbstractFileSystem, inner: str, path: str, most: int) -> bytes:
    """Return a file's bytes, in no more requests than without the limit; of a web server's, `most` + 1 at most."""
    if not HTTP.isdisjoint(fs.protocol):  # asking for the size hides a server's failure as a missing file
        try:
            return cast(bytes, fs.cat_file(inner, start=0, end=most + 1))
        except failures() as error:
            if getattr(error, "status", None) == EMPTY_RANGE:
                return b""
            raise
    fs.invalidate_cache(inner)  # others write, too
    size = int(fs.size(inner) or 0)
    _check_size(path, size, most)
    # An open range keeps s3fs from asking for the size once more; an empty object has no range.
    once = {"start": 0} if "s3" in fs.protocol and 0 < size <= PART_BYTES else {}
    return cast(bytes, fs.cat_file(inner, **once))


def _check_size(path: str, size: int, most: int) -> None:
    if size > most:
        raise FileTooLargeError(
            f"{path}: holds {size} bytes or more, at most {most} are read; give a smaller file, or raise "
            "RAYVOS_MAX_FILE_BYTES (for pictures: --max-pixels) if this is the one you meant"
        )


def _most_bytes() -> int:
    """Return how large a file may be that is read whole.

    Raises:
        UsageError: the environment variable is no number of bytes.
    """
    text = os.environ.get("RAYVOS_MAX_FILE_BYTES", str(MAX_FILE_BYTES))
    if not text.isdecimal():
        raise UsageError(f"RAYVOS_MAX_FILE_BYTES: expected a number of bytes, found {text!r}; correct the environment")
    return int(text)


def exists(path: str) -> bool:
    """Tell whether a file or folder is there.

    Raises:
        StorageError: storage does not answer.
    """
    fs, inner = filesystem(path)
    with naming(path):
        return bool(retrying(lambda: fs.exists(inner), path=path))


def list_folder(path: str) -> list[str]:
    """Return the sorted names (not paths) inside a folder; empty where it does not exist.

    Raises:
        StorageError: and its children, naming the path.
    """
    fs, inner = filesystem(path)
    fs.invalidate_cache(inner)

    def entries() -> list[Any]:
        try:
            return fs.ls(inner, detail=False)  # type: ignore[no-any-return]
        except FileNotFoundError:
            return []

    with naming(path, "list"):
        names = (str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in retrying(entries, path=path))
        return sorted(name for name in names if name)


def create_if_absent(path: str, data: bytes) -> bool:
    """Make a whole file appear in one atomic step, unless its name is taken.

    Returns:
        True if this call created it; False if it was there before and stays as it was.

    Raises:
        StorageError: and its children, naming the path. Nothing appears under the name then.
    """
    fs, inner = filesystem(path)
    with naming(path, "write"):
        if isinstance(fs, LocalFileSystem):
            return retrying(lambda: _link_if_absent(Path(inner), data))
        return retrying(lambda: _put_if_absent(fs, inner, data), path=path)


def _link_if_absent(path: Path, data: bytes) -> bool:
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readers skip names that start with a dot, so a leftover of a killed process is never taken for a file.
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _put_if_absent(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> bool:
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def write_bytes(path: str, data: bytes) -> None:
    """Write or replace a file; readers see the old one or the new one, never a part.

    Raises:
        StorageError: and its children, naming the path.
    """
    fs, inner = filesystem(path)

    def write() -> None:
        if not isinstance(fs, LocalFileSystem):
            fs.pipe_file(inner, data)
            return
        target = Path(inner)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    with naming(path, "write"):
        retrying(write, path=path)


@contextmanager
def open_output(path: str) -> Iterator[IO[bytes]]:
    """Open a file of any size for writing; it appears whole, in one step, when the block ends without error.

    Yields:
        A local, seekable file; for a remote path it is uploaded at the end.

    Raises:
        StorageError: and its children, naming the path. The path then holds what it held before.
    """
    fs, inner = filesystem(path)
    with naming(path, "write"):
        if not isinstance(fs, LocalFileSystem):
            with tempfile.NamedTemporaryFile() as file:
                yield file
                file.flush()
                retrying(lambda: fs.put_file(file.name, inner, **_in_parts(fs)), path=path)
            return
        target = Path(inner)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("w+b") as file:
                yield file
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def _in_parts(fs: fsspec.AbstractFileSystem) -> dict[str, int]:
    """Return the option by which a store uploads large files in parts; a broken-off upload leaves no parts behind."""
    return {"chunksize": PART_BYTES} if "s3" in fs.protocol else {}


def remove(path: str) -> None:
    """Remove a file or a folder with all inside it; nothing happens where it is not there, or no longer.

    Raises:
        StorageError: and its children, naming the path.
    """
    fs, inner = filesystem(path)

    def remove_now() -> None:
        for _ in range(REMOVALS):
            fs.invalidate_cache()
            if not fs.exists(inner):
                return
            with suppress(FileNotFoundError):  # another process removes it, too, and was faster with a part of it
                fs.rm(inner, recursive=True)
                return
        raise OSError(errno.EBUSY, "it is removed and made anew all the time", path)

    with naming(path, "remove"):
        retrying(remove_now, path=path)
