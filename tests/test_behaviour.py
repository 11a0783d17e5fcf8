"A model that behaves badly is refused, with the worst case named; one that behaves well is let pass."

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_diabetes, load_wine

from mlops_kit.notebooks import find_steps
from mlops_kit.project import ROOT_VARIABLE, GateFailed, SettingsError
from mlops_kit.settings import bind_pipeline, read_settings
from mlops_kit.steps import read_table, write_table
from mlops_kit.training.behaviour import check_behaviour, hold_checks, summarise
from mlops_kit.training.checks import check_missing, check_noise, check_order, check_unseen, find_spreads
from mlops_kit.training.models import fit_model, part_rows, predict, save_model
from mlops_kit.workloads import flights

REPOSITORY = Path(__file__).parent.parent
GOLD, SPLITS = (str(REPOSITORY / "samples" / name) for name in ("gold", "splits"))
TREES = {
    "rounds": 40,
    "leaves": 7,
    "learning_rate": 0.1,
    "rows_a_leaf": 50,
    "seed": 0,
    "monotone": {"minute_of_day": 1},
}
FEW = ["carrier", "origin", "minute_of_day", "scheduled_minutes", "temp", "wind_gust", "arr_delay_mean_6h_overall"]
USUAL = {"an ordinary flight": {"row": {}, "between": [0.1, 0.6]}}


@pytest.fixture(scope="module")
def parts():
    return {part: part_rows(GOLD, SPLITS, flights.key, part) for part in ("train", "test")}


@pytest.fixture(scope="module")
def model(parts):
    return fit_model("trees", parts["train"], FEW, "late", **TREES)


@pytest.fixture
def run(tmp_path, monkeypatch):
    "Run the step on the samples as the runner would, and read what it wrote: run(model)."
    monkeypatch.setenv(ROOT_VARIABLE, str(REPOSITORY))
    step = find_steps(REPOSITORY)["training.behaviour"]

    def one(model, gold=GOLD, **given):
        known = {"__name__": "step"}
        place = str(save_model(tmp_path / "model", model))
        edges = {"gold": gold, "splits": SPLITS, "model": place, "behaviour": str(tmp_path / "behaviour")}
        for cell in step.cells:
            exec(cell.source, known)
            if cell.kind == "parameters":
                known.update(edges | given)
        return (tmp_path / "behaviour/behaviour.json").read_text()

    return one


def of(checks, kind):
    return [check for check in checks if check["kind"] == kind]


def test_a_sound_model_passes_and_every_check_is_written(run, model):
    text = run(model, directions={"minute_of_day": 1}, golden=USUAL)
    checks = json.loads(text)["checks"]
    assert {check["kind"] for check in checks} == {"invariance", "direction", "golden rows", "missing values", "noise"}
    assert all(check["passed"] for check in checks) and len(of(checks, "missing values")) == len(FEW) + 1
    assert {"carrier: a category never seen", "rows one by one"} < {check["name"] for check in of(checks, "invariance")}
    assert run(model, directions={"minute_of_day": 1}, golden=USUAL) == text


def test_the_step_changes_at_most_as_many_rows_as_settings_say(run, model, parts):
    assert json.loads(run(model, sampled_rows=50))["rows"] == 50
    assert json.loads(run(model, sampled_rows=10**6))["rows"] == len(parts["test"])


def test_a_model_that_learned_labels_turned_round_goes_against_its_direction(run, parts, tmp_path):
    turned = parts["train"].with_columns(~pl.col("late"))
    wrong = fit_model("trees", turned, FEW, "late", **TREES | {"monotone": {}})
    with pytest.raises(GateFailed, match="failed checks of direction is 2") as refused:
        run(wrong, directions={"minute_of_day": 1})
    assert "minute_of_day" in refused.value.where and "monotone" in refused.value.remedy
    written = json.loads((tmp_path / "behaviour/behaviour.json").read_text())["checks"]
    assert not any(check["passed"] for check in of(written, "direction"))


def test_a_golden_row_out_of_its_range_is_named(run, model):
    with pytest.raises(GateFailed, match="the worst is a sure thing"):
        run(model, golden=USUAL | {"a sure thing": {"row": {"minute_of_day": 60}, "between": [0.9, 1]}})


def test_a_model_without_an_answer_for_a_missing_value_is_refused(run, parts, tmp_path):
    last = fit_model("last", parts["train"], ["scheduled_minutes"], "distance")
    run(last)
    with pytest.raises(GateFailed, match="failed checks of missing values is 2") as refused:
        run(replace(last, fitted={"mean": float("nan")}))
    assert "scheduled_minutes: no value" in refused.value.where and "rows get no answer" in refused.value.where


def test_all_kinds_are_judged_before_the_first_that_failed_stops(capsys, model, parts):
    checks = check_behaviour(model, parts["test"], parts["train"], {"minute_of_day": -1}, USUAL)
    with pytest.raises(GateFailed, match="direction"):
        hold_checks(checks)
    assert "failed checks of noise is 0" in capsys.readouterr().out
    assert summarise(checks).filter(pl.col("failed") > 0)["kind"].to_list() == ["direction"]


def crashes(model, rows):
    known = dict.fromkeys(model.categories["carrier"], 0.5)
    return np.array([known[code] for code in rows["carrier"]])


def by_letters(model, rows):
    return rows["carrier"].str.len_chars().fill_null(0).to_numpy()


def as_the_first(model, rows):  # Consistent, but not the answer for a missing value
    first = model.categories["carrier"][0]
    known = pl.col("carrier").is_in(model.categories["carrier"])
    return predict(
        model, rows.with_columns(pl.when(known | pl.col("carrier").is_null()).then("carrier").otherwise(pl.lit(first)))
    )


@pytest.mark.parametrize("bad", [crashes, by_letters, as_the_first])
def test_a_model_that_answers_otherwise_for_an_unseen_category_is_refused(model, parts, bad):
    (check,) = check_unseen(partial(bad, model), parts["test"], ["carrier"])
    assert not check["passed"] and check["note"] and check["name"].startswith("carrier")
    with pytest.raises(GateFailed, match="failed checks of invariance is 1"):
        hold_checks([check])
    assert check_unseen(partial(predict, model), parts["test"], ["carrier"])[0]["value"] == 0


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum])
def test_text_may_come_as_categories(model, parts, kind):
    kind = pl.Enum(parts["test"]["carrier"].unique()) if kind is pl.Enum else kind
    rows = parts["test"].with_columns(pl.col("carrier").cast(kind))
    checks = check_behaviour(model, rows, parts["train"], {}, {})
    assert all(check["passed"] for check in checks)


def test_answers_that_depend_on_their_neighbours_are_refused(parts):
    rows = parts["test"]
    columns, order, alone = check_order(
        lambda rows: rows["temp"].fill_null(0).to_numpy() - (rows["temp"].mean() or 0), rows
    )
    assert columns["passed"] and not alone["passed"] and order["value"] < 1e-9
    columns, *_ = check_order(lambda rows: rows.select(pl.selectors.numeric()).to_series(0).to_numpy(), rows)
    assert not columns["passed"]


def test_answers_that_jump_are_refused(parts):
    rows = parts["test"].drop_nulls("temp")
    spreads = find_spreads(parts["train"], ["temp", "distance"])

    def jumps(rows):
        return np.sin(1e4 * rows["temp"].cast(pl.Float64).to_numpy())

    (check,) = check_noise(jumps, rows, spreads)
    assert not check["passed"] and check["value"] > 0.5
    (calm,) = check_noise(lambda rows: rows["temp"].cast(pl.Float64).to_numpy(), rows, spreads)
    assert calm["passed"] and 0 < calm["value"] < 0.02


def test_the_feature_that_a_model_hangs_on_is_named(parts):
    rows = parts["test"]
    truth = rows["distance"].cast(pl.Float64).to_numpy()
    checks = check_missing(
        lambda rows: rows["distance"].fill_null(0).to_numpy(), rows, ["seats", "distance"], "regression", truth
    )
    assert [check["passed"] for check in checks] == [True, False, True] and checks[1]["value"] > 1


def halves(load):
    found = load(as_frame=True)
    rows = pl.from_pandas(found.frame.rename(columns={"target": "label"}))
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    features = [name for name in rows.columns if name != "label"]
    return rows[: len(rows) // 2], rows[len(rows) // 2 :], features


@pytest.mark.parametrize("family", ["trees", "linear", "constant", "sklearn.ensemble.RandomForestClassifier"])
def test_many_classes_are_checked(family):
    train, rows, features = halves(load_wine)
    given = {"rounds": 30, "rows_a_leaf": 5} if family == "trees" else {}
    golden = {"a strong red": {"row": {"proline": 1300, "flavanoids": 3.2}, "between": [0.25, 1], "class": 0}}
    checks = check_behaviour(fit_model(family, train, features, "label", **given), rows, train, {}, golden)
    assert all(check["passed"] for check in checks) and of(checks, "golden rows")[0]["note"] == "probability of 0"


CAREFUL = {"max_features": 0.3, "min_samples_leaf": 10, "n_estimators": 30}


@pytest.mark.parametrize(
    ("family", "given"),
    [
        ("trees", {"rounds": 40, "rows_a_leaf": 10, "monotone": {"bmi": 1}}),
        ("linear", {}),
        ("sklearn.ensemble.RandomForestRegressor", {"parameters": CAREFUL}),
    ],
)
def test_a_regression_is_checked(family, given):
    train, rows, features = halves(load_diabetes)
    model = fit_model(family, train, features, "label", **given)
    golden = {"heavy": {"row": {"bmi": 0.1, "bp": 0.08}, "between": [180, 320]}}
    checks = check_behaviour(model, rows, train, {"bmi": 1}, golden)
    assert all(check["passed"] for check in checks)
    turned = check_behaviour(model, rows, train, {"bmi": -1}, golden)
    assert [check["passed"] for check in of(turned, "direction")] == [False, False]


def test_trees_that_were_left_free_break_a_direction_in_some_rows():
    train, rows, features = halves(load_diabetes)
    model = fit_model("trees", train, features, "label", rounds=40, rows_a_leaf=10)
    share, mean = of(check_behaviour(model, rows, train, {"bmi": 1}, {}), "direction")
    assert mean["passed"] and not share["passed"] and share["value"] < 0.2


def test_rows_of_one_class_give_no_skill_and_fail(model, parts):
    checks = check_behaviour(model, parts["test"].filter("late"), parts["train"], {}, {})
    assert "cannot be computed" in of(checks, "missing values")[0]["note"]
    assert not of(checks, "missing values")[0]["passed"] and all(check["passed"] for check in of(checks, "invariance"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"directions": {"minute_of_dy": 1}}, "Did you mean `minute_of_day`?"),
        ({"directions": {"carrier": 1}}, "`carrier` is no number"),
        ({"directions": {"minute_of_day": "up"}}, "1 for up"),
        ({"golden": {"odd": {"row": {"minute": 1}, "between": [0, 1]}}}, "no feature `minute`"),
        ({"golden": {"odd": {"row": {}}}}, "needs `row` and `between`"),
        ({"golden": {"odd": {"row": {}, "between": [0, 1], "class": "late"}}}, "Set `class`"),
    ],
)
def test_a_wrong_word_in_settings_is_refused(run, model, given, says):
    with pytest.raises(SettingsError) as refused:
        run(model, **given)
    assert says in str(refused.value)


def test_no_test_rows_is_said(run, model, parts, tmp_path):
    write_table(tmp_path / "gold", read_table(GOLD).filter(pl.col("month") < "2013-09"), key=flights.key)
    with pytest.raises(GateFailed, match="test rows is 0"):
        run(model, gold=str(tmp_path / "gold"))


def test_what_settings_expect_of_flights_can_be_asked(parts, monkeypatch):
    "The model of the sample is too small to meet it; every word of it must be known."
    monkeypatch.setenv(ROOT_VARIABLE, str(REPOSITORY))
    settings, steps = read_settings(REPOSITORY), find_steps(REPOSITORY)
    settings.sections["pipeline.train"]["steps"] = '["behaviour"]'
    values = bind_pipeline(settings, steps, "train", "dev").values["training.behaviour"]
    directions, golden = values["directions"].value, values["golden"].value
    everything = fit_model("linear", parts["train"], [*flights.meanings], "late")
    checks = check_behaviour(everything, parts["test"][:50], parts["train"], directions, golden)
    assert len(of(checks, "golden rows")) == 3 and {
        name.split(":")[0] for name in (c["name"] for c in of(checks, "direction"))
    } == set(directions)
