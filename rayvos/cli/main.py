"""The command `rayvos`: finds the command's file, runs it, and turns errors into messages and exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done with dead letters, 130 stopped by Ctrl-C.
Commands are named as strings and imported when they run, so that `rayvos --help` waits for none of their libraries.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import cyclopts
from cyclopts import App, Parameter

from rayvos.errors import RayvosError, UsageError
from rayvos.redaction import without_secrets

__all__ = ["build_app", "main", "run"]

EXIT_FAILED, EXIT_USAGE, EXIT_DEAD_LETTERS, EXIT_INTERRUPTED = 1, 2, 3, 130

COMMANDS = {
    "demo": ("rayvos.cli.demo:demo", "Label a generated clip on this machine and name the pictures to open."),
    "synth": ("rayvos.cli.synth:synth", "Generate clips with exact masks, boxes, points and traces."),
    "import": ("rayvos.cli.import_:import_", "Turn a data set of another tool into a manifest."),
    "label": ("rayvos.cli.label:label", "Make masks from boxes, on this machine or a Ray cluster."),
    "submit": ("rayvos.cli.submit:submit", "Run a job on a running Ray cluster and follow it to its end."),
    "candidates": ("rayvos.cli.candidates:candidates", "Propose points for annotators to verify, from a few prompts."),
    "simulate-points": ("rayvos.cli.simulate_points:simulate_points", "Draw points from masks, as annotators click."),
    "status": ("rayvos.cli.status:status", "Show what a run has committed, and its dead letters."),
    "plan": ("rayvos.cli.plan:plan", "Show units, frames, output size and time of a run, without doing it."),
    "export": ("rayvos.cli.export:export", "Write labels as PNGs, COCO or YouTube-VIS json, overlays, contact sheets."),
    "report": ("rayvos.cli.report:report", "Write one HTML page on a run: throughput, scores, worst labels first."),
    "review": ("rayvos.cli.review:review", "Write the worst labels of a run for a person to fix."),
    "train": ("rayvos.cli.train:train", "Train a network on masks, boxes, points or generated clips."),
    "tune": ("rayvos.cli.tune:tune", "Sweep tau, annotated frames or points, and say which are worth paying for."),
    "eval": ("rayvos.cli.eval:app", "Score masks against truth by the rules of a benchmark."),
    "doctor": ("rayvos.cli.doctor:doctor", "Check this machine, the cluster, storage and weights."),
}


def build_app(words: Sequence[str]) -> App:
    """Return the command line for these words.

    The command that is asked for shows the help of its own docstring, examples included; for that it is imported.
    The others are listed with their line above and stay unimported.
    """
    app = App(
        name="rayvos",
        help="Boxes in, per-object training masks out: video labelling on Ray.\n\n"
        "Try `rayvos demo`; label your own video with `rayvos label VIDEO --boxes boxes.csv -o out`.",
        version=lambda: f"rayvos {version('rayvos')}",
        version_flags=["--version"],
        result_action="return_value",
    )
    asked = next((word for word in words if word in COMMANDS), None)
    for name, (place, line) in COMMANDS.items():
        if name == asked:
            app.command(place, name=name)
        else:
            app.command(place, name=name, help=line)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        config: Annotated[
            str | None, Parameter(name="--config", help="YAML file of options; flags win over it.")
        ] = None,
        verbose: Annotated[bool, Parameter(name=["-v", "--verbose"], negative="", help="Log what happens.")] = False,
        quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="", help="Log errors only.")] = False,
        log_json: Annotated[
            bool, Parameter(name="--log-json", negative="", help="Log one JSON object a line.")
        ] = False,
    ) -> Any:
        set_up_logging(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING, as_json=log_json)
        if config is not None:
            app.config = (_read_options(config),)
        return app(tokens, exit_on_error=False, print_error=True)

    return app


def _read_options(path: str) -> cyclopts.config.Dict:
    """Return the options of a YAML file; cyclopts refuses keys that are no option of the command, naming the file.

    Raises:
        UsageError: it is no YAML mapping of options.
        StorageError: it cannot be read.
    """
    import yaml

    from rayvos import storage

    try:
        found = yaml.safe_load(storage.read_bytes(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: expected YAML: {error}") from error
    found = {} if found is None else found
    if not isinstance(found, dict):
        raise UsageError(f"--config {path}: expected 'option: value' lines, found a {type(found).__name__}")
    options = {str(key): value for key, value in found.items()}
    for key in options:
        if key in COMMANDS:  # cyclopts would pass over it
            raise UsageError(f"--config {path}: expected options, found the command {key!r}; write its options alone")
    return cyclopts.config.Dict(options, use_commands_as_keys=False, source=path)


class _LineFormatter(logging.Formatter):
    """Text without secrets; whoever reads logs need not be who may read the bucket."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, for log collectors of clusters."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        line = {"time": when, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(without_secrets(line))


def set_up_logging(level: int, *, as_json: bool = False) -> None:
    """Send rayvos' own log records to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _LineFormatter("%(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("rayvos")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the words after `rayvos`; None takes them from the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = build_app(words).meta(words, exit_on_error=False, print_error=True)
    except cyclopts.CycloptsError:
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return EXIT_INTERRUPTED
    except UsageError as error:
        print(f"rayvos: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        return EXIT_FAILED
    except RayvosError as error:
        print(f"rayvos: {error} [{error.code}]", file=sys.stderr)
        return EXIT_FAILED
    except Exception:
        print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
        print("rayvos: this is a defect of rayvos; please report it with the lines above", file=sys.stderr)
        return EXIT_FAILED
    return result if isinstance(result, int) else 0


def run() -> None:
    """Entry point of the console script."""
    if sys.stderr is not None:  # it may be closed
        faulthandler.enable()  # a crash in native code says which line it came from
    sys.exit(main())
