"""Releases as people type them: from a registry to an endpoint, with a bad model that takes itself back."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Project

from mlops_kit.deployment.endpoint.client import ask
from mlops_kit.deployment.releases.probing import SAME
from mlops_kit.deployment.releases.replay import replay
from mlops_kit.steps import read_table
from mlops_kit.training.models import fit_model, load_model, predict, save_model

ROOT = Path(__file__).parents[1]
SETTINGS = """
[DEFAULT]
tracking_uri = sqlite:///mlflow.db

[prod]
tracking_uri = sqlite:///runs/prod/mlflow.db
deploy.releasers = ["github:acme/flights@main"]
deploy.signing_key = PRODUCTION_KEY
deploy.trusted_key = trusted.pub

[deploy]
port = 0
unseen = missing
canary = [50, 100]
shadow = 60
least_requests = 60
errors_at_most = 0.05
"""


def register(project: Project, package: Path, env: str = "dev") -> None:
    """Let the registry of an environment hold a package, as the runner does after the step that registers."""
    import subprocess
    import sys

    place = project.root / "mlflow.db" if env == "dev" else project.root / f"runs/{env}/mlflow.db"
    place.parent.mkdir(parents=True, exist_ok=True)
    code = "import sys, pathlib, mlops_kit.tracking as t; print(t.register_package(pathlib.Path(sys.argv[1])))"
    environment = project.environment(MLFLOW_TRACKING_URI=f"sqlite:///{place}")
    subprocess.run([sys.executable, "-c", code, package], cwd=project.root, env=environment, check=True, timeout=120)


def shuffled(folder: Path) -> Path:
    """A package whose model was fitted to labels in another order; everything else about it is right."""
    good, gold = load_model("samples/model"), read_table("samples/gold")
    wrong = gold.with_columns(pl.col("late").shuffle(seed=5))
    bad = fit_model("trees", wrong, good.features, "late", "binary", rounds=60, leaves=15, rows_a_leaf=5, seed=0)
    bad = replace(bad, threshold=good.threshold, categories=good.categories)
    shutil.copytree(ROOT / "samples/package", folder)
    for file in folder.glob("model.*"):
        file.unlink()
    save_model(folder, bad)
    golden = json.loads((folder / "golden.json").read_text())
    rows = pl.DataFrame(golden["rows"], schema=gold.select(good.features).schema)
    golden["expected"] = predict(bad, rows).tolist()
    (folder / "golden.json").write_text(json.dumps(golden))
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A project whose registry has a good version and one of shuffled labels; its endpoint is stopped at the end."""
    folder = tmp_path_factory.mktemp("shop")
    project = Project(folder / "shop")
    project.root.mkdir()
    project.settings(SETTINGS)
    (project.root / "samples").symlink_to(ROOT / "samples")
    register(project, ROOT / "samples/package")
    register(project, shuffled(folder / "bad"))
    yield project
    project.call("endpoint", "stop", "--all")
    project.await_silence(10)


@pytest.fixture(scope="module")
def served(shop):
    """Version 1 serves."""
    done = shop.call("release", "flights", "--version", "1", "--why", "the first one")
    assert done.rc == 0, done.err
    return shop


class Clients:
    """Flights are asked about, two hundred a second, until somebody says enough."""

    def __init__(self, place: Path):
        self.place, self.enough, self.answers = place, threading.Event(), []
        features = load_model("samples/model").features
        self.rows = read_table("samples/gold").select(features)
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.enough.is_set():
            self.answers.append(replay(self.place, self.rows, rate=200, enough=self.enough))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.enough.set()
        self.thread.join(60)
        self.seen = pl.concat(self.answers)


def test_a_model_of_shuffled_labels_rolls_itself_back_and_says_why(served):
    place = served.home / "endpoints/flights"
    with Clients(place) as clients:
        done = served.call("release", "flights", "--version", "2")
    assert done.rc == 3, done.out + done.err
    what, _, _ = done.fault()
    assert "version 2 was rolled back: shadow: " in what and ("agreement" in what or "shift" in what)
    assert len(clients.seen) > 100 and set(clients.seen["status"]) == {200}
    assert set(clients.seen["deployment"]) == {"blue"}, "no client met it"
    record = served.call("releases", "flights", "--json").json["releases"][-1]
    report = (place / "releases" / record["id"] / "report.html").read_text()
    assert record["state"] == "rolled back" and "Version 2 was rolled back; version 1 serves" in report
    told = served.call("endpoint", "status", "--json").json
    assert told["state"] == "running" and told["deployments"]["blue"]["traffic"] == 100
    assert "champion" in served.call("models", "flights", "--json").json["models"][-1]["aliases"]
    events = [event for event in served.events() if event["event"] == "release"]
    assert events[-1]["state"] == "rolled back" and "shadow" in events[-1]["reason"]


@pytest.mark.slow
def test_an_endpoint_is_stopped_and_started_as_it_was(served):
    place = served.home / "endpoints/flights"
    golden = json.loads((ROOT / "samples/package/golden.json").read_text())
    assert ask(place, body=golden["rows"]).status == 200
    assert served.call("endpoint", "stop", "flights").rc == 0
    assert "is stopped: type mlops-kit endpoint start" in served.call("endpoint", "status").out
    assert served.call("endpoint", "start", "flights").rc == 0
    answer = ask(place, body=golden["rows"]).content["predictions"]
    assert np.allclose([[*row.values()] for row in answer], golden["expected"], rtol=0, atol=SAME)
    key = served.call("endpoint", "keys").out.strip()
    assert served.call("endpoint", "keys", "--rotate", "primary").out.strip() != key


@pytest.mark.slow
def test_words_that_are_wrong_say_what_is_right(served):
    assert "Did you mean `flights`?" in served.call("endpoint", "status", "flihgts").fault()[2]
    assert "has no version or alias `9`" in served.call("release", "flights", "--version", "9").fault()[0]
    assert "no version to go back to" in served.call("rollback", "flights", "--why", "a try").fault()[0]
    assert "there are no logs of `gren`" in served.call("endpoint", "logs", "gren").fault()[0]


@pytest.mark.slow
def test_production_is_released_to_by_ci_with_an_approval_or_with_a_reason(shop):
    """By hand it is refused; by CI without an approval as well; broken glass is written down."""
    from mlops_kit.deployment.bundles.signing import private_key, public_key

    key = private_key(ROOT, "dev")
    (shop.root / "trusted.pub").write_bytes(public_key(key))
    register(shop, ROOT / "samples/package", "prod")
    prod = {"PRODUCTION_KEY": key.decode(), "MLOPS_ENDPOINT_KEY": "a key for this test"}
    ci = prod | {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "acme/flights", "GITHUB_REF_NAME": "main"}
    words = ("release", "flights", "--env", "prod")
    assert "may not release to prod" in shop.call(*words, **prod).fault()[0]
    assert "nobody has approved this version" in shop.call(*words, **ci).fault()[0]
    broken = shop.call(*words, "--break-glass", "the old one is on fire", "--json", **prod)
    assert broken.rc == 0 and broken.json["break_glass"] == "the old one is on fire", broken.err
    ledger = (shop.root / "runs/prod/ledger.jsonl").read_text()
    place = shop.root / "runs/prod/endpoints/flights"
    assert "the old one is on fire" in ledger
    assert "the old one is on fire" in (place / "releases" / broken.json["id"] / "report.html").read_text()
    said = ("--by", "Ada", "--why", "tried for a week")
    assert shop.call("approve", "flights", "--version", "1", "--env", "prod", *said).rc == 0
    done = shop.call(*words, "--json", **ci)
    assert done.rc == 0 and done.json["by"] == "github:acme/flights@main", done.err


@pytest.mark.slow
def test_back_within_a_second(served):
    """After a second good version, the first one is one word away, and its registry follows."""
    other = served.root.parent / "other"
    shutil.copytree(ROOT / "samples/package", other)
    described = json.loads((other / "behaviour.json").read_text())
    (other / "behaviour.json").write_text(json.dumps(described | {"note": "the same model, packaged again"}))
    register(served, other)
    place = served.home / "endpoints/flights"
    with Clients(place) as clients:
        done = served.call("release", "flights", "--version", "3")
    assert done.rc == 0, done.err
    assert set(clients.seen["status"]) == {200} and set(clients.seen["deployment"]) == {"blue", "green"}
    assert served.call("rollback", "flights", "--why", "complaints").rc == 0
    end = time.monotonic() + 5
    golden = json.loads((ROOT / "samples/package/golden.json").read_text())["rows"]
    while ask(place, body=golden).headers["x-model-version"] != "1":
        assert time.monotonic() < end
    aliases = {one["version"]: one["aliases"] for one in served.call("models", "flights", "--json").json["models"]}
    assert "champion" in aliases["1"] and "champion" not in aliases["3"]
