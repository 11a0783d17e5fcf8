"""Measure what honest, random and leaky ways to judge claim for the flights, with the parameters of settings.

    python tests/honest_table.py [HOME]     # HOME holds data/gold and data/silver of a run; runs/dev if not given

It prints the table of nbs/training/claims.ipynb. One seed, nothing is tuned. Seven fits take some minutes; a busy
machine is faster with OMP_NUM_THREADS=1.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import log_loss, roc_auc_score

from mlops_kit.steps import read_table, read_tables
from mlops_kit.training.models import fit_model, predict
from mlops_kit.workloads import flights

WORDS = {"leaves": 63, "learning_rate": 0.03, "rows_a_leaf": 200, "features_a_tree": 0.5, "seed": 0}
ROUNDS = 400
DAILY = {"origin": ["origin"], "carrier": ["carrier"], "dest": ["dest"], "route": ["origin", "dest", "carrier"]}


def add_daily_rates(rows: pl.DataFrame) -> pl.DataFrame:
    "Add the share of late flights from eight to two days before: whole days, all known by midnight."
    rows = rows.with_columns(day=pl.col("departure").dt.date())
    for name, keys in DAILY.items():
        daily = rows.group_by(*keys, "day").agg(late=pl.col("late").sum(), flights=pl.len())
        shifted = [daily.with_columns(pl.col("day").dt.offset_by(f"{lag}d")) for lag in range(2, 9)]
        week = pl.concat(shifted).group_by(*keys, "day").agg(pl.col("late").sum() / pl.col("flights").sum())
        rows = rows.join(week.rename({"late": f"daily_{name}"}), on=[*keys, "day"], how="left")
    return rows.drop("day")


def add_departure_delay(rows: pl.DataFrame, silver: pl.DataFrame) -> pl.DataFrame:
    "Add what is known at departure only."
    moment = pl.datetime("year", "month", "day", "hour", "minute")
    known = silver.with_columns(departure=moment).select(*flights.key, "dep_delay")
    return rows.join(known, on=flights.key, how="left")


def judge(fit: pl.DataFrame, held: pl.DataFrame, features: list[str]) -> dict[str, float]:
    "Fit on some rows, and judge on others."
    model = fit_model("trees", fit.sort(flights.key), features, "late", rounds=ROUNDS, **WORDS)
    scores, truth = predict(model, held)[:, 1], held["late"].to_numpy()
    return {"auc": roc_auc_score(truth, scores), "log_loss": log_loss(truth, scores), "predicted": scores.mean()}


def main(home: Path) -> None:
    "Print one line for each way to judge."
    silver = read_tables(home / "data/silver")["flights"]
    gold = add_departure_delay(add_daily_rates(read_table(home / "data/gold")), silver).sort(flights.key)
    features = [*flights.meanings]
    daily = [name for name in features if "_by_" not in name and "overall" not in name]
    daily += [f"daily_{name}" for name in DAILY]
    train = gold.filter(pl.col("departure") < pl.date(2013, 9, 1))
    test = gold.filter(pl.col("departure").is_between(pl.date(2013, 9, 1), pl.date(2013, 11, 1), closed="left"))
    days = train["departure"].dt.date().rank("dense").to_numpy() - 1
    by_row = np.random.default_rng(0).random(len(train)) < 0.2
    by_day = (np.random.default_rng(0).random(days.max() + 1) < 0.2)[days]
    ways = {
        "months 1-8, judged on months 9-10": (train, test),
        "random fifth of the rows of months 1-8": (train.filter(~by_row), train.filter(by_row)),
        "random fifth of the days of months 1-8": (train.filter(~by_day), train.filter(by_day)),
    }
    for name, columns in {"daily": daily, "as known": features, "leaky": [*features, "dep_delay"]}.items():
        for way, (fit, held) in list(ways.items())[: 1 if name == "leaky" else 3]:
            found = judge(fit, held, columns)
            print(f"{name} | {way} | {len(held):,} |", *(f"{value:.4f} |" for value in found.values()), flush=True)


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or ["runs/dev"]).resolve())
