"""`rayvos status`: what a run has committed, what is left, and what failed."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Annotated, Any

from cyclopts import Parameter

from rayvos.annotations.run_folder import RunFolder, read_dead_letters

__all__ = ["run_status", "status"]

SHOWN_LETTERS = 20


def status(
    run: Annotated[str, Parameter(help="Output folder of a run, path or URL.")],
    *,
    dead_letters: Annotated[bool, Parameter(negative="", help="List every dead letter with its traceback.")] = False,
    watch: Annotated[bool, Parameter(negative="", help="Show it again every 5 seconds until the run ends.")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Show how far a run is and what failed.

    Exits with 0 where all is done, 3 where there are dead letters. Example:

        rayvos status out
    """
    while True:
        found = run_status(run)
        if as_json:
            print(json.dumps(found), flush=True)
        else:
            _show(run, found, dead_letters)
        if not watch or found["units_left"] == 0 or found["state"] not in ("running", "stopping"):
            return 3 if found["dead_letters"] else 0
        time.sleep(5)


def run_status(path: str) -> dict[str, Any]:
    """Return the state of a run: counts from what is committed, the rest from `run.json`.

    Raises:
        MissingPathError: the folder holds no plan.
    """
    run = RunFolder(path)
    plan = run.read_plan()
    committed = run.committed()
    pieces = plan.select(["unit_id", "clip_id", "frame_start", "frame_stop"]).to_pylist()
    done = [piece for piece in pieces if piece["unit_id"] in committed]
    open_clips = {piece["clip_id"] for piece in pieces if piece["unit_id"] not in committed}
    clips = {piece["clip_id"] for piece in pieces}
    units = {piece["unit_id"] for piece in pieces}
    letters = read_dead_letters(path).to_pylist()
    about = run.read_run_json()
    return {
        "state": about.get("state", "planned"),
        "engine": about.get("engine"),
        "makes": run.table,
        "clips": len(clips),
        "clips_done": len(clips - open_clips),
        "frames": sum(piece["frame_stop"] - piece["frame_start"] for piece in pieces),
        "frames_done": sum(piece["frame_stop"] - piece["frame_start"] for piece in done),
        "units": len(units),
        "units_left": len(units - committed),
        "throughput": about.get("throughput"),
        "dead_letters": letters,
    }


def _show(path: str, found: dict[str, Any], all_letters: bool) -> None:
    letters = found["dead_letters"]
    print(f"{path}: {found['state']}")
    print(f"  clips   {found['clips_done']} of {found['clips']} done")
    print(f"  frames  {found['frames_done']} of {found['frames']} done")
    print(f"  units   {found['units'] - found['units_left']} of {found['units']} committed")
    if not letters:
        print("  dead letters  none")
    else:
        kinds = Counter(letter["error"] for letter in letters)
        print(f"  dead letters  {len(letters)}: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}")
        for letter in letters if all_letters else letters[:SHOWN_LETTERS]:
            frames = f"frames {letter['frame_start']}…{letter['frame_stop'] - 1}"
            print(f"    {letter['clip_id']} {frames} {letter['error']}: {letter['message']}")
            if all_letters and letter["traceback"]:
                print("      " + letter["traceback"].rstrip().replace("\n", "\n      "))
        if not all_letters and len(letters) > SHOWN_LETTERS:
            print(f"    … {len(letters) - SHOWN_LETTERS} more: rayvos status {path} --dead-letters")
    if found["units_left"]:
        print("next: the same command goes on where the run was", file=sys.stderr)
    elif letters:
        print("next: the same command with --retry-failed takes the dead letters up again", file=sys.stderr)
    else:
        print(f"next: {_following(path, found['makes'])}", file=sys.stderr)


def _following(path: str, makes: str) -> str:
    if makes == "candidates":
        return f"rayvos export {path} -o points --format point-vos, or rayvos export {path} -o sheets -f contact-sheet"
    return f"rayvos report {path}, or rayvos export {path} -o masks --format davis"
