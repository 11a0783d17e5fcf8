"The stages refuse what they should refuse, and run a workload that they have never seen."

import importlib
import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from mlops_kit.notebooks import find_steps
from mlops_kit.project import ROOT_VARIABLE, GateFailed, StepError
from mlops_kit.settings import bind_pipeline, read_settings
from mlops_kit.steps import TASK_VARIABLE, read_table, read_tables, write_table, write_tables
from mlops_kit.tables import to_polars
from mlops_kit.training.models import load_model, predict
from mlops_kit.workloads import flights

REPOSITORY = Path(__file__).parent.parent
SAMPLES = REPOSITORY / "samples"


def execute(step, values):
    "Execute what the runner would execute of a step, without a kernel, and give its variables."
    known = {"__name__": "step"}
    for cell in step.cells:
        exec(cell.source, known)
        if cell.kind == "parameters":
            known.update(values)
    return known


@pytest.fixture
def run(tmp_path, monkeypatch):
    "Run one step of the repository on the samples: run('clean', bronze=place)."
    monkeypatch.setenv(ROOT_VARIABLE, str(REPOSITORY))
    monkeypatch.setattr("mlops_kit.partitions.path", lambda name: tmp_path / name)  # Pieces of this test alone
    steps = {step.short: step for step in find_steps(REPOSITORY).values()}

    def one(name, **given):
        step = steps[name]
        values = {output: str(tmp_path / output) for output in step.named("output")} | given
        return execute(step, {key: str(value) if isinstance(value, Path) else value for key, value in values.items()})

    return one


def test_another_workload_runs_by_the_same_notebooks(tmp_path, monkeypatch):
    root = REPOSITORY / "tests/projects/wine"
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    monkeypatch.syspath_prepend(str(root))
    pipeline = bind_pipeline(read_settings(root), find_steps(root), "train", "dev")
    edges = {name: str(tmp_path / name) for step in pipeline.steps for name in step.named("input", "output")}
    for step in pipeline.steps:
        values = {name: value.value for name, value in pipeline.values[step.name].items()}
        execute(step, values | {name: place for name, place in edges.items() if name in values})
    model, scores = load_model(edges["package"]), read_table(f"{edges['evaluation']}/scores")
    assert model.classes == ["class_0", "class_1", "class_2"]
    assert "month" not in read_table(edges["gold"]).columns
    said = json.loads((tmp_path / "package/registration.json").read_text())
    assert (said["name"], said["alias"]) == ("wine", "challenger")
    rows = read_table(edges["gold"]).join(scores.select("bottle"), on="bottle", how="semi").sort("bottle")
    assert (predict(model, rows)[:, 2] == scores["model class_2"].to_numpy()).all()


def test_a_flood_of_broken_rows_stops_the_load(run, tmp_path):
    tables = read_tables(SAMPLES / "bronze")
    every_tenth = pl.int_range(pl.len()) % 10 == 0
    far = pl.when(every_tenth).then(pl.lit("far")).otherwise(pl.col("distance").cast(pl.String))
    write_tables(tmp_path / "bronze", tables | {"flights": tables["flights"].with_columns(distance=far)})
    with pytest.raises(GateFailed, match=r"rows set aside .* is 0\.1"):
        run("clean", bronze=tmp_path / "bronze")
    broken = read_table(tmp_path / "quarantine/flights")
    assert set(broken["distance"]) == {"far"} and broken["rules"].str.contains("distance can be read").all()
    assert broken["values"].str.contains("distance=far").all() and broken["load"].null_count() == 0
    assert len(broken) + len(read_table(tmp_path / "silver/flights")) == len(tables["flights"])


def test_a_source_without_a_column_is_named(run, tmp_path):
    tables = read_tables(SAMPLES / "bronze")
    write_tables(tmp_path / "bronze", tables | {"flights": tables["flights"].rename({"distance": "distance_mi"})})
    with pytest.raises(StepError, match="Did you mean `distance_mi`"):
        run("clean", bronze=tmp_path / "bronze")


def test_a_column_known_too_late_is_refused(run, monkeypatch):
    build = flights.build_features

    def leaky(tables):
        late = to_polars(tables["flights"]).select("time_hour", "carrier", "flight", "dep_delay", "minute")
        moment = pl.col("departure").dt.replace_time_zone("America/New_York").dt.convert_time_zone("UTC")
        gold = to_polars(build(tables)).with_columns(time_hour=moment.dt.replace_time_zone(None).dt.truncate("1h"))
        return gold.join(late, on=["time_hour", "carrier", "flight"]).drop("time_hour", "minute")

    monkeypatch.setattr(flights, "build_features", leaky)
    monkeypatch.setattr(flights, "meanings", flights.meanings | {"dep_delay": "Delay at departure, minutes"})
    with pytest.raises(GateFailed, match="columns known too late is 1"):
        run("features")


def test_a_feature_that_nobody_described_is_refused(run, monkeypatch):
    build = flights.build_features
    monkeypatch.setattr(flights, "build_features", lambda tables: build(tables).with_columns(secret=pl.lit(1)))
    with pytest.raises(StepError, match=r"\['secret'\] besides its declared columns"):
        run("features")


def test_a_feature_whose_source_ran_dry_is_refused(run, tmp_path):
    tables = read_tables(SAMPLES / "silver")
    write_tables(tmp_path / "silver", tables | {"weather": tables["weather"].clear()})
    with pytest.raises(GateFailed, match="features that are never there is 9"):
        run("features", silver=tmp_path / "silver")


def test_training_is_blind_to_the_test_rows(run, tmp_path):
    gold = read_table(SAMPLES / "gold")
    other = pl.when(pl.col("month") > "2013-08").then(~pl.col("late")).otherwise("late")
    write_table(tmp_path / "gold", gold.with_columns(late=other), key=flights.key)
    one = run("train")["fitted"]
    assert run("train", gold=tmp_path / "gold")["fitted"] == one
    write_table(tmp_path / "gold", gold.with_columns(late=~pl.col("late")), key=flights.key)
    assert run("train", gold=tmp_path / "gold")["fitted"] != one


def test_an_empty_test_part_is_refused(run):
    with pytest.raises(GateFailed, match="rows of the smaller part is 0"):
        run("split", train_until="2013-08-31", test_until="2013-08-31")


def test_a_source_that_changes_while_it_is_read_is_noticed(run, monkeypatch, tmp_path):
    (tmp_path / "trips.csv").write_text("trip,miles\n1,70\n")
    sources = {"trips": {"files": str(tmp_path / "trips.csv")}}
    known = importlib.import_module("mlops_kit.dataops.sources").source_marks({"sources": sources})
    (tmp_path / "trips.csv").write_text("trip,miles\n1,71\n")
    (tmp_path / "task.json").write_text(json.dumps({"probes": {"earlier": known}}))
    monkeypatch.setenv(TASK_VARIABLE, str(tmp_path / "task.json"))
    monkeypatch.setattr("mlops_kit.partitions.read_task", dict)
    with pytest.raises(StepError, match="changed"):
        run("ingest", sources=sources, marks="earlier")


def test_the_landed_months_end_where_they_were_asked_to(run, tmp_path):
    run("ingest", until="2013-07")
    assert read_table(tmp_path / "bronze/flights")["month"].unique().sort().to_list() == ["6", "7"]


def test_a_registered_package_can_be_scored_alone(run, tmp_path):
    run("register")
    shutil.copytree(tmp_path / "package", tmp_path / "elsewhere")
    signature = json.loads((tmp_path / "elsewhere/signature.json").read_text())
    answer = predict(load_model(tmp_path / "elsewhere"), pl.DataFrame(signature["example"]))
    assert answer.shape == (1, len(signature["outputs"])) and abs(answer.sum() - 1) < 1e-12
