"""Files by path or URL: atomic creation, named failures, retries."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rayvos import storage
from rayvos.errors import FileTooLargeError, MissingPathError, PermissionDeniedError, StorageError, UsageError


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return str(tmp_path / "a b") if request.param == "local" else f"memory://{tmp_path.name}"


def remove_side_by_side(place, *, rounds=10):
    """Have threads remove the same folder at the same time; an error of any of them is raised here."""
    for number in range(rounds):
        folder = storage.join(place, f"marks{number}")
        for name in range(20):
            storage.write_bytes(storage.join(folder, f"{name}"), b"x")
        barrier = threading.Barrier(4)

        def remove(folder=folder, barrier=barrier):
            barrier.wait()
            storage.remove(folder)

        with ThreadPoolExecutor(4) as pool:
            for answer in [pool.submit(remove) for _ in range(4)]:
                answer.result()
        assert storage.list_folder(folder) == []


def test_a_file_is_created_once_and_never_replaced(folder):
    path = storage.join(folder, "labels", "unit.parquet")

    assert storage.create_if_absent(path, b"first")
    assert not storage.create_if_absent(path, b"second")
    assert storage.read_bytes(path) == b"first"


def test_of_many_writers_exactly_one_creates_the_file(tmp_path):
    path, wins = str(tmp_path / "unit"), list[bytes]()

    def write(data: bytes) -> None:
        if storage.create_if_absent(path, data):
            wins.append(data)

    threads = [threading.Thread(target=write, args=(bytes([i]) * 1000,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(wins) == 1
    assert storage.read_bytes(path) == wins[0]


def test_a_failed_creation_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)

    with pytest.raises(StorageError, match="No space left"):
        storage.create_if_absent(str(tmp_path / "unit"), b"data")

    assert list(tmp_path.iterdir()) == []


def test_writing_replaces_and_listing_names_what_is_there(folder):
    path = storage.join(folder, "x.json")
    storage.write_bytes(path, b"1")
    storage.write_bytes(path, b"2")

    assert storage.read_bytes(path) == b"2"
    assert storage.list_folder(folder) == ["x.json"]
    assert storage.exists(path)
    storage.remove(path)
    assert not storage.exists(path)
    assert storage.list_folder(storage.join(folder, "nowhere")) == []


def test_failures_name_the_path_and_the_remedy(tmp_path):
    with pytest.raises(MissingPathError, match="nowhere"):
        storage.read_bytes(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="nope://"):
        storage.read_bytes("nope://bucket/key")


def test_a_path_without_permission_is_named(tmp_path, monkeypatch):
    def denied(*_: object, **__: object) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.info", denied)

    with pytest.raises(PermissionDeniedError, match="secret"):
        storage.read_bytes(str(tmp_path / "secret"))


def test_a_large_file_appears_whole_or_not_at_all(folder):
    path = storage.join(folder, "labels.parquet")
    with storage.open_output(path) as file:
        file.write(b"old")

    def break_off() -> None:
        with storage.open_output(path) as file:
            file.write(b"half of the new")
            assert storage.read_bytes(path) == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert storage.read_bytes(path) == b"old"
    assert storage.list_folder(folder) == ["labels.parquet"]


def test_several_processes_may_remove_the_same_folder_at_once(tmp_path):
    remove_side_by_side(str(tmp_path))


def test_a_file_above_the_limit_is_refused_before_it_is_read(folder, monkeypatch):
    path = storage.join(folder, "boxes.json")
    storage.write_bytes(path, b"12345")

    assert storage.read_bytes(path, max_bytes=5) == b"12345"
    with pytest.raises(FileTooLargeError, match=r"boxes\.json.*5 bytes.*at most 4.*RAYVOS_MAX_FILE_BYTES"):
        storage.read_bytes(path, max_bytes=4)
    monkeypatch.setenv("RAYVOS_MAX_FILE_BYTES", "3")
    with pytest.raises(FileTooLargeError, match="at most 3"):
        storage.read_bytes(path)
    monkeypatch.setenv("RAYVOS_MAX_FILE_BYTES", "3 GB")
    with pytest.raises(UsageError, match="3 GB"):
        storage.read_bytes(path)
