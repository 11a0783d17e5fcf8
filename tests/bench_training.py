"""Speed of training: `python tests/bench_training.py`. Each function prints a line; `report` prints them all."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from ratio import say

MOST_SECONDS = 10  # For an evaluation of 55,000 rows


def clock(call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Seconds that a call takes, and its answer."""
    start = time.perf_counter()
    found = call(*given)
    return time.perf_counter() - start, found


def judged_rows(rows: int, days: int) -> tuple[np.ndarray, dict[str, np.ndarray], pl.DataFrame, np.ndarray]:
    """What an evaluation gets: truth, scores of four models, ten columns of five slices, and the day of each row."""
    rng = np.random.default_rng(0)
    day = rng.integers(0, days, rows)
    known = rng.normal(size=rows)
    truth = (rng.random(rows) < 1 / (1 + np.exp(2 - known - rng.normal(size=days)[day]))).astype(int)
    noise = {"model": 0.0, "linear": 0.5, "champion": 0.2}
    said = {name: 1 / (1 + np.exp(2 - known - part * rng.normal(size=rows))) for name, part in noise.items()}
    said["constant"] = np.full(rows, truth.mean())
    columns = {f"column {n}": rng.choice(["a", "b", "c", "d", "e"], rows) for n in range(10)}
    return truth, {name: np.column_stack([1 - p, p]) for name, p in said.items()}, pl.DataFrame(columns), day


def evaluation(rows: int = 55_000) -> None:
    """All metrics of four models and of fifty slices, with a thousand draws of whole days, then of single rows."""
    from mlops_kit.training.intervals import make_blocks, measure_models
    from mlops_kit.training.slices import slice_table

    for kind, days in (("days", 61), ("rows", 0)):
        truth, models, table, day = judged_rows(rows, days or 61)
        blocks = day if days else make_blocks(table, None)
        cpu = time.process_time()
        first, _ = clock(measure_models, "binary", truth, models, blocks)
        second, slices = clock(slice_table, "binary", truth, models["model"], table, table.columns, blocks)
        assert len(slices) == 50 and all(of["judged"] for of in slices)
        details = f"{rows:,} rows, {blocks.max() + 1} blocks; four models {first:.1f} s, 50 slices {second:.1f} s"
        details += f"; {time.process_time() - cpu:.1f} s of one core"
        say(f"evaluation with 1,000 draws of whole {kind}, seconds", first + second, MOST_SECONDS, details)


def report() -> None:
    """All lines."""
    evaluation()


if __name__ == "__main__":
    report()
