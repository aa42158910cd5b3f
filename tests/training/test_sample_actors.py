"""Pieces made by actors are those made here, whoever dies on the way."""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch

from rayvos.errors import InputError, RunError
from rayvos.training.loading import BatchLoader
from rayvos.training.sharing import Share
from tests.ray_cluster import PATIENCE_S
from tests.training.tiny_task import TinyTask, makers_in, tiny_optimisation, wait_until_gone

pytestmark = [pytest.mark.ray, pytest.mark.timeout(PATIENCE_S)]


def steps_of(task, *, num_actors=0, steps=12, accumulate=2):
    """Return the inputs of the steps of a run, made by actors or, without any, here."""
    from rayvos.training.sample_actors import pieces_from_actors

    source = partial(pieces_from_actors, num_actors=num_actors) if num_actors else None
    share = Share(accumulate=accumulate)
    with BatchLoader(task, tiny_optimisation(steps=steps), share, source=source) as loader:
        return [torch.cat([batch.inputs for batch in loader.next_step()]) for _ in range(steps)]


def test_steps_do_not_depend_on_actors_that_die_and_all_actors_end_with_the_run(ray_cluster, tmp_path):
    makers = tmp_path / "makers"
    makers.mkdir()
    task = TinyTask(makers=str(makers), fatal_sample=f"27 {tmp_path}/killed")

    made = steps_of(task, num_actors=2)

    assert (tmp_path / "killed").exists()
    assert torch.equal(torch.stack(made), torch.stack(steps_of(TinyTask())))
    assert os.getpid() not in makers_in(makers)
    wait_until_gone(makers_in(makers))


def test_a_sample_that_cannot_be_read_is_named(ray_cluster):
    with pytest.raises(InputError, match=r"^clip 'c11': no such frame$"):
        steps_of(TinyTask(unreadable=frozenset({11})), num_actors=1)


def test_samples_that_kill_whoever_makes_them_are_named_and_not_tried_for_ever(ray_cluster):
    with pytest.raises(RunError, match=r"samples 12–15 were lost 3 times with the actor that made them"):
        steps_of(TinyTask(fatal_sample="13"), num_actors=1)


def test_no_more_samples_are_made_ahead_than_actors_hold(ray_cluster, tmp_path):
    class Counting(TinyTask):
        def sample(self, index):
            (Path(self.makers) / f"sample-{index}").touch()
            return super().sample(index)

    from rayvos.training.sample_actors import pieces_from_actors

    order = [range(index, index + 1) for index in range(50)]
    with closing(pieces_from_actors(Counting(makers=str(tmp_path)), order, num_actors=1)) as pieces:
        for _ in range(3):
            next(pieces)

    assert len(list(tmp_path.glob("sample-*"))) <= 3 + 2


def test_an_actor_that_cannot_start_is_an_error_and_not_a_wait(ray_cluster):
    class Unfit(TinyTask):
        def __setstate__(self, state):
            raise ModuleNotFoundError("No module named 'their_code'")

    with pytest.raises(RunError, match=r"could not start .*No module named 'their_code'"):
        steps_of(Unfit(), num_actors=1)
