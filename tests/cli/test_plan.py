"""`rayvos plan`: what it foretells, what its numbers rest on, and that it does nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.run_folder import RunFolder
from rayvos.cli.main import main
from rayvos.engines.registry import EngineChoice
from rayvos.pipelines.label import LabelChoice, LabelJob
from rayvos.pipelines.run_record import RunRecord
from tests.engines_for_tests import ENGINE
from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import REPOSITORY, make_clips

ENGINE_WORDS = ["--engine", ENGINE, "--option", "seconds_per_frame=15"]

# Several workers in one process: the note of the one before ends when faulthandler lets go of it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """A manifest of 4 clips of 6 frames, each of which fills a unit."""
    path = tmp_path / "my clips" / "clips.parquet"
    write_manifest(make_clips(tmp_path / "my clips"), str(path))
    return str(path)


def foretold(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["plan", *words, "--json", *ENGINE_WORDS]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def measure(out: str, engine: str = ENGINE, **throughput: float) -> None:
    """Leave what a start of the driver measured."""
    configuration = LabelChoice(EngineChoice(engine)).load().configuration()
    RunRecord(RunFolder(out), configuration, {}).write("done", throughput=throughput)


def test_a_plan_counts_what_is_to_do_and_does_nothing(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = foretold(capsys, manifest, "-o", str(tmp_path / "out"), "--actors", "1")

    assert (found["clips"], found["frames"], found["units"]) == (4, 24, 4)
    assert (found["units_left"], found["frames_left"]) == (4, 24)
    assert found["output_bytes"] > 0
    assert not (tmp_path / "out").exists()


def test_more_actors_need_less_time(manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = [
        foretold(capsys, manifest, "-o", str(tmp_path / "out"), "--actors", actors)["seconds_left"]
        for actors in ("1", "2", "4")
    ]

    assert seconds == sorted(seconds, reverse=True)


def test_what_is_committed_is_not_planned_again(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    choice = EngineChoice(ENGINE, {"seconds_per_frame": 15.0})
    label_here(LabelJob(manifest, out, choice, limit=4))
    some = next(iter((tmp_path / "out" / "labels").iterdir()))

    assert foretold(capsys, manifest, "-o", out)["units_left"] == 0
    some.unlink()
    assert foretold(capsys, manifest, "-o", out)["frames_left"] == 6


def test_time_and_size_rest_on_what_a_run_measured(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(str(tmp_path / "other"), frames=100, busy_s=50.0, labels=200, bytes=20_000)
    words = [manifest, "-o", str(tmp_path / "out"), "--actors", "1"]

    found = foretold(capsys, *words, "--rates-from", str(tmp_path / "other"))

    assert found["seconds_left"] == pytest.approx(24 * 0.5)
    assert found["output_bytes"] == pytest.approx(24 * 2 * 100)
    assert "100 frames in 50 actor seconds" in found["basis"]


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (None, "no measured rates there"),
        ({"frames": 0, "busy_s": 0.0}, "no measured rates there"),
        ({"engine": "cut", "frames": 10, "busy_s": 1.0}, "rates of engine 'cut', but the plan is for 'boxfill'"),
    ],
)
def test_rates_that_are_none_are_refused(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], measured: dict[str, Any] | None, message: str
) -> None:
    if measured is not None:
        measure(str(tmp_path / "other"), **measured)
    words = ["plan", manifest, "-o", str(tmp_path / "out"), "--rates-from", str(tmp_path / "other"), *ENGINE_WORDS]

    assert main(words) == 2

    assert message in capsys.readouterr().err


def test_people_read_four_lines(manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", manifest, "-o", str(tmp_path / "out"), "--limit", "2", *ENGINE_WORDS]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 clips, 12 frames in 2 units"
    assert [line.split()[0] for line in lines[1:]] == ["to", "time", "output"]


def test_another_configuration_than_the_runs_is_refused(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(str(tmp_path / "out"), frames=1, busy_s=1.0)
    words = ["plan", manifest, "-o", str(tmp_path / "out"), *ENGINE_WORDS]

    assert main([*words, "--option", "threshold=99"]) == 2
    assert "option threshold: 60 there, 99 now" in capsys.readouterr().err
    assert main([*words, "--option", "threshold=99", "--overwrite"]) == 0
    assert (tmp_path / "out" / "run.json").exists()


def test_a_manifest_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.parquet").write_bytes(b"junk")

    assert main(["plan", str(tmp_path / "m.parquet"), "-o", str(tmp_path / "out"), *ENGINE_WORDS]) == 1

    assert "[bad_format]" in capsys.readouterr().err


def costs(tmp_path: Path, **prices: float) -> str:
    path = tmp_path / "costs.yaml"
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "cluster" / "costs.yaml").read_text())
    found["workers"].update(machines=2, cpus=3, start_s=100, idle_s=50, repeated_share=0.5)
    for name, price in prices.items():
        part, _, key = name.partition("__")
        found[part][key] = price
    path.write_text(yaml.safe_dump(found))
    return str(path)


PRICES = {
    "workers__price_per_hour": 2.0,
    "head__price_per_hour": 1.0,
    "storage__price_per_gb_month": 0.0,
    "storage__price_per_1000_reads": 1.0,
    "storage__price_per_1000_writes": 10.0,
}


def test_time_and_cost_on_a_cluster_follow_from_measured_rates_and_the_users_prices(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(str(tmp_path / "other"), frames=1, busy_s=100.0)
    words = [manifest, "-o", str(tmp_path / "out"), "--rates-from", str(tmp_path / "other")]

    found = foretold(capsys, *words, "--cluster", costs(tmp_path, **PRICES))["cluster"]

    # 4 units of 6 frames at 100 s a frame; half of it is done twice; 2 machines hold 4 actors of the 5 that fit.
    work_s = 24 * 100 * 1.5 / 4
    assert (found["actors"], found["machines"]) == (4, 2)
    assert found["seconds"] == pytest.approx(100 + work_s + 0.5 * 24 * 100 / 4)
    assert found["worker_hours"] == pytest.approx(2 * (found["seconds"] + 50) / 3600)
    assert found["worker_cost"] == pytest.approx(2 * found["worker_hours"])
    assert found["head_cost"] == pytest.approx(found["head_hours"])
    assert (found["reads"], found["writes"]) == (24 + 3 * 4, 2 * 4)
    assert found["request_cost"] == pytest.approx((36 * 1 + 8 * 10) / 1000)
    assert found["missing_prices"] == []


def test_prices_that_are_not_filled_in_are_named_and_no_cost_is_shown(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", manifest, "-o", str(tmp_path / "out"), *ENGINE_WORDS]

    assert main([*words, "--cluster", str(REPOSITORY / "cluster" / "costs.yaml")]) == 0
    said = capsys.readouterr().out
    assert "fill in workers.price_per_hour, head.price_per_hour" in said
    assert main([*words, "--cluster", costs(tmp_path, **PRICES)]) == 0
    assert "USD" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: {machines: 1, cpus: many}", "expected a number from 0"),
        ("workers: {machines: 1}", "cpus"),
        ("workers: {machines: 1, cpus: 4, prize_per_hour: 3}", "price_per_hour"),
        ("[]", "expected 'key: value' lines"),
        ("workers: {machines: 1, cpus: 0.5}", "no machine holds an actor"),
    ],
)
def test_a_cluster_file_with_a_mistake_is_refused(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "costs.yaml").write_text(text)
    words = ["plan", manifest, "-o", str(tmp_path / "out"), *ENGINE_WORDS, "--cluster", str(tmp_path / "costs.yaml")]

    assert main(words) == 2

    assert message in capsys.readouterr().err
