"""Bad input as a user meets it: refused by name before work starts, or set aside alone while the rest is labelled."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayvos.annotations.manifest import clip_to_row
from rayvos.annotations.records import Clip
from rayvos.annotations.run_folder import read_dead_letters, read_labels
from rayvos.annotations.tables import MANIFEST
from rayvos.cli.main import main
from tests.cli.bad_clips import BAD_CLIPS, BAD_IDS, NUM_FRAMES, pictures, video
from tests.engines_for_tests import ENGINE
from tests.ray_cluster import ray_cluster as ray_cluster
from tests.ray_cluster import worker_environment

ENGINE_WORDS = ["--engine", ENGINE, "--actors", "1", "--option", "seconds_per_frame=0.01"]


def write_unchecked(clips: Sequence[Clip], path: Path) -> Path:
    """Write a manifest as another program would: nothing in it is checked."""
    pq.write_table(pa.Table.from_pylist([clip_to_row(clip) for clip in clips], schema=MANIFEST), path)
    return path


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What came of labelling all bad clips in one run, good ones between them."""

    code: int
    said: str
    out: Path
    good: dict[str, Clip]
    letters: list[dict[str, object]]
    strays: set[str]
    """What appeared beside the run folder."""


@pytest.fixture(scope="module")
def labelled(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    place = tmp_path_factory.mktemp("some where")
    frames = place / "my frames"
    frames.mkdir()
    good = {
        "first": pictures(frames / "first", ".jpg"),
        "set/second": pictures(frames / "second"),
        "last": video(frames / "last"),
    }
    good = {clip_id: dataclasses.replace(clip, clip_id=clip_id) for clip_id, clip in good.items()}
    bad = [dataclasses.replace(write(frames / name), clip_id=name) for name, (write, _) in BAD_CLIPS.items()]
    bad += [dataclasses.replace(good["first"], clip_id=clip_id) for clip_id in BAD_IDS]
    half = len(bad) // 2
    clips = [good["first"], *bad[:half], good["set/second"], *bad[half:], good["last"]]
    manifest = write_unchecked(clips, place / "clips.parquet")
    out = place / "deeper" / "my run"
    out.mkdir(parents=True)
    before, tmp_before = listing(place), set(Path("/tmp").iterdir())

    code, said = run_main(["label", str(manifest), "-o", str(out), "--max-failed", "1000", *ENGINE_WORDS])

    strays = {name for name in listing(place) - before if not name.startswith("deeper/my run/")}
    strays |= {path.name for path in set(Path("/tmp").iterdir()) - tmp_before if "evil" in path.name}
    return Labelled(code, said, out, good, read_dead_letters(str(out)).to_pylist(), strays)


def run_main(words: list[str]) -> tuple[int, str]:
    """Run the command line in this process and return its exit code and its stderr."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    return code, errors.getvalue()


@pytest.mark.ray
class TestOneRunOverManyBadClips:
    def test_it_ends_with_the_code_for_dead_letters(self, labelled: Labelled) -> None:
        assert labelled.code == 3, labelled.said

    @pytest.mark.parametrize("clip_id", BAD_CLIPS)
    def test_each_is_one_dead_letter_with_its_code(self, labelled: Labelled, clip_id: str) -> None:
        (letter,) = [letter for letter in labelled.letters if letter["clip_id"] == clip_id]

        assert letter["error"] == BAD_CLIPS[clip_id][1], letter
        assert repr(clip_id) in str(letter["message"])
        assert letter["traceback"] == ""
        assert (letter["frame_start"], letter["attempts"]) == (0, 1)

    @pytest.mark.parametrize("clip_id", BAD_IDS, ids=lambda value: repr(value[:20]))
    def test_each_bad_id_is_one_dead_letter(self, labelled: Labelled, clip_id: str) -> None:
        assert [letter["error"] for letter in labelled.letters if letter["clip_id"] == clip_id] == ["bad_id"]

    def test_their_neighbours_are_labelled(self, labelled: Labelled) -> None:
        labels = read_labels(str(labelled.out))

        assert Counter(labels["clip_id"].to_pylist()) == dict.fromkeys(labelled.good, NUM_FRAMES)
        assert all(labels["present"].to_pylist())

    def test_nothing_appears_outside_the_output_folder(self, labelled: Labelled) -> None:
        assert labelled.strays == set()
        assert {name.split("/")[0] for name in listing(labelled.out)} <= {
            "run.json", "plans", "manifests", "labels", "attempts",
        }  # fmt: skip

    @pytest.mark.parametrize("format", ["davis", "youtube-vos", "sav", "coco", "youtube-vis", "overlay", "parquet"])
    def test_exports_hold_the_good_clips_and_stay_in_their_folder(
        self, labelled: Labelled, tmp_path: Path, format: str
    ) -> None:
        out = tmp_path / "deeper" / "export"

        code, said = run_main(["export", str(labelled.out), "-o", str(out), "--format", format])

        assert code in (0, 3), said
        assert "Traceback" not in said
        assert listing(tmp_path) == {"deeper", "deeper/export", *(f"deeper/export/{name}" for name in listing(out))}
        assert not [name for name in listing(out) if "evil" in name]
        if format == "davis":
            assert {path.parent.relative_to(out).as_posix() for path in out.rglob("*.png")} == set(labelled.good)

    def test_the_report_and_the_status_tell_of_all(self, labelled: Labelled, tmp_path: Path) -> None:
        code, said = run_main(["report", str(labelled.out), "-o", str(tmp_path / "page.html")])

        assert code == 3, said
        page = (tmp_path / "page.html").read_text()
        assert all(clip_id in page for clip_id in BAD_CLIPS)
        assert main(["status", str(labelled.out)]) == 3


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A good manifest of one clip."""
    return write_unchecked([pictures(tmp_path / "frames" / "good")], tmp_path / "clips.parquet")


def refused(words: list[str], out: Path, code: int) -> str:
    """Run a command that must be refused before it writes anything, and return what it says."""
    found, said = run_main([*words, "-o", str(out)])
    assert found == code, said
    assert not [path for path in out.rglob("*") if path.is_file()]
    assert "Traceback" not in said
    return said


def changed_rows(manifest: Path, change: Callable[[dict], object], schema: pa.Schema = MANIFEST) -> None:  # type: ignore[type-arg]
    rows = pq.read_table(manifest).to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), manifest)


class TestManifestsThatAreRefused:
    @pytest.mark.ray
    def test_the_run_that_is_there_is_not_discarded_for_them(self, labelled: Labelled, tmp_path: Path) -> None:
        (tmp_path / "clips.parquet").write_bytes(b"no manifest")
        for manifest in (tmp_path / "clips.parquet", tmp_path / "missing.parquet"):
            code, _ = run_main(["label", str(manifest), "-o", str(labelled.out), "--overwrite", *ENGINE_WORDS])
            assert code == 1

        assert read_labels(str(labelled.out)).num_rows == NUM_FRAMES * len(labelled.good)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (lambda data: b"", "expected a Parquet manifest"),
            (lambda data: b"clip_id,object_id", "expected a Parquet manifest"),
            (lambda data: data[:-50], "expected a Parquet manifest"),
            (lambda data: data[:50] + b"\xff" * 300 + data[350:], "damaged"),
        ],
        ids=["empty", "text", "truncated", "corrupt"],
    )
    def test_damaged_files(self, manifest: Path, tmp_path: Path, data: Callable[[bytes], bytes], message: str) -> None:
        manifest.write_bytes(data(manifest.read_bytes()))

        said = refused(["label", str(manifest), *ENGINE_WORDS], tmp_path / "out", 1)

        assert f"clips.parquet: {message}" in said
        assert "[bad_format]" in said

    @pytest.mark.parametrize(
        ("schema", "message"),
        [
            (MANIFEST.remove_metadata(), "found no rayvos table"),
            (MANIFEST.with_metadata({"rayvos.table": "manifest", "rayvos.version": "3"}), "version '3'"),
            (MANIFEST.with_metadata({"rayvos.table": "labels", "rayvos.version": "1"}), "found a rayvos labels table"),
            (MANIFEST.remove(MANIFEST.get_field_index("boxes")), "without column boxes"),
            (MANIFEST.set(2, pa.field("height", pa.string())), "column 'height': expected int32, found string"),
        ],
        ids=["none", "newer", "another", "column missing", "another type"],
    )
    def test_other_schemas(self, manifest: Path, tmp_path: Path, schema: pa.Schema, message: str) -> None:
        table = pq.read_table(manifest).select(schema.names).cast(schema)
        pq.write_table(table.replace_schema_metadata(schema.metadata), manifest)

        said = refused(["label", str(manifest), *ENGINE_WORDS], tmp_path / "out", 1)

        assert message in said
        assert "[bad_schema]" in said

    @pytest.mark.parametrize("name", ["source", "height", "num_frames", "source.uri", "boxes.frame", "boxes.visible"])
    def test_rows_without_a_value_that_is_needed(self, manifest: Path, tmp_path: Path, name: str) -> None:
        def change(row: dict) -> None:  # type: ignore[type-arg]
            column, _, inside = name.partition(".")
            place = row[column][1] if column == "boxes" else row[column] if inside else row
            place[inside or column] = None

        changed_rows(manifest, change)

        said = refused(["label", str(manifest), *ENGINE_WORDS], tmp_path / "out", 1)

        assert f"clips.parquet row 0: {name} is null" in said
        assert "[bad_format]" in said

    def test_two_clips_of_one_id(self, tmp_path: Path) -> None:
        clip = pictures(tmp_path / "good")
        manifest = write_unchecked([clip, clip], tmp_path / "clips.parquet")

        said = refused(["label", str(manifest), *ENGINE_WORDS], tmp_path / "out", 1)

        assert "row 1: clip_id 'good' is there twice" in said
        assert "[bad_id]" in said

    def test_no_clip_at_all(self, tmp_path: Path) -> None:
        manifest = write_unchecked([], tmp_path / "clips.parquet")

        said = refused(["label", str(manifest), *ENGINE_WORDS], tmp_path / "out", 1)

        assert "no clip to work on" in said
        assert "[bad_input]" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label", "M", "--engine", "cutt"], "(did you mean 'cut'?)"),
        (["label", "M", "--engine", "no.such:Engine"], "could not import 'no.such'"),
        (["label", "M", "--engine", "os:Engine"], "module 'os' has no 'Engine'"),
        (["label", "M", "--engine", "os:getcwd"], "engine 'os:getcwd'"),
        (["label", "M", *ENGINE_WORDS, "--option", "treshold=4"], "did you mean 'threshold'?"),
        (["label", "M", *ENGINE_WORDS, "--option", "threshold=high"], "expected a whole number, found 'high'"),
        (["label", "M", *ENGINE_WORDS, "--weights", "w.safetensors"], "uses no weights; leave out --weights"),
        (["label", "M", "--actors", "0"], "actors: expected more than 0"),
        (["import", "lasott", "M"], "did you mean 'lasot'?"),
        (["export", "M", "--format", "davos"], 'Did you mean "davis"?'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unknown_names_exit_with_2_and_the_nearest_one(
    manifest: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    said = refused([str(manifest) if word == "M" else word for word in words], tmp_path / "out", 2)

    assert message in " ".join(said.replace("│", " ").split())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "found nothing"),
        (b"", "found an empty file"),
        (b"<html>404</html>", "found a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "found a Git LFS pointer"),
        (b"\x80\x04cos\nsystem\n(S'touch evil'\ntR.", "PyTorch checkpoint"),
    ],
    ids=["missing", "empty", "web page", "lfs pointer", "pickle"],
)
def test_weights_that_are_none_are_refused_before_anything_starts(
    manifest: Path, tmp_path: Path, data: bytes | None, message: str
) -> None:
    weights = tmp_path / "my weights.safetensors"
    if data is not None:
        weights.write_bytes(data)

    said = refused(["label", str(manifest), "--engine", "box2seg", "--weights", str(weights)], tmp_path / "out", 1)

    assert "my weights.safetensors" in said
    assert message in said
    assert "[bad_weights]" in said


@pytest.mark.parametrize(
    "words",
    [["label", "M", *ENGINE_WORDS, "-o", ""], ["status", ""], ["export", "", "-o", "x", "-f", "davis"], ["report", ""],
     ["plan", "M", *ENGINE_WORDS, "-o", ""], ["eval", "davis2017", "--gt", "", "--pred", ""], ["import", "davis", ""],
     ["import", "boxes", "M", "-o", ""]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_an_empty_path_is_never_taken_for_the_root_of_the_disk(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)

    code, said = run_main([str(manifest) if word == "M" else word for word in words])

    assert code == 2, said
    assert "found an empty one" in said
    assert listing(tmp_path) == before


BOX_HEADER = "object_id,frame,x0,y0,x1,y1\n"


@pytest.mark.parametrize(
    ("rows", "message", "error"),
    [
        ("1,0,30,24,20,36", "boxes.csv line 2: box [30.0, 24.0, 20.0, 36.0]: expected x0 < x1", "bad_format"),
        ("1,0,nan,24,20,36", "boxes.csv line 2: x0 'nan': expected a finite number", "bad_format"),
        ("1,0,2,24,14,36\n1,4,2,24,14,36", "frame 4", "bad_format"),
        ("1,0,2,24,14,36\n1,0,2,24,14,36", "boxes.csv line 3: object 1 has a box on frame 0 already", "bad_id"),
        ("1,0,200,24,214,36", "lies outside the 66x48 frame", "bad_box"),
        ("dog,0,2,24,14,36", "object_id 'dog': expected a whole number from 1", "bad_format"),
        ("1,0,2,24,14", "boxes.csv line 2", "bad_format"),
        ("", "expected a row per box below the header", "bad_format"),
    ],
)
def test_boxes_of_one_video_are_refused_by_their_line(tmp_path: Path, rows: str, message: str, error: str) -> None:
    clip = video(tmp_path / "my clip")
    (tmp_path / "boxes.csv").write_text(BOX_HEADER + rows + "\n")

    words = ["label", clip.source.uri, "--boxes", str(tmp_path / "boxes.csv"), *ENGINE_WORDS]
    said = refused(words, tmp_path / "out", 1)

    assert message in said
    assert f"[{error}]" in said


@pytest.mark.parametrize("data", [b"", b"not a video", b"#EXTM3U\nfile:///etc/hostname\n"])
def test_a_video_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(data)
    (tmp_path / "boxes.csv").write_text(BOX_HEADER + "1,0,2,24,14,36\n")

    words = ["label", str(tmp_path / "clip.mp4"), "--boxes", str(tmp_path / "boxes.csv"), *ENGINE_WORDS]
    said = refused(words, tmp_path / "out", 1)

    assert "clip.mp4" in said
    assert "[decode_failed]" in said


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """Address of a server that answers `/403.parquet` with status 403, and so on."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(int(self.path[1:4]))

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("url", "code", "error"),
    [
        ("WEB/404.parquet", 1, "[path_missing]"),
        ("WEB/403.parquet", 1, "[permission_denied]"),
        ("WEB/400.parquet", 1, "[storage_failed]"),
        ("WEB/500.parquet", 1, "[storage_failed]"),
        ("http://127.0.0.1:1/m.parquet", 1, "[storage_failed]"),
        ("http://[bad/m.parquet", 2, "use a local path or a URL"),
        ("nosuch://bucket/m.parquet", 2, "Protocol not known: nosuch"),
        ("file:///nowhere/m.parquet", 1, "[path_missing]"),
    ],
)
def test_urls_that_cannot_be_read_are_named(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, code: int, error: str
) -> None:
    monkeypatch.setattr("rayvos.retries.time.sleep", lambda _: None)
    url = url.replace("WEB", web)

    said = refused(["label", url, *ENGINE_WORDS], tmp_path / "out", code)

    assert url in said
    assert error in said


def test_an_object_store_without_credentials_is_named(tmp_path: Path) -> None:
    environment = {name: value for name, value in worker_environment().items() if not name.startswith("AWS_")}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", "from rayvos.cli.main import run; run()", "status", "s3://bucket/run"]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    assert done.returncode == 1
    assert "s3://bucket/run" in done.stderr
    assert done.stderr.rstrip().endswith("[permission_denied]")
    assert "Traceback" not in done.stderr


WITHOUT_RIGHTS = """
import os, sys
from rayvos.cli.main import main
import rayvos.cli.label, rayvos.pipelines.label, rayvos.pipelines.run
import rayvos.annotations.importing, tests.engines_for_tests
import rayvos.cli.export, rayvos.cli.status, pyarrow.dataset, fsspec.implementations.local
if os.geteuid() == 0:
    os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("what", ["manifest", "output"])
def test_no_permission_is_named(what: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        manifest = write_unchecked([pictures(folder / "frames" / "good")], folder / "clips.parquet")
        (folder / "out").mkdir(mode=0o555)
        if what == "manifest":
            manifest.chmod(0)
        out = folder / "out" / "run"
        command = [sys.executable, "-c", WITHOUT_RIGHTS, "label", str(manifest), "-o", str(out), *ENGINE_WORDS]

        done = subprocess.run(command, env=worker_environment(), capture_output=True, text=True, timeout=600)

        assert done.returncode == 1, done.stderr
        assert (str(manifest) if what == "manifest" else str(out)) in done.stderr
        assert "no permission to" in done.stderr
        assert "[permission_denied]" in done.stderr
        assert not list((folder / "out").iterdir())


def test_a_zip_bomb_of_masks_is_refused_unpacked(tmp_path: Path) -> None:
    for name in ("truth", "bomb"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("clip/00000.png", b"no picture")
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("clip/00000.png", "w") as file,
    ):
        for _ in range(300):
            file.write(bytes(1 << 20))

    words = ["--gt", str(tmp_path / "bomb.zip"), "--pred", str(tmp_path / "truth.zip"), "--workers", "1"]
    code, said = run_main(["eval", "davis2017", *words])

    assert code == 1
    assert "bomb.zip/clip/00000.png: 314572800 bytes unpacked" in said
    assert said.rstrip().endswith("[image_too_large]")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_largest_frame_may_be_set(tmp_path: Path) -> None:
    clips = [pictures(tmp_path / "pictures"), video(tmp_path / "video")]
    manifest = write_unchecked(clips, tmp_path / "clips.parquet")
    words = ["label", str(manifest), *ENGINE_WORDS, "--max-failed", "9", "-o"]

    assert run_main([*words, str(tmp_path / "less"), "--max-pixels", str(48 * 66 - 1)])[0] == 3
    assert run_main([*words, str(tmp_path / "enough"), "--max-pixels", str(2 * 48 * 66)])[0] == 0

    letters = read_dead_letters(str(tmp_path / "less"))
    assert letters["error"].to_pylist() == ["image_too_large"] * 2
