"""A trial of a search against LightGBM's own cross-validation with the same parameters: `python tests/bench_tune.py`.

Both work on the same binned rows, as whoever writes such a loop by hand would. A trial asks Optuna for its parameters,
follows the rounds for the pruner, and is stored in SQLite; it may cost a twentieth more.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from ratio import say

from mlops_kit.training.crossfit import Examples, judge_trees
from mlops_kit.training.study import open_study, search, search_space
from mlops_kit.training.trees import LOSSES, bin_rows, tree_parameters

MOST = 1.05  # Times the bare fit
ROWS, FEATURES, ROUNDS, BEFORE = 30_000, 40, 60, 20
GIVEN = {"leaves": 31, "learning_rate": 0.1, "rows_a_leaf": 50, "features_a_tree": 0.5, "rows_a_tree": 1.0, "l2": 1.0}


def examples(rows: int) -> Examples:
    """As many rows as a month of flights has, and a little to learn from them."""
    draw = np.random.default_rng(0)
    matrix = draw.normal(size=(rows, FEATURES))
    truth = (matrix[:, :5].sum(axis=1) + 2 * draw.normal(size=rows) > 3).astype(int)
    return Examples("binary", [0, 1], [f"x{n}" for n in range(FEATURES)], {}, matrix, truth)


def measure(rounds: int) -> dict[str, list[float]]:
    """CPU seconds of the bare fit and of a trial, in turn; twenty trials are known before, none of them better."""
    table, quarter = examples(ROWS), ROWS // 4
    folds = [(np.arange(n * quarter), np.arange(n * quarter, (n + 1) * quarter)) for n in (1, 2, 3)]
    binned, given = bin_rows(table.matrix, table.truth, []), GIVEN | {"seed": 0}
    words = tree_parameters("binary", 2, table.features, given) | {"metric": LOSSES["binary"]}
    judge, space = judge_trees(table, binned, folds, ROUNDS, 0), search_space({"l2": [0.99, 1.01]}, given)
    took: dict[str, list[float]] = {"bare": [], "trial": []}

    def quick(parameters: dict[str, Any], follow: Any) -> float:
        for step in range(1, ROUNDS):
            follow(step, 1 + parameters["l2"])
        return parameters["l2"]

    with tempfile.TemporaryDirectory() as folder:
        study = open_study(Path(folder), "bench")
        search(study, quick, space, given, BEFORE)
        for number in range(rounds):
            for who in [*took][:: -1 if number % 2 else 1]:
                start = time.process_time()
                if who == "bare":
                    lgb.cv(words, binned, ROUNDS, folds=folds)
                else:
                    search(study, judge, space, given, BEFORE + number + 1)
                took[who].append(time.process_time() - start)
    return took


def report(rounds: int = 7) -> None:
    """Hold a trial against the bare fit, on one thread: threads that wait for each other would be counted, too."""
    command, one = [sys.executable, __file__, str(rounds)], os.environ | {"OMP_NUM_THREADS": "1"}
    took = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=one).stdout)
    bare, trial = (statistics.median(took[who]) for who in ("bare", "trial"))
    details = f"{ROWS:,} rows, 3 folds of {ROUNDS} rounds; {trial:.2f} s of CPU against {bare:.2f} s"
    say("a trial of a search / LightGBM's cross-validation", trial / bare, MOST, details)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        report()
