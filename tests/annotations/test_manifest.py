"""Manifests: round trip, row access, and what a clip must hold to be worked with."""

from __future__ import annotations

import dataclasses
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayvos.annotations.manifest import ManifestFile, check_clip, check_clip_id, write_manifest
from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo, Point, Trace
from rayvos.annotations.tables import MANIFEST
from rayvos.errors import BoxError, FormatError, IdError, MissingPathError, SchemaError

FULL = Clip(
    clip_id="TRAIN_0/a b ü",
    source=ClipSource("video", "s3://bucket/a.mp4", ("00000.jpg", "00005.jpg"), (0, 5), "identity"),
    height=48,
    width=64,
    num_frames=2,
    fps=29.97,
    objects=(ObjectInfo(1, "dog", "17"), ObjectInfo(2)),
    boxes=(Box(1, 0, -3.5, 0, 10, 12.25), Box(2, 1, 0, 0, 0, 0, visible=False)),
    masks=(MaskPrompt(1, 0, b"04PY"), MaskPrompt(1, 1, None)),
    points=(Point(2, 0, 3, 4.5, "negative"),),
    traces=(Trace(2, 1, (1.0, 2.5), (3.0, 4.0)),),
    annotated_frames=(0,),
)
PLAIN = Clip("plain", ClipSource("images", "frames"), 48, 64, 3, objects=(ObjectInfo(1),))


def test_a_manifest_gives_back_the_clips_it_was_given(tmp_path):
    path = str(tmp_path / "m.parquet")

    write_manifest([FULL, PLAIN], path)

    assert list(ManifestFile(path)) == [FULL, PLAIN]


def test_rows_are_read_by_number_across_row_groups(tmp_path):
    path = str(tmp_path / "m.parquet")
    write_manifest((dataclasses.replace(PLAIN, clip_id=f"c{i}") for i in range(1000)), path)

    manifest = ManifestFile(path)

    assert len(manifest) == 1000
    assert [(row, clip.clip_id) for row, clip in manifest.read_rows([999, 0, 256, 255])] == [
        (0, "c0"),
        (255, "c255"),
        (256, "c256"),
        (999, "c999"),
    ]


def test_a_manifest_that_was_not_finished_does_not_appear(tmp_path):
    path = tmp_path / "m.parquet"

    with pytest.raises(IdError, match="there twice"):
        write_manifest([PLAIN, PLAIN], str(path))

    assert not path.exists()


@pytest.mark.parametrize(
    "bad", ["../up", "a/../b", "/abs", "", ".", "a//b", "nul\x00", "x" * 201, "back\\slash", "~me", "a\nb"]
)
def test_ids_that_could_leave_the_output_folder_are_refused(bad):
    with pytest.raises(IdError):
        check_clip_id(bad)


@given(st.text())
def test_an_accepted_id_stays_inside_its_folder(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    try:
        check_clip_id(text)
    except IdError:
        return
    assert (folder / text).resolve(strict=False).is_relative_to(folder.resolve())


BAD_BOXES = {
    "inverted": Box(1, 0, 20, 5, 10, 15),
    "nan": Box(1, 0, math.nan, 5, 10, 15),
    "infinite": Box(1, 0, 0, 5, math.inf, 15),
    "empty": Box(1, 0, 5, 5, 5, 15),
    "outside": Box(1, 0, 64, 5, 80, 15),
}


@pytest.mark.parametrize("kind", BAD_BOXES)
def test_a_bad_box_is_named_with_its_clip_frame_and_object(kind):
    clip = dataclasses.replace(PLAIN, boxes=(BAD_BOXES[kind],))

    with pytest.raises(BoxError, match="clip 'plain' frame 0 object 1"):
        check_clip(clip)


def test_a_box_that_says_absent_may_hold_anything():
    check_clip(dataclasses.replace(PLAIN, boxes=(Box(1, 0, math.nan, 0, 0, 0, visible=False),)))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"boxes": (Box(1, 3, 0, 0, 5, 5),)}, FormatError),
        ({"boxes": (Box(1, -1, 0, 0, 5, 5),)}, FormatError),
        ({"boxes": (Box(2, 0, 0, 0, 5, 5),)}, IdError),
        ({"boxes": (Box(1, 0, 0, 0, 5, 5), Box(1, 0, 0, 0, 6, 6))}, IdError),
        ({"objects": (ObjectInfo(1), ObjectInfo(1))}, IdError),
        ({"objects": (ObjectInfo(0),)}, IdError),
        ({"num_frames": 0}, FormatError),
        ({"height": 0}, FormatError),
    ],
)
def test_what_cannot_be_worked_with_is_refused(change, error):
    with pytest.raises(error, match="clip 'plain'"):
        check_clip(dataclasses.replace(PLAIN, **change))


def test_a_table_of_another_kind_is_refused_as_manifest(tmp_path):
    path = str(tmp_path / "other.parquet")
    pq.write_table(pa.table({"clip_id": ["a"]}), path)

    with pytest.raises(SchemaError, match="found no rayvos table"):
        ManifestFile(path)


def test_a_manifest_of_a_newer_rayvos_is_refused(tmp_path):
    path = str(tmp_path / "newer.parquet")
    newer = MANIFEST.with_metadata({"rayvos.table": "manifest", "rayvos.version": "99"})
    pq.write_table(newer.empty_table(), path)

    with pytest.raises(SchemaError, match="version '99'"):
        ManifestFile(path)


def test_a_manifest_of_version_1_is_read(tmp_path):
    newer, older = str(tmp_path / "newer.parquet"), str(tmp_path / "older.parquet")
    write_manifest([FULL, PLAIN], newer)
    table = pq.read_table(newer)
    bare = [[{**point} for point in points] for points in table["points"].to_pylist()]
    for point in (point for points in bare for point in points):
        del point["annotator"], point["seconds"]
    kind = table.schema.field("points").type.value_type
    kept = pa.list_(pa.struct([field for field in kind if field.name not in ("annotator", "seconds")]))
    position = table.schema.get_field_index("points")
    table = table.set_column(position, "points", pa.array(bare, kept))
    pq.write_table(table.replace_schema_metadata({"rayvos.table": "manifest", "rayvos.version": "1"}), older)

    assert list(ManifestFile(older)) == [FULL, PLAIN]


def test_a_manifest_with_a_column_of_another_type_is_refused(tmp_path):
    path = str(tmp_path / "typed.parquet")
    fields = [pa.field("height", pa.string()) if field.name == "height" else field for field in MANIFEST]
    pq.write_table(pa.schema(fields, metadata=MANIFEST.metadata).empty_table(), path)

    with pytest.raises(SchemaError, match="column 'height'"):
        ManifestFile(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"clip_id,object_id\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, content):
    path = tmp_path / "broken.parquet"
    path.write_bytes(content)

    with pytest.raises(FormatError, match=r"broken\.parquet"):
        ManifestFile(str(path))


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(MissingPathError, match=r"nowhere\.parquet"):
        ManifestFile(str(tmp_path / "nowhere.parquet"))


def test_pandas_and_duckdb_read_a_manifest_without_rayvos(tmp_path):
    import duckdb
    import pandas

    path = str(tmp_path / "m.parquet")
    write_manifest([FULL, PLAIN], path)

    assert pandas.read_parquet(path)["clip_id"].tolist() == [FULL.clip_id, "plain"]
    assert duckdb.sql(f"select clip_id, len(boxes) from '{path}'").fetchall() == [(FULL.clip_id, 2), ("plain", 0)]
