from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from rayvos.engines.base import EngineNeeds
from rayvos.engines.options import parse_options
from rayvos.engines.registry import EngineChoice, load_engine
from rayvos.errors import UsageError
from tests.engines_for_tests import ENGINE


@dataclass(frozen=True)
class Config:
    mode: Literal["fast", "exact"] = "fast"
    radius: int | None = 3
    share: float = 0.5
    deep: bool = False
    steps: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: expected 0 to 1, found {self.share}")


class Configured:
    name = "configured"
    weights = ""

    def __init__(self, config: Config | None = None, *, seed: int = 0) -> None:
        self.config, self.seed = config, seed

    def options(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def needs(self) -> EngineNeeds:
        return EngineNeeds(0, 0.1, 0.1)

    def label(self, *_: Any) -> Iterator[Any]:
        yield from ()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("engines_of_a_user")
    module.Configured = Configured  # type: ignore[attr-defined]
    module.nothing = lambda: object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "engines_of_a_user", module)


def test_text_becomes_what_the_engine_states() -> None:
    given = parse_options(["mode=exact", "radius=none", "share=0.25", "deep=yes", "steps=[3, 4]"])

    engine = load_engine("engines_of_a_user:Configured", seed=7, **given)

    assert isinstance(engine, Configured)
    assert engine.config == Config("exact", None, 0.25, True, (3, 4))
    assert engine.seed == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mod": "fast"}, "did you mean 'mode'"),
        ({"mode": "slow"}, "expected one of fast, exact, found 'slow'"),
        ({"radius": "wide"}, "expected a whole number or none, found 'wide'"),
        ({"share": "2"}, "share: expected 0 to 1, found 2.0"),
        ({"deep": "perhaps"}, "expected true or false"),
    ],
)
def test_a_wrong_option_is_named_with_its_remedy(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_engine("engines_of_a_user:Configured", **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cutt", "did you mean 'cut'"),
        ("no_such_module:Engine", "could not import 'no_such_module'"),
        ("engines_of_a_user:Absent", "has no 'Absent'"),
        ("engines_of_a_user:nothing", "it has no name, weights"),
    ],
)
def test_what_is_no_engine_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_engine(name)


def test_weights_for_an_engine_without_any_are_refused() -> None:
    with pytest.raises(UsageError, match="uses no weights; leave out --weights w"):
        load_engine(ENGINE, weights="w.safetensors")


def test_a_choice_travels_to_an_actor_and_makes_the_same_engine() -> None:
    choice = EngineChoice(ENGINE, {"threshold": "77"})

    assert pickle.loads(pickle.dumps(choice)).load().options() == {"threshold": 77}


@pytest.mark.parametrize("words", [["cues"], ["=color"], ["cues=a", "cues=b"]])
def test_a_word_that_is_no_option_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_options(words)
