"""A month more, for a small and for a large table: python tests/bench_partitions.py [years of the large one, 30].

Two projects of two steps, ingest and clean, whose source is a folder of monthly files: the flights of 2013, and the
same with their dates shifted by years. Both are run once, which is not compared; then each gets another month, three
times and in turn, and is run again. Every run is a process of its own, the command `mlops-kit run`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
from ratio import middle, say

from mlops_kit.workloads.flights_sources import read_source

TIME = 3  # Most times what adding a month to the small table takes
ROUNDS = 3
FILES = {
    "pyproject.toml": '[project]\nname = "months"\nversion = "0.0.1"\n\n[tool.nbdev]\nlib_path = "months"\n',
    "settings.ini": """\
[DEFAULT]
tracking_uri =
[pipeline.months]
workload = months
steps = ["ingest", "clean"]
[source.months.flights]
personal = ["tailnum"]
files = sources/flights-{part}.parquet
time = time_hour
""",
    "months/__init__.py": "",
    "months/workloads/__init__.py": "",
    "months/workloads/months.py": '''\
"""Flights, and nothing else."""

from mlops_kit.workloads import flights_contracts

personal, not_personal, repairs = {"flights": ["tailnum"]}, {}, {}


def contracts():
    return {"flights": flights_contracts.contracts()["flights"]}
''',
}


def write_months(folder: Path, flights: pl.DataFrame, first: int, last: int) -> int:
    """Write months as files, counted from January 2013, and count their rows."""
    rows = 0
    for number in range(first, last):
        years, month = number // 12, number % 12 + 1
        stamp = pl.format("{}{}", pl.col("time_hour").str.head(4).cast(int) + years, pl.col("time_hour").str.slice(4))
        table = flights.filter(month=month).with_columns(pl.col("year") + years, time_hour=stamp)
        table.write_parquet(folder / f"sources/flights-{2013 + years}-{month:02}.parquet")
        rows += len(table)
    return rows


def make_project(folder: Path) -> Path:
    (folder / "sources").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(folder: Path) -> dict[str, Any]:
    """Run the project, and say what it cost: the processor's time is that of the command and its workers."""
    command = [str(Path(sys.executable).with_name("mlops-kit")), "run", "months", "--json"]
    wall, before = time.perf_counter(), os.times()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    after, seconds = os.times(), time.perf_counter() - wall
    assert done.returncode == 0, done.stdout + done.stderr
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    steps = json.loads(done.stdout)["steps"]
    assert {step["status"] for step in steps} == {"executed"}, steps
    return {"wall": seconds, "cpu": cpu, **{step["name"].rpartition(".")[2]: step["seconds"] for step in steps}}


def check(folder: Path, months: int, rows: int) -> None:
    """Both steps made one partition, and what they made is whole."""
    for table in ("bronze", "silver"):
        said = json.loads((folder / f"runs/dev/data/{table}/flights/_table.json").read_text())
        found = len(said["partitions"]), said["rows"]
        assert found == (months, rows) or (table == "silver" and found[0] == months), found


def compare(large_years: int = 30) -> dict[str, Any]:
    """Add months to both tables in turn, and say what each run cost and how many rows there were."""
    flights, months = read_source("flights"), {"small": 12, "large": 12 * large_years}
    costs: dict[str, list[dict[str, Any]]] = {name: [] for name in months}
    with tempfile.TemporaryDirectory() as place:
        projects = {name: make_project(Path(place) / name) for name in months}
        rows = {name: write_months(projects[name], flights, 0, count) for name, count in months.items()}
        time.sleep(2.5)  # A file that was written within two seconds is hashed again: it could change
        first = {name: run(folder) for name, folder in projects.items()}
        for number in range(ROUNDS):
            for name in sorted(months, reverse=bool(number % 2)):
                added = months[name] + number
                rows[name] += write_months(projects[name], flights, added, added + 1)
                costs[name].append(run(projects[name]))
                check(projects[name], added + 1, rows[name])
    return {"rows": rows, "first": first, "costs": costs}


def report(large_years: int = 30) -> None:
    """Hold a month more of the large table against one of the small."""
    found = compare(large_years)
    steps = ("wall", "cpu", "ingest", "clean")
    cost = {name: {what: middle(runs, what) for what in steps} for name, runs in found["costs"].items()}
    for what in ("wall", "cpu"):
        details = "; ".join(
            f"{found['rows'][name]:,} rows: {took[what]:.1f} s, ingest {took['ingest']:.1f}, clean {took['clean']:.1f}"
            for name, took in cost.items()
        )
        say(f"a month more, large table / small: {what}", cost["large"][what] / cost["small"][what], TIME, details)


if __name__ == "__main__":
    report(int(sys.argv[1]) if sys.argv[1:] else 30)
