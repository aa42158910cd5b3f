"""`rayvos` for a busy machine: run as a program by tests of commands that start a cluster of their own."""

from __future__ import annotations

from benchmarks.busy_machine import patient_starts
from rayvos.cli.main import run

if __name__ == "__main__":
    patient_starts()
    run()
