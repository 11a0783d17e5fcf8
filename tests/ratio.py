"""What the speed comparisons share: runs in turn, each in a process of its own, and one line a bound."""

import json
import statistics
import subprocess
import sys
from typing import Any


def say(what: str, ratio: float, bound: float, details: str) -> None:
    mark = "ok  " if ratio <= bound else "SLOW"
    print(f"{mark} {what:<58} {ratio:8.3f}  (bound {bound:g}; {details})", flush=True)


def in_turn(commands: dict[str, list[str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run Python scripts in turn, there and back by rounds; each prints what it found as its last line."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in [*commands][:: -1 if number % 2 else 1]:
            done = subprocess.run([sys.executable, *commands[name]], check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def middle(runs: list[dict[str, Any]], what: str) -> float:
    """The median of a number over runs."""
    return statistics.median(run[what] for run in runs)
