"""Whole journeys: a second workload through the same steps, and the registry."""

import json
import secrets
import shutil
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
