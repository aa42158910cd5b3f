"""Reading Parquet and CSV without handing Python files to Arrow's threads."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayvos import storage
from rayvos.annotations.arrow_files import open_native, open_parquet, read_parquet
from rayvos.errors import MissingPathError

TABLE = pa.table({"x": list(range(1000)), "y": ["a"] * 1000})


@pytest.fixture(params=["local", "memory"])
def path(request, tmp_path) -> str:
    place = str(tmp_path / "a b.parquet") if request.param == "local" else f"memory://{tmp_path.name}.parquet"
    buffer = pa.BufferOutputStream()
    pq.write_table(TABLE, buffer, row_group_size=100)
    storage.write_bytes(place, buffer.getvalue().to_pybytes())
    return place


def test_a_table_is_read_whole_and_by_column(path):
    assert read_parquet(path).equals(TABLE)
    assert read_parquet(path, ["y"]).equals(TABLE.select(["y"]))


def test_row_groups_are_read_one_by_one(path):
    with open_parquet(path) as file:
        assert file.read_row_group(3, use_threads=False).equals(TABLE.slice(300, 100))


def test_bytes_read_before_are_not_read_again():
    buffer = pa.BufferOutputStream()
    pq.write_table(TABLE, buffer)

    with open_parquet("nowhere.parquet", buffer.getvalue().to_pybytes()) as file:
        assert file.metadata.num_rows == 1000


def test_a_native_file_holds_the_bytes_of_the_path(path):
    with open_native(path) as file:
        assert file.read() == storage.read_bytes(path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingPathError, match="nowhere"):
        read_parquet(str(tmp_path / "nowhere.parquet"))
    with pytest.raises(MissingPathError, match="nowhere"), open_native(str(tmp_path / "nowhere.csv")):
        pass


@pytest.mark.slow
def test_a_program_that_only_reads_ends_cleanly_every_time(path, tmp_path):
    if "://" in path:
        pytest.skip("memory:// does not outlive its process")
    code = f"from rayvos.annotations.arrow_files import read_parquet; read_parquet({path!r})"

    codes = {subprocess.run([sys.executable, "-c", code], check=False, timeout=600).returncode for _ in range(10)}

    assert codes == {0}
