"""Whole journeys: a second workload through the same steps, the registry, and the README in a fresh clone."""

import json
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Project

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    """The wine project, run once by its command line: other rows, another label, three classes, no time."""
    folder = tmp_path_factory.mktemp("journey") / "wine"
    shutil.copytree(ROOT / "tests/projects/wine", folder, ignore=shutil.ignore_patterns("runs", "mlflow.db", "mlruns"))
    project = Project(folder)
    return project, project.run()


def test_the_same_steps_run_another_workload(wine):
    project, done = wine
    assert done.rc == 0, done.err
    assert set(done.states.values()) == {"executed"} and len(done.states) == 11
    gates = {gate["name"]: gate for step in done.steps.values() for gate in step["gates"]}
    assert gates["ROC AUC"]["passed"] and gates["ROC AUC"]["value"] > 0.9
    assert not list((project.root / "nbs").rglob("train.ipynb")), "the step notebooks are the kit's own"
    assert set(project.run().states.values()) == {"cached"}


def test_what_was_registered_is_loaded_by_its_alias_and_scores_the_same(wine):
    import mlflow
    import polars as pl

    from mlops_kit.training.models import load_model, predict

    project, _ = wine
    mlflow.set_tracking_uri(f"sqlite:///{project.root / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model("models:/wine@challenger")
    signature = json.loads((project.data("package") / "signature.json").read_text())
    rows = pl.DataFrame(signature["example"])
    expected = predict(load_model(project.data("model").resolve()), rows)
    assert (loaded.predict(rows.to_pandas()).to_numpy() == expected).all()
    files = {file.suffix for file in project.data("package").resolve().iterdir()}
    assert not files & {".pkl", ".pickle", ".joblib"}


def make(target: str, folder: Path) -> str:
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_KIT", "MLFLOW", "VIRTUAL"))
    }
    done = subprocess.run(["make", target], cwd=folder, capture_output=True, text=True, env=plain, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_stranger_follows_the_readme_in_a_fresh_clone(tmp_path):
    clone = tmp_path / "a fresh clone é"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    told = make("run", clone)
    assert "12 executed" in told
    report = Path(re.search(r"^report: (.+)$", told, re.M)[1])  # type: ignore[index]
    assert "ROC AUC" in report.read_text()
    assert "12 cached" in make("run", clone)

    notebook = clone / "nbs/workloads/flights_features.ipynb"
    notebook.write_text(notebook.read_text().replace("timedelta(days=30)", "timedelta(days=21)"))
    command = [str(clone / ".venv/bin/mlops-kit"), "run", "train", "--dry-run", "--json"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
    planned = {step["step"]: (step["status"], step["reason"]) for step in json.loads(done.stdout)["steps"]}
    assert planned["dataops.features"] == (
        "would run",
        "constant mlops_kit.workloads.flights_features.SIX_HOURS, WEEK, MONTH changed",
    )
    assert planned["dataops.clean"][0] == "cached" and planned["training.split"][0] == "waits"


@pytest.mark.slow
def test_production_adopts_what_dev_promoted_or_trains_its_own(wine):
    """Settings decide: the same bytes, judged by production's own rows; or the same steps again."""
    project, _ = wine
    assert project.call("promote", "wine").rc == 0
    settings = project.root / "settings.ini"
    text = settings.read_text()
    steps = [
        "ingest",
        "clean",
        "quality",
        "features",
        "split",
        "baselines",
        "adopt",
        "behaviour",
        "evaluate",
        "register",
    ]
    registry = "tracking_uri = sqlite:///runs/prod/mlflow.db\n"
    prod = {"MLOPS_SALT": secrets.token_hex(32)}

    settings.write_text(f"{text}\n[prod]\n{registry}train.steps = {json.dumps(steps)}\n")
    adopted = project.call("run", "train", "--env", "prod", "--json", **prod)
    assert adopted.rc == 0, adopted.err
    assert {"adopt", "evaluate"} <= adopted.states.keys() and not {"tune", "train"} & adopted.states.keys()
    theirs, ours = ((project.root / f"runs/{env}/data/model/model.json").read_bytes() for env in ("dev", "prod"))
    assert theirs == ours
    assert project.call("promote", "wine", "--env", "prod").rc == 2, "production asks for an approval"
    said = ("--by", "A reviewer", "--why", "It was judged on our own rows")
    assert project.call("approve", "wine", *said, "--env", "prod").rc == 0
    assert project.call("promote", "wine", "--env", "prod").rc == 0

    settings.write_text(f"{text}\n[prod]\n{registry}")
    trained = project.call("run", "train", "--env", "prod", "--json", **prod)
    assert trained.rc == 0, trained.err
    assert trained.states["train"] == "executed" and "adopt" not in trained.states
