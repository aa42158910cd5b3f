"""Engines by name, with options as a command line writes them: `cut`, `box2seg`, or your own `package.module:Class`.

An engine class takes keywords, or one frozen dataclass called `config` whose fields are the options. It is described
by an `EngineChoice`, which is small and travels to the actors; each actor loads its own engine from it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayvos import storage
from rayvos.engines.base import Engine
from rayvos.engines.options import alternatives, convert_option
from rayvos.engines.score_calibration import CalibratedEngine, calibration_beside, read_calibration
from rayvos.errors import UsageError, choose

__all__ = ["ENGINES", "EngineChoice", "load_engine"]

ENGINES = {
    "box2seg": "rayvos.engines.box2seg.engine:Box2SegEngine",
    "cut": "rayvos.engines.cut.engine:CutEngine",
    "guided": "rayvos.engines.guided.engine:GuidedEngine",
    "point-stcn": "rayvos.engines.stcn.point_stcn:PointStcnEngine",
    "scribble": "rayvos.engines.cut.scribble:ScribbleEngine",
    "sta": "rayvos.engines.sta.engine:StaEngine",
    "stcn": "rayvos.engines.stcn.engine:StcnEngine",
}
"""The engines that come with rayvos: name → place."""

# Options every job may state. An engine that has no use for a seed or a device is not told; weights must be used.
_COMMON = ("weights", "device", "seed")


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engine, with which options: all an actor needs to make its own."""

    name: str
    """A name of `ENGINES`, or `package.module:Class`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options by name; strings are converted to the type that the engine states."""
    weights: str | None = None
    """Path or URL of the weights; None: those that come with the engine, if it needs any."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`, for engines that use torch."""
    seed: int = 0
    """For engines that draw random numbers."""
    calibration: str | None = None
    """Path or URL of a score calibration, or `none`; None: the one beside the weights, if there is one."""

    def load(self) -> Engine:
        """Make the engine; see `load_engine`."""
        return load_engine(
            self.name,
            weights=self.weights,
            device=self.device,
            seed=self.seed,
            calibration=self.calibration,
            **dict(self.options),
        )

    def anchored(self) -> EngineChoice:
        """Return the choice with its files as workers find them, which have working directories of their own."""
        return dataclasses.replace(self, weights=_anchored(self.weights), calibration=_anchored(self.calibration))


def _anchored(path: str | None) -> str | None:
    if path is None or storage.is_url(path) or not storage.exists(path):  # or the name of packaged weights
        return path
    return storage.absolute(path)


def load_engine(
    name: str,
    *,
    weights: str | None = None,
    device: str = "auto",
    seed: int = 0,
    calibration: str | None = None,
    **options: Any,
) -> Engine:
    """Return an engine.

    Args:
        name: a name of `ENGINES`, or `package.module:Class` of your own.
        weights: path or URL; None: those that come with the engine, if it needs any.
        device: `auto`, `cpu` or `cuda`, for engines that use torch.
        seed: for engines that draw random numbers.
        calibration: path or URL of a score calibration, or `none`; None: the one beside the weights, if there is one.
        options: the engine's own, typed or as text.

    Raises:
        UsageError: the engine, an option or a value is unknown, the engine uses no weights but some are given, or the
            calibration belongs to another engine or other weights.
        WeightsError: the weights are missing or those of another network.
    """
    factory = _find(name)
    given: dict[str, Any] = {"weights": weights, "device": device, "seed": seed, **options}
    arguments = _arguments(factory, name, given)
    engine = factory(**arguments)
    if not isinstance(engine, Engine):
        raise UsageError(
            f"engine {name!r}: it has no name, weights, options(), needs() and label(); see engines/base.py"
        )
    return _with_calibration(engine, weights, calibration)


def _with_calibration(engine: Engine, weights: str | None, calibration: str | None) -> Engine:
    path = calibration
    if path is None and engine.weights:
        from rayvos.models.registry import packaged_weights  # waits for torch, which such an engine has loaded

        packaged = packaged_weights()
        file = packaged.get(weights or engine.name, weights)
        if file is not None and storage.exists(calibration_beside(file)):
            path = calibration_beside(file)
    if path is None or path == "none":
        return engine
    return CalibratedEngine(engine, read_calibration(path), where=path)


def _find(name: str) -> Any:
    place = name if ":" in name else ENGINES[choose("engine", name, ENGINES)]
    module, _, attribute = place.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"engine {name!r}: could not import {module!r}: {error}; check its name and PYTHONPATH"
        ) from error
    if not hasattr(found, attribute):
        raise UsageError(f"engine {name!r}: module {module!r} has no {attribute!r}")
    return getattr(found, attribute)


def _arguments(factory: Any, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords for `factory`, with the fields of its `config` gathered into one."""
    parameters = inspect.signature(factory).parameters
    constructor = factory.__init__ if inspect.isclass(factory) else factory
    kinds = typing.get_type_hints(constructor)
    config_kinds = alternatives(kinds["config"]) if "config" in parameters and "config" in kinds else ()
    config_class: Any = next((kind for kind in config_kinds if dataclasses.is_dataclass(kind)), None)
    fields = {} if config_class is None else typing.get_type_hints(config_class)
    own = [key for key in parameters if key != "config"]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for key, value in given.items():
        where = f"engine {name!r}: option {key!r}"
        if key in fields:
            config[key] = convert_option(value, fields[key], where)
        elif key in own:
            arguments[key] = convert_option(value, kinds.get(key, Any), where)
        elif key == "weights" and value is not None:
            raise UsageError(f"engine {name!r} uses no weights; leave out --weights {value}")
        elif key not in _COMMON:
            if not open_ended:
                choose(f"option of engine {name!r}:", key, [*fields, *(k for k in own if k not in _COMMON)])
            arguments[key] = convert_option(value, Any, where)
    if config_class is not None:
        try:
            arguments["config"] = config_class(**config)
        except ValueError as error:
            raise UsageError(f"engine {name!r}: {error}") from error
    return arguments
