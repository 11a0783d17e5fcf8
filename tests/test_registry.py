"""Models are offered, approved, promoted and adopted; a bad day of the registry leaves nothing half done."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import COMMAND, Project

SETTINGS = """
[DEFAULT]
tracking_uri = sqlite:///mlflow.db

[prod]
tracking_uri = sqlite:///runs/prod/mlflow.db
train.steps = ["adopt", "offer"]

[pipeline.train]
workload = flights
steps = ["fit", "offer"]
"""

WORDS = """
%% md
# Words
> Make a card.
%%
#| default_exp words
%%
#| export
import json
from pathlib import Path

def write_card(place, approvals, aliases):
    "Write the card anew."
    said = json.loads((place / "card.json").read_text())["name"]
    text = f"{said}: {', '.join(one['by'] for one in approvals) or 'nobody'}; {', '.join(aliases) or 'no alias'}"
    (place / "card.md").write_text(text)
    return [place / "card.md"]
"""

FIT = """
%% md
# Fit
> Fit a model.
%%
#| default_exp training.fit
%%
from mlops_kit.steps import Output, log, path
%% parameters
size: int = 1  # Size of the model
model: Output = "scratch/model"  # The model
%% md
## Run
%%
path(model).mkdir()
(path(model) / "model.txt").write_text(f"tree of {size}")
log(auc=0.7)
"""

OFFER = """
%% md
# Offer
> Offer the model.
%%
#| default_exp training.offer
%%
import json, shutil
from mlops_kit.steps import Effect, Input, Output, path, read_task
%% parameters
model: Input = "samples/model"  # The model
package: Output = "scratch/package"  # What is registered
workload: str = "flights"  # Name of the model
alias: str = "challenger"  # Its alias
registered: Effect = "registered"  # Version behind the alias
%% md
## Run
%%
shutil.copytree(path(model), path(package))
said = {"name": workload, "alias": alias, "card": "toy.words:write_card"}
told = {"models": {"model": {"auc": {"value": 0.7}}}}
files = {"registration": said, "evaluation": told, "card": {"name": workload}, "provenance": read_task()["evidence"]}
for name, content in files.items():
    (path(package) / f"{name}.json").write_text(json.dumps(content))
"""


class Shop(Project):
    """A project that registers models."""

    @property
    def client(self):
        """MLflow's client of dev."""
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.root}/mlflow.db")

    def card(self, version="1"):
        """The card of a version, as the registry has it."""
        found = self.client.get_model_version("flights", version)
        return (Path(found.source.removeprefix("file://")) / "card.md").read_text()

    def models(self, *words):
        """Registered versions by number."""
        return {one["version"]: one for one in self.call("models", "--json", *words).json["models"]}


@pytest.fixture(scope="module")
def offered(tmp_path_factory):
    """A project whose first run has offered a model."""
    notebooks = {"words": WORDS, "fit": FIT, "offer": OFFER}
    project = Shop(tmp_path_factory.mktemp("shop") / "shop").create(notebooks, SETTINGS)
    assert project.run().rc == 0
    return project


@pytest.fixture
def shop(offered, tmp_path):
    """A copy of it, with MLflow's absolute paths mended."""
    import sqlite3

    project = offered.copy(tmp_path / "shop")
    with sqlite3.connect(project.root / "mlflow.db") as database:
        for table, column in (
            ("model_versions", "source"),
            ("runs", "artifact_uri"),
            ("experiments", "artifact_location"),
        ):
            database.execute(f"update {table} set {column} = replace({column}, '{offered.root}', '{project.root}')")
    return project


@pytest.mark.slow
def test_a_version_says_where_it_comes_from(shop):
    """Data, code and run are on the version, and nothing new is registered by a forced run."""
    (one,) = shop.models().values()
    assert one["aliases"] == ["challenger"] and one["metric"] == "auc 0.7" and one["run"] == shop.runs()[0]
    assert one["environment"] == "dev" and not one["approved_by"]
    tags = shop.client.get_model_version("flights", "1").tags
    assert json.loads(tags["mlops_kit.keys"]).keys() == {"training.fit"} and tags["mlops_kit.lock"]
    assert shop.run("--force").rc == 0 and list(shop.models()) == ["1"]


def test_promotion_records_what_was_before(shop):
    """The champion, its predecessor and the cards of both; giving the command again changes nothing."""
    assert shop.call("promote", "flights", "--json").json["predecessor"] == ""
    assert shop.card() == "flights: nobody; champion"
    assert shop.run("-p", "fit.size=2").rc == 0
    done = shop.call("promote", "flights")
    assert done.out.strip() == "version 2 of flights is now champion, in place of version 1"
    assert shop.card("1") == "flights: nobody; no alias" and shop.card("2") == "flights: nobody; champion"
    assert "was already champion" in shop.call("promote", "flights").out
    told = [(event["version"], event["predecessor"]) for event in shop.events() if event["event"] == "promotion"]
    assert told == [("1", ""), ("2", "1")] and shop.models()["2"]["predecessor"] == "1"
    assert shop.call("status").rc == 0


@pytest.mark.slow
def test_an_approval_is_asked_for_by_settings(shop):
    """Who approved, and why, is in the ledger, on the version and on its card; it holds for this package alone."""
    shop.settings(SETTINGS.replace("[DEFAULT]", '[DEFAULT]\napproval = ["dev", "prod"]'))
    what, _, remedy = shop.call("promote", "flights").fault()
    assert (
        what == "version 1 of `flights` is not approved, and dev asks for it" and "mlops-kit approve flights" in remedy
    )
    assert shop.call("approve", "flights", "--by", "", "--why", "x").rc == 2
    for _ in range(2):
        assert shop.call("approve", "flights", "--by", "Ada", "--why", "Better everywhere").rc == 0
    (event,) = [event for event in shop.events() if event["event"] == "approval"]
    tags = shop.client.get_model_version("flights", "1").tags
    assert (event["by"], event["why"], event["package"]) == ("Ada", "Better everywhere", tags["mlops_kit.package"])
    assert tags["mlops_kit.approved_by"] == "Ada" and shop.card() == "flights: Ada; no alias"
    assert shop.call("promote", "flights").rc == 0 and shop.card() == "flights: Ada; champion"
    assert shop.run("-p", "fit.size=2").rc == 0
    assert "version 2 of `flights` is not approved" in shop.call("promote", "flights").fault()[0]
    assert "Ada" in shop.call("models", "flights").out


@pytest.mark.slow
def test_words_that_are_wrong(shop):
    """A name or a number that nobody knows is answered with what is known."""
    assert "Did you mean `flights`?" in shop.call("promote", "flihgts").fault()[2]
    assert "Known: 1" in shop.call("promote", "flights", "--version", "7").fault()[2]
    assert shop.call("approve", "flights", "--by", "Ada").rc == 2


@pytest.mark.slow
def test_another_environment_adopts_the_promoted_model(shop):
    """Byte for byte, judged and approved anew, in a registry of its own; or it trains, where its steps say so."""
    prod = ("--env", "prod")
    first = shop.call("run", "train", *prod)
    assert first.rc == 1 and "dev has no champion of `flights`" in first.fault()[0]
    assert shop.call("promote", "flights").rc == 0
    done = shop.call("run", "train", *prod, "--json")
    assert done.rc == 0 and done.states == {"adopt": "executed", "offer": "executed"}
    place = (shop.root / "runs/prod/data/model").resolve()
    assert [file.name for file in place.iterdir()] == ["model.txt"]
    assert (place / "model.txt").read_bytes() == (shop.data("model") / "model.txt").read_bytes()
    assert shop.models(*prod)["1"]["aliases"] == ["challenger"] and shop.models()["1"]["aliases"] == [
        "challenger",
        "champion",
    ]
    assert "is not approved" in shop.call("promote", "flights", *prod).fault()[0]
    assert set(shop.call("run", "train", *prod, "--json").states.values()) == {"cached"}
    shop.settings(SETTINGS.replace('train.steps = ["adopt", "offer"]', ""))
    assert shop.call("run", "train", *prod, "--json").states == {"fit": "executed", "offer": "cached"}  # Equal bytes


@pytest.mark.slow
def test_one_model_goes_from_dev_through_test_to_production(shop):
    """Trained once: every environment takes what the one before it has promoted, and ends with the same bytes."""
    chain = SETTINGS.replace("[prod]", "[test]\ntracking_uri = sqlite:///runs/test/mlflow.db\n\n[prod]")
    chain = chain.replace("[test]\n", '[test]\ntrain.steps = ["adopt", "offer"]\n')
    shop.settings(chain.replace("[prod]\n", "[prod]\nadopt.from_environment = test\n"))
    assert shop.call("promote", "flights").rc == 0
    early = shop.call("run", "train", "--env", "prod")
    assert early.rc == 1 and "test has no champion of `flights`" in early.fault()[0]
    assert shop.call("run", "train", "--env", "test").rc == 0
    assert shop.call("promote", "flights", "--env", "test").rc == 0
    assert shop.call("run", "train", "--env", "prod").rc == 0
    assert "is not approved" in shop.call("promote", "flights", "--env", "prod").fault()[0]
    said = ("--by", "Ada", "--why", "Judged on production's rows")
    assert shop.call("approve", "flights", *said, "--env", "prod").rc == 0
    assert shop.call("promote", "flights", "--env", "prod").rc == 0
    folders = [(shop.root / f"runs/{env}/data/model").resolve() for env in ("dev", "test", "prod")]
    assert len({(folder / "model.txt").read_bytes() for folder in folders}) == 1


@pytest.mark.slow
def test_a_model_changed_in_the_registry_is_not_adopted(shop):
    """What comes out of the registry must be what went in."""
    assert shop.call("promote", "flights").rc == 0
    source = shop.client.get_model_version("flights", "1").source.removeprefix("file://")
    (Path(source) / "model.txt").write_text("another tree")
    assert "not those that were registered" in shop.call("run", "train", "--env", "prod").fault()[0]


@pytest.mark.slow
def test_two_registrations_at_once(shop):
    """Two processes that register the same package make one version; of two packages, both are whole."""
    code = "import sys, pathlib, mlops_kit.tracking as t; print(t.register_package(pathlib.Path(sys.argv[1])))"
    folders = [shop.root / f"package{number}" for number in (3, 3, 4)]
    for number, folder in zip((3, 3, 4), folders, strict=True):
        folder.mkdir(exist_ok=True)
        (folder / "model.txt").write_text(f"tree of {number}")
        (folder / "registration.json").write_text('{"name": "flights", "alias": "challenger"}')
    environment = shop.environment(MLFLOW_TRACKING_URI=f"sqlite:///{shop.root}/mlflow.db")
    command = [str(Path(COMMAND).parent / "python"), "-c", code]
    running = [
        subprocess.Popen([*command, str(folder)], cwd=shop.root, env=environment, stdout=subprocess.PIPE, text=True)
        for folder in folders
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in running]
    assert said[0] == said[1] and {*said} == {"2", "3"} and {*shop.models()} == {"1", "2", "3"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["damaged", "away"])
def test_a_registry_that_is_down(shop, fault):
    """Nothing is half written, the error says so, and the next run registers."""
    database = shop.root / "mlflow.db"
    whole, before = database.read_bytes(), set(shop.root.glob("mlruns/**/*"))
    down = (
        {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"} if fault == "away" else {}
    )
    if fault == "damaged":
        database.write_bytes(b"not a database" * 100)
    done = shop.run("-p", "fit.size=2", **down)
    assert done.rc in (1, 4) and "MLflow's store cannot be used" in done.err
    assert shop.call("promote", "flights", **down).rc == 4
    assert set(shop.root.glob("mlruns/**/*")) == before
    database.write_bytes(whole)
    assert shop.run("-p", "fit.size=2").rc == 0 and {*shop.models()} == {"1", "2"}


@pytest.mark.slow
def test_a_promotion_that_is_killed_is_finished_by_the_next(shop):
    """Whenever it is killed: one champion, its predecessor, one line in the ledger."""
    assert shop.call("promote", "flights").rc == 0 and shop.run("-p", "fit.size=2").rc == 0
    command = [COMMAND, "promote", "flights"]
    for wait in (0.5, 1.5, 2.5, 3.0, 3.5, 4.0):
        process = subprocess.Popen(command, cwd=shop.root, env=shop.environment(), start_new_session=True)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
    assert shop.call("promote", "flights").rc == 0
    told = [(event["version"], event["predecessor"]) for event in shop.events() if event["event"] == "promotion"]
    assert told == [("1", ""), ("2", "1")] and shop.models()["2"]["predecessor"] == "1"
    assert shop.card("2") == "flights: nobody; champion"
