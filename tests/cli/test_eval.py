from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rayvos import storage
from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import MaskPrompt
from rayvos.annotations.run_folder import RunFolder
from rayvos.cli.main import main
from rayvos.engines.score_calibration import read_calibration
from rayvos.masks.rle import mask_to_rle
from tests.evaluation.drawings import draw, write_labels, write_pngs, write_truth_manifest
from tests.ray_cluster import ray_cluster as ray_cluster
from tests.review.runs import ellipse, make_clip, make_run

CASES = Path(__file__).parents[1] / "goldens" / "cases" / "eval"


def rayvos(*words: str) -> subprocess.CompletedProcess[str]:
    program = "from rayvos.cli.main import run; run()"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=600)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    truth = write_pngs(tmp_path / "my truth", {"a": draw(8), "b": draw(8)})
    return truth, write_pngs(tmp_path / "my masks", {"a": draw(8, shift=1), "b": draw(8, shift=2)})


def test_a_protocol_prints_a_table_and_writes_json_and_csv(tmp_path):
    expected = json.loads((CASES / "davis2016" / "expected.json").read_text())["global"]
    out, table = tmp_path / "my out.json", tmp_path / "my out.csv"

    done = rayvos(
        "eval", "davis2016", "--gt", str(CASES / "davis2016/gt"), "--pred", str(CASES / "davis2016/pred"),
        "--json", str(out), "--csv", str(table), "--workers", "2",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert f"J-Mean    {expected['J-Mean']:.4f}" in done.stdout
    found = json.loads(out.read_text())["summary"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert len(table.read_text().splitlines()) == 4


def test_real_results_on_real_clips_give_the_official_numbers(tmp_path, capsys):
    shared = Path(__file__).parents[2] / "../shared"
    clips = Path(os.environ.get("RAYVOS_REAL_CLIPS", shared / "data/real_clips"))
    golden = Path(os.environ.get("RAYVOS_GOLDENS", shared / "goldens")) / "eval/real_osvos_expected.json"
    if not clips.is_dir() or not golden.is_file():
        pytest.skip(f"no real clips at {clips} or numbers at {golden}; set RAYVOS_REAL_CLIPS and RAYVOS_GOLDENS")
    expected = json.loads(golden.read_text())["sequences"]
    out = tmp_path / "out.json"

    code = main(
        ["eval", "davis2016", "--gt", str(clips / "DAVIS"), "--pred", str(clips / "osvos_results"), "--json", str(out)]
    )

    assert code == 0, capsys.readouterr().err
    found = {item["clip_id"]: item for item in json.loads(out.read_text())["objects"]}
    assert set(found) == set(expected)
    for clip_id, values in expected.items():
        for letter in ("J", "F"):
            assert found[clip_id][letter]["per_frame"] == pytest.approx(values[letter]["per_frame"], abs=1e-9)


@pytest.mark.parametrize(
    "words",
    [
        ["davis2017"],
        ["davis2017-unsupervised"],
        ["vos-benchmark", "--all-frames"],
        ["sparse", "--include-first"],
        ["pseudo-labels"],
    ],
    ids=lambda words: words[0],
)
def test_protocols_on_masks_print_a_table(words, folders, tmp_path, capsys):
    truth, masks = folders

    code = main(["eval", *words, "--gt", truth, "--pred", masks, "--json", str(tmp_path / "x.json"), "--workers", "1"])

    found = capsys.readouterr()
    assert code == 0, found.err
    assert masks in found.out
    assert json.loads((tmp_path / "x.json").read_text())["protocol"] == words[0]


def test_youtube_vos_takes_categories_from_its_meta_file(folders, tmp_path, capsys):
    truth, masks = folders
    objects = {"1": {"category": "cat", "frames": ["00000"]}, "2": {"category": "dog", "frames": ["00003", "00002"]}}
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {name: {"objects": objects} for name in "ab"}}))
    (tmp_path / "seen.json").write_text('["cat"]')
    out = tmp_path / "x.json"

    code = main(
        ["eval", "youtube-vos", "--gt", truth, "--pred", masks, "--meta", str(tmp_path / "meta.json"),
         "--seen", str(tmp_path / "seen.json"), "--json", str(out)]
    )  # fmt: skip

    assert code == 0, capsys.readouterr().err
    found = json.loads(out.read_text())
    assert (found["summary"]["objects_seen"], found["summary"]["objects_unseen"]) == (2, 2)
    assert [len(item["frames"]) for item in found["objects"]] == [7, 5, 7, 5]


def test_youtube_vis_prints_the_official_numbers(tmp_path, capsys):
    folder = CASES / "youtubevis"
    expected = json.loads((folder / "expected.json").read_text())["stats"]
    out = tmp_path / "x.json"

    words = ["--gt", str(folder / "gt.json"), "--pred", str(folder / "results.json"), "--json", str(out)]
    code = main(["eval", "youtube-vis", *words])

    assert code == 0
    assert f"{expected['AP']:.4f}" in capsys.readouterr().out
    assert json.loads(out.read_text())["summary"] == pytest.approx(expected, abs=1e-9)


def test_calibration_shows_how_well_scores_predict(tmp_path, capsys):
    truth = write_truth_manifest(tmp_path / "gt.parquet", {"a": draw(6)})
    labels = write_labels(tmp_path / "labels.parquet", {"a": draw(6, shift=2)}, score=0.6)
    out, plot = tmp_path / "x.json", tmp_path / "x.svg"

    words = ["--gt", truth, "--pred", labels, "--json", str(out), "--plot", str(plot)]
    code = main(["eval", "calibration", *words])

    assert code == 0, capsys.readouterr().err
    found = json.loads(out.read_text())
    assert (found["num_masks"], found["num_bad"], found["auroc"]) == (12, 12, None)
    assert found["mean_absolute_error"] == pytest.approx(8 / 12 - 0.6, abs=1e-6)  # scores are stored as float32
    assert plot.read_text().startswith("<svg")


def test_a_calibration_is_fitted_to_a_run_and_only_to_raw_scores(tmp_path, capsys):
    clip = make_clip(tmp_path / "frames", "a")
    run = make_run(tmp_path / "my run", [clip])
    truth = tuple(MaskPrompt(box.object_id, box.frame, mask_to_rle(ellipse(box))) for box in clip.boxes if box.visible)
    write_manifest([dataclasses.replace(clip, masks=truth)], str(tmp_path / "gt.parquet"))
    out, record = str(tmp_path / "my curve.json"), RunFolder(run).run_json
    words = ["eval", "calibration", "--gt", str(tmp_path / "gt.parquet"), "--pred", run, "--fit", out]

    not_yet = main(words)
    storage.write_bytes(record, json.dumps({"configuration": {"engine": "e", "weights": "w", "options": {}}}).encode())
    fitted = main(words)
    storage.write_bytes(
        record, json.dumps({"configuration": {"engine": "e", "weights": "w", "options": {"calibration": "x"}}}).encode()
    )
    mapped = main(words)

    said = capsys.readouterr()
    assert (not_yet, fitted, mapped) == (2, 0, 2), said.err
    assert "found no run.json" in said.err
    assert "went through a calibration" in said.err
    found = read_calibration(out)
    assert (found.engine, found.weights, found.num_masks) == ("e", "w", 11)
    assert (found.scores[0], found.ious[0]) == (0, 0)  # an empty mask
    assert set(found.ious[1:]) == {1}  # every mask is right


def test_two_results_are_compared_and_one_is_seen_over_its_length(folders, tmp_path, capsys):
    truth, masks = folders
    for name, prediction in (("before", masks), ("after", truth)):
        out = str(tmp_path / f"{name}.json")
        assert main(["eval", "davis2017", "--gt", truth, "--pred", prediction, "--json", out, "--workers", "1"]) == 0
    capsys.readouterr()
    before, after, out = (str(tmp_path / name) for name in ("before.json", "after.json", "difference.json"))

    code = main(["eval", "compare", before, after, "--json", out, "--plot", str(tmp_path / "difference.svg")])
    over_length = main(["eval", "length", before, "--bins", "3", "--plot", str(tmp_path / "length.svg")])

    assert (code, over_length) == (0, 0), capsys.readouterr().err
    metric = json.loads(Path(out).read_text())["metrics"][0]
    assert 0 < metric["low"] < metric["difference"] < metric["high"]
    assert metric["share_better"] == 1
    for name in ("difference.svg", "length.svg"):
        assert (tmp_path / name).read_text().startswith("<svg")


def test_budgets_and_point_sets_take_several_results(folders, tmp_path, capsys):
    truth, masks = folders
    budgets, sets = tmp_path / "budgets.json", tmp_path / "sets.json"

    words = ["--pred", f"first={masks}", "--pred", f"2={truth}", "--json", str(budgets), "--workers", "1"]
    code = main(["eval", "budget", "--gt", truth, *words])
    words = ["--pred", f"1={masks}", "--pred", f"10={truth}", "--json", str(sets), "--workers", "1"]
    points = main(["eval", "point-vos", "--gt", truth, *words])

    assert (code, points) == (0, 0), capsys.readouterr().err
    first, second = json.loads(budgets.read_text())["budgets"]
    assert (first["share"], second["share"]) == (1 / 8, 1 / 2)
    assert first["mean_iou"] < second["mean_iou"] == 1
    assert second["copy_mean_iou"] > first["copy_mean_iou"]
    found = json.loads(sets.read_text())
    mean = np.mean([found["sets"][key]["J&F-Mean"] for key in ("1", "10")])
    assert found["summary"]["J&F-Mean"] == pytest.approx(mean)


def test_a_missing_clip_ends_with_its_name_and_exit_code_1(folders, tmp_path):
    truth, masks = folders
    for path in (Path(masks) / "b").iterdir():
        path.unlink()

    done = rayvos("eval", "davis2017", "--gt", truth, "--pred", masks)

    assert done.returncode == 1
    assert "'b'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["davis2017", "--gt", "x"],
        ["budget", "--gt", "{gt}", "--pred", "{gt}"],
        ["budget", "--gt", "{gt}", "--pred", "many={gt}"],
        ["davis2017", "--gt", "{gt}", "--pred", "{gt}", "--workers", "0"],
        ["davis2017", "--gt", "{gt}", "--pred", "{gt}", "--clips-file", "{gt}", "--clips", "a"],
        ["youtube-vos", "--gt", "{gt}", "--pred", "{gt}", "--meta", "x", "--seen", "y", "--frames", "some"],
    ],
    ids=str,
)
def test_wrong_usage_ends_with_exit_code_2(words, folders, capsys):
    assert main(["eval", *(word.replace("{gt}", folders[0]) for word in words)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_clips_are_chosen_by_name_and_by_file(folders, tmp_path, capsys):
    truth, masks = folders
    (tmp_path / "clips.txt").write_text("b\n")
    for words in (["--clips", "b"], ["--clips-file", str(tmp_path / "clips.txt")]):
        out = tmp_path / "x.json"
        assert main(["eval", "davis2017", "--gt", truth, "--pred", masks, "--json", str(out), *words]) == 0
        assert {item["clip_id"] for item in json.loads(out.read_text())["objects"]} == {"b"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_gives_the_same_table(folders, capsys):
    truth, masks = folders
    words = ["eval", "davis2017", "--gt", truth, "--pred", masks]
    assert main([*words, "--workers", "1"]) == 0
    here = capsys.readouterr().out

    assert main([*words, "--ray", "auto"]) == 0

    assert capsys.readouterr().out == here
