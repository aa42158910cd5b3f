"""The same run by one worker, by two, and with everybody killed once: the same weights."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch

from rayvos.errors import InputError, RunError, UsageError
from rayvos.models.registry import load_model
from rayvos.models.weights import read_weights
from rayvos.training.metrics_log import read_metrics
from rayvos.training.registry import TrainingPlan, TrainingRequest, plan_training
from rayvos.training.runs import RunSettings, train_run
from rayvos.training.worker_group import WorkerGroup
from rayvos.video.synthetic import SynthConfig
from rayvos.video.synthetic_set import SetSettings, write_set
from tests.ray_cluster import PATIENCE_S, shared_address, worker_environment
from tests.training.tiny_task import TinyTask, makers_in, tiny_optimisation, wait_until_gone

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3 * PATIENCE_S)]

STEPS, STCN_STEPS = 40, 10
QUIET = TinyTask(dropout=0.3)  # with batch norms and dropout: a resumed pair of workers must get those right as well


def plan_of(task=QUIET, **changes):
    return TrainingPlan(task=task, optimisation=tiny_optimisation(steps=STEPS, **changes))


def settings_of(out, **changes):
    return RunSettings(**{"out": str(out), "device": "cpu", "processes": 0, "checkpoint_every": 5, **changes})


def stcn_plan():
    return plan_training("tests.training.mortal_stcn:plan_mortal", TrainingRequest(steps=STCN_STEPS, batch_size=4))


def train_with(workers, plan, settings, *, sample_actors=0, **options):
    from rayvos.training.loops import train_on_ray

    group = WorkerGroup(num_workers=workers, num_cpus=1, use_gpu=False, sample_actors=sample_actors)
    return train_on_ray(plan, settings, group, **options)


def weights_of(out):
    return read_weights(str(out / "last.safetensors"))[0]


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def quiet_pair(ray_cluster, tmp_path_factory):
    """The folder of a run that two workers trained undisturbed."""
    out = tmp_path_factory.mktemp("quiet") / "run"
    train_with(2, plan_of(), settings_of(out))
    return out


@pytest.fixture(scope="module")
def quiet_stcn(ray_cluster, tmp_path_factory):
    """The folder of a run in which two workers trained STCN undisturbed."""
    out, notes = tmp_path_factory.mktemp("quiet-stcn") / "run", []
    settings = settings_of(out, processes=1, validate_every=STCN_STEPS)
    summary = train_with(2, stcn_plan(), settings, watch=notes.append)
    assert summary.done
    assert notes
    return out


def test_two_workers_train_stcn_along_the_curve_of_one(quiet_stcn, tmp_path):
    alone = train_run(stcn_plan(), settings_of(tmp_path, validate_every=STCN_STEPS))

    assert alone.done
    one, two = (read_metrics(str(out / "metrics.parquet")).to_pandas() for out in (tmp_path, quiet_stcn))
    curves = [table[table.name.isin(["loss", "j_and_f"])].set_index(["step", "name"]).value for table in (one, two)]
    assert len(curves[0]) == STCN_STEPS + 1
    # float32 sums in another order, over all steps
    pd.testing.assert_series_equal(*curves, rtol=1e-3)
    for name, value in weights_of(tmp_path).items():
        torch.testing.assert_close(weights_of(quiet_stcn)[name], value, atol=1e-3, rtol=1e-3)


def test_two_workers_train_sta_as_one_does(ray_cluster, tmp_path):
    data = str(tmp_path / "set")
    write_set(data, SetSettings(SynthConfig(num_frames=6, height=64, width=96, num_objects=1)), 1)
    options = {"height": 64, "width": 96, "num_frames": 2, "iterations": 2}
    request = TrainingRequest(
        batch_size=2, steps=2, data=(data,), validation=(data,), folder=str(tmp_path / "two"), options=options
    )
    plan = plan_training("sta", request)

    pair = train_with(2, plan, settings_of(tmp_path / "two"))
    alone = train_run(plan, settings_of(tmp_path / "one"))

    assert pair.done
    assert pair.loss == pytest.approx(alone.loss, rel=1e-3)
    assert pair.validation["mean_iou"] == pytest.approx(alone.validation["mean_iou"], abs=0.05)
    assert load_model(pair.weights)[1].model == {"variant": "compact", "height": 64, "width": 96}


def test_samples_made_by_actors_change_nothing_though_one_and_then_a_worker_are_killed(quiet_pair, tmp_path):
    actor, worker, makers = tmp_path / "actor", tmp_path / "worker", tmp_path / "makers"
    makers.mkdir()
    task = replace(QUIET, fatal_sample=f"30 {actor}", fatal=f"13 {worker}", makers=str(makers))

    summary = train_with(2, plan_of(task), settings_of(tmp_path / "run"), sample_actors=1)

    assert actor.exists()
    assert worker.exists()
    assert summary.done
    assert summary.resumed_at == 10
    assert_same(weights_of(quiet_pair), weights_of(tmp_path / "run"))
    wait_until_gone(makers_in(makers))


def test_a_worker_and_then_the_driver_killed_change_nothing_of_stcn(quiet_stcn, tmp_path):
    out, worker, driver = tmp_path / "run", tmp_path / "worker", tmp_path / "driver"
    command = [sys.executable, "-m", "tests.training.train_mortal", shared_address(), str(out), str(STCN_STEPS)]
    command += [f"3:{worker},7:{driver}"]

    worker.touch()
    with subprocess.Popen(command, env=worker_environment(), stderr=subprocess.PIPE) as killed:
        driver.write_text(str(killed.pid))
        _, told = killed.communicate(timeout=PATIENCE_S)
    assert killed.returncode == -signal.SIGKILL, told.decode()
    assert not worker.exists()
    found = subprocess.run(command, env=worker_environment(), capture_output=True, text=True, timeout=PATIENCE_S)

    assert found.returncode == 0, found.stderr
    assert int(found.stdout) == 6
    assert_same(weights_of(quiet_stcn), weights_of(out))


def test_workers_that_always_die_end_the_run_with_advice(ray_cluster, tmp_path):
    class Doomed(TinyTask):
        def loss(self, model, batch, step):
            raise SystemError("the driver of this card is broken")

    with pytest.raises(RunError, match=r"died more than 0 times.*the driver of this card is broken.*goes on from"):
        train_with(1, plan_of(Doomed()), settings_of(tmp_path), max_failures=0)


def test_an_error_of_one_worker_is_the_error_of_the_run_and_nothing_is_tried_again(ray_cluster, tmp_path):
    plan = plan_of(TinyTask(unreadable=frozenset({6})))  # of the second worker, in the first step

    with pytest.raises(InputError, match=r"^clip 'c6': no such frame$"):
        train_with(2, plan, settings_of(tmp_path / "a"))
    with pytest.raises(RunError, match=r"step 2: the loss of samples 12–15 is nan"):
        train_with(2, plan_of(TinyTask(poisoned=frozenset({13}))), settings_of(tmp_path / "b"))


def test_another_configuration_is_refused_before_workers_start(ray_cluster, quiet_pair):
    with pytest.raises(UsageError, match=r"optimisation\.batch_size: there 8, now 16"):
        train_with(2, plan_of(batch_size=16), settings_of(quiet_pair))
    with pytest.raises(UsageError, match="a batch of 8 samples cannot be cut into 3"):
        train_with(3, plan_of(), settings_of(quiet_pair))
