"""The list of formats, telling them apart, and what every import does to clips."""

import inspect
import tracemalloc
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest

from rayvos.annotations import box_columns
from rayvos.annotations.clip_paths import ClipRoot, folder_of, is_one_clip
from rayvos.annotations.importing import FORMATS, Format, clip_from_path, detect_format, import_clips
from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.errors import BoxError, FormatError, MissingPathError, UsageError
from rayvos.masks.rle import mask_to_rle
from rayvos.video.container import probe_video
from tests.annotations.formats.expectations import write_frames
from tests.conftest import moving_square, write_video


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_a_reader_of_the_agreed_form(name):
    reader = FORMATS[name].reader()
    parameters = list(inspect.signature(reader).parameters.values())

    assert parameters[0].name == "source"
    assert {item.kind for item in parameters[1:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert "on_error" in {item.name for item in parameters}
    assert all(item.default is not inspect.Parameter.empty for item in parameters[1:])
    for words in FORMATS[name].own_options().values():
        assert all(isinstance(word, str) for word in words)


def test_an_unknown_source_names_the_formats_that_were_tried(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "data.json").write_text("{}")
    write_frames(tmp_path / "pictures", ["1.jpg"])

    for source in (tmp_path, tmp_path / "notes.txt", tmp_path / "data.json", tmp_path / "pictures"):
        with pytest.raises(UsageError, match=r"none of the formats fits \(tried boxes, "):
            detect_format(str(source))
    with pytest.raises(MissingPathError):
        detect_format(str(tmp_path / "gone"))


def test_a_source_that_fits_two_formats_asks_for_the_name(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "boxes-too", Format("box_table", "the same"))
    (tmp_path / "b.csv").write_text("object_id,frame,x0,y0,x1,y1\n")

    with pytest.raises(UsageError, match="fits the formats boxes, boxes-too; name one of them"):
        detect_format(str(tmp_path / "b.csv"))


def test_unknown_formats_and_options_a_format_has_not_are_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match=r"unknown format 'lasott'.*did you mean 'lasot'"):
        list(import_clips("lasott", str(tmp_path)))
    with pytest.raises(UsageError, match="format 'cvat' has no option --split"):
        list(import_clips("cvat", str(tmp_path), split="train"))
    with pytest.raises(UsageError, match="format 'lasot' has no option --frames"):
        list(import_clips("lasot", str(tmp_path), frames="x"))


def test_options_of_one_format_are_checked_by_their_words(tmp_path):
    assert FORMATS["vidln"].own_options() == {"objects": ("actors", "nouns")}
    assert FORMATS["lasot"].own_options() == {}
    assert FORMATS["coco"].parse_option("crowds", "true") is True
    assert FORMATS["coco"].parse_option("crowds", "false") is False
    assert FORMATS["davis"].parse_option("resolution", "1080p") == "1080p"
    with pytest.raises(UsageError, match=r"unknown objects 'noun'; choose from actors, nouns \(did you mean 'nouns'"):
        list(import_clips("vidln", str(tmp_path), options={"objects": "noun"}))
    with pytest.raises(UsageError, match="unknown option of format 'vidln' 'object'; choose from objects"):
        list(import_clips("vidln", str(tmp_path), options={"object": "nouns"}))


def square(x0, y0, x1, y1, height=48, width=64):
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask_to_rle(mask)


def clip(clip_id="a", **more):
    source = ClipSource("images", "/frames", frame_names=("0.jpg", "1.jpg"))
    return Clip(clip_id, source, 48, 64, 2, objects=(ObjectInfo(1), ObjectInfo(2)), **more)


@pytest.fixture
def source_of(monkeypatch):
    """Registers a format 'given' whose source yields these clips, and errors in place of some."""

    def register(*clips):
        def read(source, *, on_error=None):
            for item in clips:
                if isinstance(item, Clip):
                    yield item
                elif on_error is None:
                    raise item
                else:
                    on_error("bad", item)

        monkeypatch.setattr(Format, "reader", lambda self: read)
        monkeypatch.setitem(FORMATS, "given", Format("given", "a test"))

    return register


def test_boxes_are_derived_for_objects_that_have_masks_only(source_of):
    masks = (MaskPrompt(1, 0, square(3, 4, 9, 11)), MaskPrompt(2, 1, None))
    own = Box(1, 0, 1, 1, 5, 5)
    source_of(clip("masks", masks=masks), clip("both", masks=masks, boxes=(own,)))

    derived, kept = import_clips("given", "x")
    plain, _ = import_clips("given", "x", boxes_from_masks=False)
    dropped, _ = import_clips("given", "x", drop_masks=True)

    assert derived.boxes == (Box(1, 0, 3, 4, 9, 11), Box(2, 1, 0, 0, 0, 0, visible=False))
    assert kept.boxes == (own, derived.boxes[1])
    assert (plain.boxes, plain.masks) == ((), masks)
    assert (dropped.boxes, dropped.masks) == (derived.boxes, ())


def test_a_clip_that_no_job_could_use_is_reported_instead_of_written(source_of):
    source_of(clip("good"), clip("wrong", boxes=(Box(1, 0, 5, 5, 1, 1),)), FormatError("damaged"), clip("last"))
    errors = {}

    clips = list(import_clips("given", "x", on_error=errors.__setitem__))

    assert [item.clip_id for item in clips] == ["good", "last"]
    assert {name: type(error) for name, error in errors.items()} == {"wrong": BoxError, "bad": FormatError}
    with pytest.raises(BoxError):
        list(import_clips("given", "x"))


def test_listed_clips_are_kept_or_left_out_before_they_can_fail(source_of):
    wrong = clip("wrong", boxes=(Box(1, 0, 5, 5, 1, 1),))
    source_of(clip("a"), wrong, clip("b"), FormatError("damaged"))
    errors = {}

    only = list(import_clips("given", "x", only={"b"}, on_error=errors.__setitem__))
    rest = list(import_clips("given", "x", exclude={"wrong", "b", "bad"}, on_error=errors.__setitem__))

    assert [item.clip_id for item in only] == ["b"]
    assert [item.clip_id for item in rest] == ["a"]
    assert list(errors) == ["bad"]  # of the first call: what it is cannot be known


def test_a_clip_is_made_from_a_folder_or_a_video(tmp_path):
    write_frames(tmp_path / "walk", ["10.jpg", "9.jpg"], size=(40, 30))
    write_video(tmp_path / "run.mp4", moving_square())

    folder = clip_from_path(str(tmp_path / "walk") + "/")
    video = clip_from_path(str(tmp_path / "run.mp4"), clip_id="r", probe=probe_video)

    assert (folder.clip_id, folder.height, folder.width, folder.num_frames) == ("walk", 30, 40, 2)
    assert folder.source.frame_names == ("9.jpg", "10.jpg")
    info = probe_video(str(tmp_path / "run.mp4"))
    assert (video.clip_id, video.num_frames, video.fps) == ("r", info.num_frames, info.fps)
    assert (video.height, video.width) == (info.height, info.width)
    assert video.source.identity
    assert folder.source.identity
    with pytest.raises(FormatError, match="pass a probe"):
        clip_from_path(str(tmp_path / "run.mp4"))
    with pytest.raises(MissingPathError):
        clip_from_path(str(tmp_path))


def test_clips_of_a_root_are_found_with_or_without_suffix_and_below_folders(tmp_path):
    write_frames(tmp_path / "TRAIN_0" / "v.1", ["0.jpg"])
    (tmp_path / "b.webm").write_bytes(b"")
    root = ClipRoot(str(tmp_path), None)

    assert root.find(["gone", "TRAIN_0/v.1"]) == str(tmp_path / "TRAIN_0" / "v.1")
    assert root.find(["b"]) == root.find(["b.webm"]) == str(tmp_path / "b.webm")
    assert root.find(["", "x/y"]) is None
    with pytest.raises(MissingPathError, match="clip 'q': expected a folder of images or a video 'x', 'y'"):
        root.clip(["x", "y", "x"], clip_id="q")


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("a/b.csv", "a"),
        ("b.csv", "."),
        ("/b.csv", "/"),
        ("s3://bucket/b.csv", "s3://bucket"),
        ("a/b/", "a/b"),
        ("/", "/"),
    ],
)
def test_the_folder_of_a_file_is_where_its_frames_are_looked_for(path, folder):
    assert folder_of(path) == folder


def test_a_single_clip_is_told_from_a_folder_of_clips(tmp_path):
    write_frames(tmp_path / "walk", ["0.jpg"])

    assert is_one_clip(str(tmp_path / "walk"))
    assert is_one_clip("s3://bucket/x.MP4")
    assert not is_one_clip(str(tmp_path))


@pytest.fixture
def remote(tmp_path):
    """A file system that is not local: clips are read ahead by threads."""
    fs = fsspec.filesystem("memory")
    yield "memory://import"
    fs.rm("/import", recursive=True)


def put_lasot(remote, tmp_path, count, bad=()):
    fs = fsspec.filesystem("memory")
    write_frames(tmp_path / "f", ["00000001.jpg"])
    picture = (tmp_path / "f" / "00000001.jpg").read_bytes()
    for number in range(count):
        folder = f"/import/cat/cat-{number}"
        fs.pipe_file(f"{folder}/img/00000001.jpg", picture)
        fs.pipe_file(f"{folder}/groundtruth.txt", b"oops" if number in bad else b"1,2,3,4\n")


def test_remote_clips_are_read_ahead_in_order_with_bad_ones_left_out(remote, tmp_path):
    put_lasot(remote, tmp_path, 80, bad={3, 77})
    errors = {}

    clips = list(import_clips("auto", remote, on_error=errors.__setitem__))

    expected = sorted(f"cat-{number}" for number in range(80) if number not in (3, 77))
    assert [item.clip_id for item in clips] == expected
    assert set(errors) == {"cat-3", "cat-77"}
    assert clips[0].source.uri == f"{remote}/cat/cat-0/img"


def test_a_remote_import_that_stops_early_leaves_no_threads_reading(remote, tmp_path):
    put_lasot(remote, tmp_path, 100, bad={99})

    clips = import_clips("lasot", remote)
    first = next(clips)
    clips.close()

    assert first.clip_id == "cat-0"
    with pytest.raises(FormatError):
        list(import_clips("lasot", remote))


def peak_bytes(folder, num_clips, num_frames=40):
    """Read a table whose clips all have rows all over the file, and return the peak of Python's and NumPy's heap."""
    (folder / "clips").mkdir(parents=True)
    for number in range(num_clips):
        (folder / "clips" / f"c{number}.mp4").write_bytes(b"")
    with (folder / "boxes.csv").open("w") as file:
        file.write("clip_id,object_id,frame,x0,y0,x1,y1\n")
        for frame in range(num_frames):
            file.writelines(f"c{number},1,{frame},1.5,1,5.25,6\n" for number in range(num_clips))
    info = SimpleNamespace(num_frames=num_frames, height=8, width=8, fps=None)
    tracemalloc.start()
    clips = import_clips("boxes", str(folder / "boxes.csv"), frames=str(folder / "clips"), probe=lambda _: info)
    assert sum(len(item.boxes) for item in clips) == num_clips * num_frames
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_a_longer_table_needs_memory_for_its_compact_columns_only(tmp_path, monkeypatch):
    monkeypatch.setattr(box_columns, "BLOCK_BYTES", 1 << 16)  # or one block of the file hides what rows take
    peak_bytes(tmp_path / "warm", 2)  # modules that are imported late count once, here
    small, large = peak_bytes(tmp_path / "small", 100), peak_bytes(tmp_path / "large", 700)

    per_row = (large - small) / (600 * 40)
    # Columns take 49 bytes a row, one of them twice while it is joined, and 8 more for the order.
    # Box records of all rows at once take 200 besides.
    assert per_row < 130
