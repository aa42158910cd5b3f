import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import MaskPrompt
from rayvos.errors import InputError, MissingPathError
from rayvos.masks.rle import mask_to_rle
from rayvos.review.quality_report import write_report
from rayvos.review.thumbnails import view_around
from tests.engines_for_tests import PlannedEngine
from tests.review.runs import ellipse, make_clip, make_run, moved

VOID = {"meta", "br", "img", "link", "input", "hr", "use", "path"}


class Page(HTMLParser):
    """Collects a page's tags and text, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.sections: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.sections.append(dict(attrs)["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read_page(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path) -> str:
    clips = [make_clip(tmp_path / "frames", name) for name in ("a", "b", "c")]
    return make_run(tmp_path / "run", clips, failed=["b"])


def test_the_page_shows_counts_failures_scores_and_pictures(run, tmp_path):
    facts = {"state": "done", "engine": "ellipse", "throughput": {"frames_per_s": 12.5, "frames": 12}}
    (tmp_path / "run/run.json").write_text(json.dumps(facts))

    summary = write_report(run, str(tmp_path / "r.html"))

    page = read_page(tmp_path / "r.html")
    assert (summary.clips, summary.masks, summary.dead_letters) == (2, 22, {"decode_failed": 1})
    assert page.sections == ["dead-letters", "scores", "worst", "clips", "run"]
    assert "<b>broken</b> & lost" in page.text
    assert "12.5" in page.text
    assert f"{summary.mean_score:.3f}" in page.text


def test_the_page_fetches_nothing(run, tmp_path):
    write_report(run, str(tmp_path / "r.html"))

    page = read_page(tmp_path / "r.html")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "background"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
        assert not [name for name in attributes if name.startswith("on")]
    text = (tmp_path / "r.html").read_text()
    assert not re.search(r"url\((?!#)|@import", text)
    policies = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_show_the_worst_labels_first(run, tmp_path):
    write_report(run, str(tmp_path / "r.html"), num_worst=3)

    page = read_page(tmp_path / "r.html")
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    scores = [
        float(score)
        for score in re.findall(r'<figcaption><b class="(?:bad)?">([\d.]+)</b>', (tmp_path / "r.html").read_text())
    ]
    assert len(pictures) == len(scores) == 3
    assert scores == sorted(scores)
    for picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(picture.split(",", 1)[1])))
        assert image.width <= 484
        assert len(np.unique(np.asarray(image))) > 20


def test_everything_that_comes_from_files_is_escaped(tmp_path):
    evil = "<script>alert('x')<\x2fscript>&amp;\"onload=\"y"
    clips = [make_clip(tmp_path / "frames", name) for name in (evil.replace("/", "|"), "b")]
    run = make_run(tmp_path / "run", clips)
    facts = {"state": f"<i>{evil}", "engine": evil, "error": evil, "configuration": {"options": {evil: evil}}}
    facts |= {"earlier": [{"started": evil, "state": evil, "throughput": {"frames": evil}}], "throughput": {evil: evil}}
    (tmp_path / "run/run.json").write_text(json.dumps(facts))

    write_report(run, str(tmp_path / "r.html"))

    page = read_page(tmp_path / "r.html")
    assert not {tag for tag, _ in page.tags} & {"script", "i>"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count(evil) >= 6


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    run = make_run(tmp_path / "run", [make_clip(tmp_path / "frames", "a")], chosen=lambda units: [])

    summary = write_report(run, str(tmp_path / "r.html"))

    assert (summary.clips, summary.masks, summary.mean_score) == (0, 0, None)
    assert "No mask yet" in read_page(tmp_path / "r.html").text


def test_a_run_in_progress_shows_how_far_it_is(tmp_path):
    clips = [make_clip(tmp_path / "frames", name) for name in ("a", "b")]
    costly = PlannedEngine(halo=0, seconds_per_label=200)
    run = make_run(tmp_path / "run", clips, chosen=lambda units: units[:5], engine=costly)

    summary = write_report(run, str(tmp_path / "r.html"))

    assert summary.frames == 5
    assert re.search(r"5\s*of 12 frames done", read_page(tmp_path / "r.html").text)


def test_a_run_of_dead_letters_only_has_a_report(tmp_path):
    clips = [make_clip(tmp_path / "frames", f"clip-{number:02d}", num_frames=1) for number in range(60)]
    run = make_run(tmp_path / "run", clips, failed=[clip.clip_id for clip in clips])

    summary = write_report(run, str(tmp_path / "r.html"))

    assert summary.dead_letters == {"decode_failed": 60}
    page = read_page(tmp_path / "r.html")
    assert page.sections == ["dead-letters", "scores"]
    assert "10 more" in page.text


def test_labels_whose_frames_are_gone_say_why_there_is_no_picture(run, tmp_path):
    for path in (tmp_path / "frames/a").iterdir():
        path.unlink()

    write_report(run, str(tmp_path / "r.html"))

    page = read_page(tmp_path / "r.html")
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    assert page.text.count("[frame_missing]") == 2


def with_true_masks(clips, shift: float = 0.0):
    found = []
    for clip in clips:
        boxes = [box for box in moved(clip, shift).boxes if box.visible]
        masks = tuple(MaskPrompt(box.object_id, box.frame, mask_to_rle(ellipse(box))) for box in boxes)
        found.append(dataclasses.replace(clip, masks=masks))
    return found


def test_truth_adds_how_good_the_labels_are_and_whether_scores_tell(tmp_path):
    clips = [make_clip(tmp_path / "frames", name) for name in ("a", "b", "c")]
    run = make_run(tmp_path / "run", clips, failed=["b"])
    write_manifest(with_true_masks(clips, 2.0), str(tmp_path / "truth.parquet"))

    write_report(run, str(tmp_path / "r.html"), truth=str(tmp_path / "truth.parquet"))

    page = read_page(tmp_path / "r.html")
    assert "truth" in page.sections
    assert "2 clips of" in page.text
    box = clips[0].boxes[0]
    here, there = ellipse(box), ellipse(dataclasses.replace(box, x0=box.x0 + 2, x1=box.x1 + 2))
    assert f"{(here & there).sum() / (here | there).sum():.3f}" in page.text  # every mask is shifted alike
    assert "Spearman" in page.text


def test_truth_of_other_clips_is_refused(run, tmp_path):
    write_manifest(with_true_masks([make_clip(tmp_path / "frames", "z")]), str(tmp_path / "truth.parquet"))

    with pytest.raises(InputError, match="none of the 2 clips"):
        write_report(run, str(tmp_path / "r.html"), truth=str(tmp_path / "truth.parquet"))


def test_the_same_run_gives_the_same_page(run, tmp_path):
    write_report(run, str(tmp_path / "one.html"))
    write_report(run, str(tmp_path / "two.html"))

    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(MissingPathError, match="no plan found"):
        write_report(str(tmp_path), str(tmp_path / "r.html"))


BOXES = st.lists(
    st.tuples(st.floats(-200, 900), st.floats(-200, 900), st.floats(0, 900), st.floats(0, 900)), min_size=0, max_size=2
)


@given(BOXES, st.integers(1, 700), st.integers(1, 700))
def test_a_view_lies_inside_the_frame(sizes, height, width):
    boxes = [(x, y, x + w, y + h) for x, y, w, h in sizes]

    x0, y0, x1, y1 = view_around(boxes, height, width)

    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height


@given(st.floats(50, 300), st.floats(50, 300), st.floats(10, 100), st.floats(10, 100))
def test_a_view_shows_the_whole_box_and_what_is_around_it(x, y, w, h):
    x0, y0, x1, y1 = view_around([(x, y, x + w, y + h)], 480, 640)

    assert x0 <= x
    assert x + w <= x1
    assert y0 <= y
    assert y + h <= y1
    assert (x1 - x0) * (y1 - y0) > 2 * w * h
