"""Speed, as ratios in one run: `make bench`. A line says what was compared, the ratio, and the bound it should keep."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bench_contracts
import bench_online
import bench_partitions
import bench_serving
import bench_train
import bench_training
import bench_tune
import bench_windows
import nbformat.v4 as v4
from ratio import say

from mlops_kit.store import Memo

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TRIVIAL = ["x = 1", "y = x + 1", "print(y)"]
HEAVY = ["import pandas, mlflow, lightgbm", *TRIVIAL]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Worker:
    """One warm worker, as the runner uses it."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", "from mlops_kit.worker import main; main()"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def run(self, cells: list[str], folder: Path) -> None:
        numbered = [{"kind": "run", "number": n, "source": source} for n, source in enumerate(cells, 1)]
        records = {"MLOPS_KIT_RECORDS": str(folder / "records.jsonl"), "MLOPS_KIT_ROOT": str(ROOT)}
        task = {
            "step": "bench.step",
            "notebook": "bench.ipynb",
            "cells": numbered,
            "parameters": {},
            "folder": str(folder),
            "environment": records,
            "timeout": 100,
            "secrets": [],
        }
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        assert json.loads(self.process.stdout.readline())["error"] is None

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def bench_worker(folder: Path, rounds: int = 5) -> None:
    """The runner's warm worker against the `papermill` command on the same cells, in turn."""
    worker = Worker()
    worker.run(TRIVIAL, folder)
    for name, cells, bound in (
        ("trivial notebook", TRIVIAL, 1 / 3),
        ("pandas, mlflow, lightgbm imported", HEAVY, 0.65),
    ):
        file = folder / "bench.ipynb"
        nb = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells])
        nb.metadata["kernelspec"] = {"name": "python3", "display_name": "python3", "language": "python"}
        file.write_text(json.dumps(nb))
        command = [str(BIN / "papermill"), "--no-progress-bar", str(file), str(folder / "out.ipynb")]
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(seconds(lambda cells=cells: worker.run(cells, folder)))  # type: ignore[misc]
            theirs.append(
                seconds(lambda command=command: subprocess.run(command, check=True, capture_output=True))  # type: ignore[misc]
            )
        a, b = statistics.median(ours), statistics.median(theirs)
        say(f"warm worker / papermill command: {name}", a / b, bound, f"{a:.2f} s against {b:.2f} s")
    worker.close()


def bench_unchanged(rounds: int = 5) -> None:
    """The whole pipeline again, when nothing changed."""
    command = [str(BIN / "mlops-kit"), "run", "train", "--json"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        assert {step["status"] for step in json.loads(done.stdout)["steps"]} == {"cached"}
    found = statistics.median(times)
    say("seconds of an unchanged run of train", found, 1.5, f"{min(times):.2f} to {max(times):.2f} s")


def bench_hash(folder: Path) -> None:
    """A gigabyte of inputs, hashed and then remembered."""
    files = [folder / f"part-{n}" for n in range(16)]
    for file in files:
        file.write_bytes(os.urandom(1 << 20) * 64)
    time.sleep(2.5)  # A file that changed within two seconds of its hash is not remembered: it could change again
    memo = Memo(folder / "memo.json")
    first = seconds(lambda: [memo.digest(file) for file in files])
    memo.save()
    again = seconds(lambda: [Memo(folder / "memo.json").digest(file) for file in files])
    say("seconds to hash an unchanged gigabyte again", again, 0.05, f"{first:.2f} s the first time")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench_worker(Path(folder))
        bench_hash(Path(folder))
    bench_unchanged()
    bench_partitions.report()
    bench_contracts.report()
    bench_windows.report()
    bench_train.report()
    bench_training.report()
    bench_tune.report()
    bench_serving.report()
    bench_online.report()


if __name__ == "__main__":
    main()
