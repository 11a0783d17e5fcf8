"The evaluation refuses what it should, each with its reason, and keeps what it measured."

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_diabetes, load_wine
from test_stages import REPOSITORY, SAMPLES, execute

from mlops_kit.notebooks import find_steps
from mlops_kit.project import ROOT_VARIABLE, GateFailed, StepError
from mlops_kit.steps import TASK_VARIABLE, read_table, write_table
from mlops_kit.training.baselines import fit_baselines, save_baselines
from mlops_kit.training.models import fit_model, load_model, part_rows, predict, save_model
from mlops_kit.workloads import flights

TREES = {"rounds": 60, "leaves": 15, "learning_rate": 0.1, "rows_a_leaf": 20, "seed": 0}
KEY = ["id"]


class World:
    "A table with a split, a model and baselines, and the step that judges them."

    def __init__(self, folder: Path, rows: pl.DataFrame, **given):
        self.folder, self.rows = folder, rows.with_columns(id=pl.int_range(pl.len()))
        part = np.where(np.arange(len(rows)) % 2 == 0, "train", "test")
        write_table(folder / "gold", self.rows, key=KEY)
        write_table(folder / "splits", self.rows.select("id").with_columns(part=pl.Series(part)), key=KEY)
        self.features = [name for name in rows.columns if name not in ("label", "day")]
        train = part_rows(str(folder / "gold"), str(folder / "splits"), KEY, "train")
        save_baselines(str(folder / "baselines"), fit_baselines(train, self.features, "label"))
        self.train, self.given = train, given

    def fit(self, rows: pl.DataFrame | None = None, features: list[str] | None = None):
        return fit_model("trees", self.train if rows is None else rows, features or self.features, "label", **TREES)


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    "Judge a model of a world: evaluate(world, model, quality={...}, champion=model)."
    monkeypatch.setenv(ROOT_VARIABLE, str(REPOSITORY))
    step = next(step for step in find_steps(REPOSITORY).values() if step.short == "evaluate")

    def one(world, model, quality, champion=None, **given):
        about = type(
            "about", (), {"key": KEY, "time": given.pop("time", None), "label": "label", "meanings": {}, "allowed": {}}
        )
        monkeypatch.setattr("mlops_kit.steps.load_workload", lambda name: about)
        contracts = type("contracts", (), {"contracts": staticmethod(dict)})
        monkeypatch.setattr("mlops_kit.steps.load_contracts_of", lambda name: contracts)
        save_model(world.folder / "model", model)
        if champion:
            save_model(tmp_path / "home/registry/them", champion)
            monkeypatch.setenv("MLOPS_KIT_HOME", str(tmp_path / "home"))
        answer = {"version": "1", "package": "them"} if champion else None
        (tmp_path / "task.json").write_text(json.dumps({"probes": {"champion": answer}}))
        monkeypatch.setenv(TASK_VARIABLE, str(tmp_path / "task.json"))
        places = {name: str(world.folder / name) for name in ("gold", "splits", "model", "baselines", "evaluation")}
        execute(step, {"quality": quality, "draws": 200} | places | given)

    return one


def found(world) -> dict:
    return json.loads((world.folder / "evaluation/evaluation.json").read_text())


def draw_rows(rows: int = 3000, seed: int = 0) -> pl.DataFrame:
    "A class that two features tell, a group for which they tell nothing, and days."
    draw = np.random.default_rng(seed)
    x, z, odd = draw.normal(size=rows), draw.normal(size=rows), draw.random(rows) < 0.25
    chance = np.where(odd, 0.4, 1 / (1 + np.exp(-1.5 * x - z)))
    where = np.where(odd, "odd", "even")
    return pl.DataFrame({"x": x, "z": z, "where": where, "label": draw.random(rows) < chance})


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "world", draw_rows())


def test_a_good_model_passes_and_says_how_good_with_intervals(world, evaluate):
    evaluate(world, world.fit(), {"auc_at_least": 0.7, "log_loss_over_constant_low_at_least": 0.02}, slices=["where"])
    told = found(world)
    auc = told["models"]["model"]["auc"]
    assert auc["low"] < auc["value"] < auc["high"] and told["over"]["constant"]["auc"]["low"] > 0
    assert told["slices"][0]["slice"] == "where = odd" and told["champion"] is None
    assert all(gate["passed"] for gate in told["gates"])
    errors = read_table(world.folder / "evaluation/errors")
    assert len(errors) == 100 and errors["loss"].is_sorted(descending=True)


def test_a_model_of_shuffled_labels_is_refused_without_any_bar_on_it(world, evaluate):
    shuffled = world.train.with_columns(pl.col("label").shuffle(seed=1))
    with pytest.raises(GateFailed, match="skill over constant, lower end is"):
        evaluate(world, world.fit(shuffled), {"scoring_ms_at_most": 60_000})
    assert found(world)["models"]["model"]["auc"]["value"] < 0.6, "what was measured stays"


def test_a_model_worse_than_the_champion_is_refused(world, evaluate):
    weak, strong = world.fit(features=["x"]), world.fit()
    bar = {"log_loss_over_champion_low_at_least": -0.01}
    with pytest.raises(GateFailed, match=r"champion low is −|champion low is -"):
        evaluate(world, weak, bar, champion=strong)
    told = found(world)
    assert told["over"]["champion"]["auc"]["high"] < 0 and told["champion"]["comparable"]
    evaluate(world, strong, bar, champion=weak)


def test_a_champion_that_gold_can_no_longer_feed_is_named_and_its_bar_fails(world, evaluate):
    older = world.fit(world.train.with_columns(gone=pl.col("x")), [*world.features, "gone"])
    with pytest.raises(GateFailed, match="over champion low has no value"):
        evaluate(world, world.fit(), {"auc_over_champion_low_at_least": -0.5}, champion=older)
    said = found(world)["champion"]
    assert not said["comparable"] and "no column `gone`" in said["why"]


def test_a_champion_of_other_classes_is_not_comparable(world, evaluate):
    other = replace(world.fit(), classes=["no", "yes"])
    evaluate(world, world.fit(), {"auc_at_least": 0.6}, champion=other)
    assert "classes" in found(world)["champion"]["why"]


def test_a_slice_that_misses_its_bar_stops_the_model_and_is_named(world, evaluate):
    with pytest.raises(GateFailed, match="where = odd"):
        evaluate(world, world.fit(), {"slice_auc_at_least": 0.75}, slices=["where"])
    evaluate(world, world.fit(), {"slice_auc_at_least": 0.75}, slices=["where"], slice_rows=1000)


def test_groups_that_are_treated_differently_stop_the_model(world, evaluate):
    with pytest.raises(GateFailed, match=r"where: .* between"):
        evaluate(world, world.fit(), {"recall_gap_at_most": 0.02}, fairness=["where"])


def test_a_bar_on_a_metric_that_does_not_exist_fails(world, evaluate):
    with pytest.raises(GateFailed, match="Auk has no value"):
        evaluate(world, world.fit(), {"auk_at_least": 0.6})


def test_size_and_time_are_held_but_not_stored(world, evaluate):
    with pytest.raises(GateFailed, match=r"[Mm]egabytes is"):
        evaluate(world, world.fit(), {"model_megabytes_at_most": 0.000001, "scoring_ms_at_most": 60_000})
    assert {gate["metric"] for gate in found(world)["gates"]} == {"skill_over_constant_low", "model_megabytes"}


def test_equal_models_give_equal_evaluations(world, evaluate):
    texts = []
    for _ in range(2):
        evaluate(world, world.fit(), {"auc_at_least": 0.6, "scoring_ms_at_most": 60_000}, slices=["where"])
        texts.append((world.folder / "evaluation/evaluation.json").read_bytes())
    assert texts[0] == texts[1]


def test_a_class_that_training_never_saw_is_named(world, evaluate):
    odd = pl.when(pl.int_range(pl.len()) < 4).then(pl.lit("maybe")).otherwise(pl.col("label").cast(pl.String))
    text = World(world.folder.parent / "text", draw_rows().with_columns(pl.col("label").cast(pl.String)))
    write_table(text.folder / "gold", text.rows.with_columns(label=odd), key=KEY)
    with pytest.raises(StepError, match=r"2 rows hold \['maybe'\]"):
        evaluate(text, text.fit(), {"auc_at_least": 0.6})


@pytest.mark.parametrize(
    ("load", "bars", "metrics"),
    [
        (load_diabetes, {"rmse_at_most": 65}, {"mae", "mse", "rmse", "mape", "pinball_loss", "interval_coverage"}),
        (load_wine, {"auc_at_least": 0.95}, {"auc", "accuracy", "log_loss", "precision", "recall"}),
    ],
)
def test_numbers_and_many_classes_are_judged_by_the_same_step(load, bars, metrics, tmp_path, evaluate):
    table = pl.from_pandas(load(as_frame=True).frame.rename(columns={"target": "label"}))
    world = World(tmp_path / "world", table.sample(fraction=1, shuffle=True, seed=0))
    model = world.fit()
    if model.task == "regression":
        model = replace(model, interval={"levels": [0.05, 0.95], "offsets": [-90.0, 90.0]})
    evaluate(world, model, bars)
    told = found(world)
    assert metrics <= told["models"]["model"].keys()
    assert len(told["per_class"]) == len(model.classes)


def test_rows_of_one_day_are_drawn_together(tmp_path, evaluate):
    draw, days = np.random.default_rng(3), np.repeat(np.arange(40), 60)
    shock = draw.normal(scale=4, size=40)[days]
    rows = draw_rows(2400).with_columns(
        day=pl.Series(days).cast(pl.Int64) * 86_400_000_000, label=draw.random(2400) < 1 / (1 + np.exp(-shock))
    )
    world = World(tmp_path / "world", rows.with_columns(pl.col("day").cast(pl.Datetime("us"))))
    quality = {"log_loss_at_most": 5, "skill_over_constant_low_at_least": -9}
    evaluate(world, world.fit(), quality, time="day")
    told = found(world)
    assert (told["blocks"], told["blocks_of"]) == (40, "days")
    loss = next(row for row in told["resampling"] if row["metric"] == "log_loss")
    assert loss["wider"] > 1.3, "single rows would promise too much"


def test_the_model_of_the_samples_meets_its_bars_and_a_poor_one_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(REPOSITORY))
    step = next(step for step in find_steps(REPOSITORY).values() if step.short == "evaluate")
    quality = {"auc_at_least": 0.6, "skill_over_constant_low_at_least": -1}
    execute(step, {"evaluation": str(tmp_path / "evaluation"), "quality": quality})
    rows = part_rows(str(SAMPLES / "gold"), str(SAMPLES / "splits"), flights.key, "train")
    poor = rows.with_columns(pl.col("late").shuffle(seed=1))
    save_model(tmp_path / "model", fit_model("trees", poor, [*flights.meanings], "late", **TREES))
    with pytest.raises(GateFailed, match=r"ROC AUC is .* the bar is at least 0\.6"):
        places = {name: str(tmp_path / name) for name in ("model", "evaluation")}
        execute(step, {"quality": quality | {"skill_over_constant_low_at_least": -99}} | places)
    assert predict(load_model(tmp_path / "model"), rows).shape == (len(rows), 2)
