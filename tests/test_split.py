"The split, its folds, whom the rows stand for, and what a random split would have claimed; on real tables."

import json
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import lightgbm  # noqa: F401 (only a loaded library can be limited)
import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from threadpoolctl import threadpool_limits

from mlops_kit import steps
from mlops_kit.notebooks import find_steps
from mlops_kit.project import ROOT_VARIABLE, GateFailed, KitError, SettingsError, StepError
from mlops_kit.steps import RECORDS_VARIABLE, read_table, write_table
from mlops_kit.training.balance import balance_weights, draw_rows
from mlops_kit.training.folds import make_folds
from mlops_kit.training.models import fit_model, predict
from mlops_kit.workloads import flights

REPOSITORY = Path(__file__).parent.parent
SAMPLES = REPOSITORY / "samples"
MONTHS = {"train_until": "2013-08-31", "test_until": "2013-10-31"}


def table(load) -> pl.DataFrame:
    found = load(as_frame=True)
    return pl.from_pandas(found.frame.rename(columns={"target": "label"})).with_row_index("row")


CANCER, DIABETES, IRIS, WINE = (table(load) for load in (load_breast_cancer, load_diabetes, load_iris, load_wine))
CANCER = CANCER.select("row", "label", *CANCER.columns[1:9])  # A few of its thirty features


@pytest.fixture
def split(tmp_path, monkeypatch):
    "Run the step on a table: split(rows, time='day', group='who'); gives rows with `part`, and what was recorded."
    monkeypatch.setenv(ROOT_VARIABLE, str(REPOSITORY))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv(RECORDS_VARIABLE, str(tmp_path / "records"))
    step = {step.short: step for step in find_steps(REPOSITORY).values()}["split"]

    def one(rows=None, about=None, time=None, **given):
        key = flights.key if rows is None else ["row"]
        if rows is not None:
            features = [name for name in rows.columns if name not in ("row", "label", time, given.get("group"))]
            about = SimpleNamespace(key=key, label="label", time=time, allowed={}, meanings=dict.fromkeys(features, ""))
            monkeypatch.setattr(steps, "load_workload", lambda name: about)
            write_table(tmp_path / "gold", rows, key=key)
        gold = tmp_path / "gold" if rows is not None else SAMPLES / "gold"
        (tmp_path / "records").write_text("")
        known, values = {"__name__": "step"}, given | {"gold": str(gold), "splits": str(tmp_path / "splits")}
        with threadpool_limits(1):  # Small tables: threads only wait for each other
            for cell in step.cells:
                exec(cell.source, known)
                known.update(values if cell.kind == "parameters" else {})
        parts = read_table(gold).join(read_table(tmp_path / "splits"), on=key, how="left").sort(key)
        records = [json.loads(line) for line in (tmp_path / "records").read_text().splitlines()]
        return SimpleNamespace(rows=parts, part=parts["part"].to_list(), records=records, known=known)

    return one


def part(found, name):
    return found.rows.filter(part=name)


def daily(rows: pl.DataFrame) -> pl.DataFrame:
    "Ten rows a day from the first of January."
    return rows.with_columns(
        day=pl.datetime(2013, 1, 1) + pl.duration(days=pl.col("row") // 10, hours=pl.col("row") % 10)
    )


def test_flights_are_split_by_time_and_later_rows_are_in_no_part(split):
    found = split(**MONTHS)
    train, test, none = part(found, "train"), part(found, "test"), found.rows.filter(pl.col("part").is_null())
    assert train["departure"].max() < datetime(2013, 9, 1) <= test["departure"].min()
    assert none["departure"].min() >= datetime(2013, 11, 1) and len(none) > 0
    known = read_table(SAMPLES / "splits").sort(flights.key)
    assert found.rows.drop_nulls("part").select(known.columns).equals(known)


def test_what_a_random_split_claims_is_reported_beside_the_truth(split):
    found = split(**MONTHS)
    said = next(record["value"] for record in found.records if record.get("name") == "random split")
    assert said.startswith("A random split would have claimed an AUC of 0.") and "Rows of one day share" in said
    claims = next(record for record in found.records if record.get("title") == "claims")
    scores = {row[0]: row[2] for row in claims["rows"]}
    assert scores["rows"] > scores["days"] > scores["test"]
    assert any(record["record"] == "figure" and "claims" in record["title"] for record in found.records)
    silent = split(**MONTHS, claim=False)
    assert not any("random" in str(record.get("name")) for record in silent.records)
    assert silent.part == found.part


def test_without_dates_the_last_days_are_the_test_and_no_day_is_cut(split):
    found = split(daily(CANCER), time="day", test_share=0.2, claim=False)
    days = {name: set(part(found, name)["day"].dt.date()) for name in ("train", "test")}
    assert max(days["train"]) < min(days["test"]) and len(days["test"]) == round(0.2 * 57)
    early = split(daily(CANCER), time="day", test_until="2013-01-20", claim=False)
    assert max(part(early, "test")["day"]).date() == date(2013, 1, 20)


@pytest.mark.parametrize("rows", [CANCER, WINE, IRIS])
def test_classes_are_shared_out_evenly(split, rows):
    found = split(rows)
    share = {name: part(found, name)["label"].value_counts(normalize=True).sort("label") for name in ("train", "test")}
    assert (share["train"]["proportion"] - share["test"]["proportion"]).abs().max() < 0.01
    assert split(rows).part == found.part != split(rows, seed=1).part


def test_a_regression_is_drawn_at_random(split):
    found = split(DIABETES, test_share=0.3)
    assert len(part(found, "test")) == round(0.3 * len(DIABETES))
    assert abs(part(found, "test")["label"].mean() - part(found, "train")["label"].mean()) < 20


@pytest.mark.parametrize("kind", ["text", "float", "boolean"])
def test_labels_of_any_type_are_shared_out(split, kind):
    label = {
        "text": pl.format("kind {}", "label"),
        "float": pl.col("label").cast(float),
        "boolean": pl.col("label") == 1,
    }
    found = split(CANCER.with_columns(label=label[kind]))
    assert found.rows["part"].null_count() == 0 and part(found, "test")["label"].n_unique() == 2


def test_groups_are_never_on_both_sides(split):
    rows = WINE.with_columns(who=pl.col("row") // 4)
    found = split(rows, group="who", claim=False)
    sides = found.rows.group_by("who").agg(pl.col("part").n_unique())
    assert sides["part"].max() == 1
    assert 0.15 < len(part(found, "test")) / len(rows) < 0.35 and part(found, "test")["label"].n_unique() == 3


def test_a_random_split_flatters_where_rows_belong_together(split):
    noise = pl.Series(np.random.default_rng(0).normal(0, 0.001, 4 * len(DIABETES)))
    rows = DIABETES.rename({"row": "who"}).select(pl.all().repeat_by(4).explode())
    rows = rows.with_columns(age=pl.col("age") + noise).with_row_index("row")
    said = next(record["value"] for record in split(rows, group="who").records if record.get("name") == "random split")
    assert "an R² of 0.9" in said and "Rows of one group are alike" in said


def test_with_time_and_groups_only_new_groups_test(split):
    rows = daily(CANCER).with_columns(who=pl.when(pl.col("row") % 2 == 0).then(0).otherwise("row"))
    found = split(rows, time="day", group="who", claim=False)
    assert 0 not in part(found, "test")["who"] and len(part(found, "test")) > 0
    left_out = found.rows.filter(pl.col("part").is_null())
    assert len(left_out) > 0 and set(left_out["who"]) == {0}
    with pytest.raises(GateFailed, match="rows of the smaller part is 0"):
        split(rows.with_columns(who=1), time="day", group="who")


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_rows_without_a_label_are_in_no_part(split, nothing):
    label = pl.when(pl.col("row") < 20).then(nothing).otherwise(pl.col("label").cast(float))
    rows = CANCER.with_columns(label=label)
    with pytest.raises(GateFailed, match=r"share of rows without a label is 0\.03515") as failed:
        split(rows)
    assert "20 of 569 rows" in str(failed.value) and "max_unlabelled" in str(failed.value)
    found = split(rows, max_unlabelled=0.05)
    assert found.part[:20] == [None] * 20 and None not in found.part[20:]
    assert {"record": "metric", "name": "unlabelled_rows", "value": 20.0} in found.records
    with pytest.raises(StepError, match="none of 569 rows has a label"):
        split(rows.with_columns(label=pl.lit(nothing, dtype=pl.Float64)))


def test_one_class_only_is_refused(split):
    with pytest.raises(StepError, match="one value only"):
        split(CANCER.with_columns(label=1))
    with pytest.raises(StepError, match="one value only"):
        split(daily(CANCER).with_columns(label=1), time="day")
    with pytest.raises(GateFailed, match="classes in the test rows is 1"):
        split(daily(CANCER).with_columns(label=pl.when(pl.col("row") > 400).then(1).otherwise("label")), time="day")


def test_a_class_that_appears_first_in_the_test_is_named(split):
    kinds = pl.when(pl.col("row") > 560).then(pl.lit("new kind")).otherwise(pl.format("kind {}", "label"))
    rows = daily(CANCER.with_columns(label=kinds))
    with pytest.raises(GateFailed, match="classes that appear first in the test is 1") as failed:
        split(rows, time="day")
    assert "new kind: 8 rows" in str(failed.value) and "unseen_classes" in str(failed.value)
    found = split(rows, time="day", unseen_classes=["new kind"], claim=False)
    assert found.rows.filter(pl.col("part").is_null())["label"].to_list() == ["new kind"] * 8


def test_five_rows_are_split_or_refused_with_a_reason(split):
    found = split(pl.DataFrame({"row": range(5), "x": [1.0, 2, 3, 4, 5], "label": ["a", "b", "a", "b", "a"]}))
    assert sorted(part(found, "test")["label"]) == ["a", "b"]
    found = split(pl.DataFrame({"row": range(5), "x": range(5), "label": list("ababc")}))
    assert found.rows.filter(label="c")["part"].to_list() == ["train"]
    with pytest.raises(GateFailed, match="rows of the smaller part is 0"):
        split(pl.DataFrame({"row": range(5), "x": range(5), "label": list("abcde")}))
    days = [datetime(2013, 1, 1 + day) for day in range(5)]
    found = split(
        pl.DataFrame({"row": range(5), "day": days, "x": range(5), "label": [0, 1, 0, 1, 0]}),
        time="day",
        test_share=0.4,
    )
    assert found.part == ["train"] * 3 + ["test"] * 2
    with pytest.raises(StepError, match="a day is never cut"):
        split(pl.DataFrame({"row": range(5), "day": days[:1] * 5, "x": range(5), "label": [0, 1, 0, 1, 0]}), time="day")


def test_columns_that_are_the_same_twice_do_no_harm_but_a_copy_of_the_label_does(split):
    assert None not in split(CANCER.with_columns(again=pl.col("mean radius"))).part
    with pytest.raises(GateFailed, match="leaks is 1"):
        split(CANCER.with_columns(copy=pl.col("label") * 7 + 3))


def test_a_day_a_column_or_a_group_that_is_no_such_thing_is_named(split):
    with pytest.raises(SettingsError, match=r"Write it as 2013-08-31"):
        split(train_until="August")
    with pytest.raises(StepError, match="Did you mean `day`"):
        split(daily(CANCER), time="dai")
    with pytest.raises(StepError, match="no date and no time"):
        split(CANCER, time="mean radius")
    with pytest.raises(StepError, match="no column `patient`"):
        split(CANCER, group="patient")
    with pytest.raises(StepError, match="2 of 569 rows have no time"):
        split(daily(CANCER).with_columns(day=pl.when(pl.col("row") > 1).then("day")), time="day")


def test_an_infinite_value_is_named(split):
    rows = daily(CANCER).with_columns(x=pl.when(pl.col("row") == 3).then(float("inf")).otherwise(1.0))
    with pytest.raises(KitError, match="`x`"):
        split(rows, time="day")


def test_the_population_of_settings_is_held_against_the_rows(split):
    shares = {"origin": {"EWR": 0.36, "JFK": 0.33, "LGA": 0.31}}
    found = split(**MONTHS, population=shares, claim=False)
    gate = next(record for record in found.records if "population" in record.get("name", ""))
    assert 0 < gate["value"] < 0.1 and gate["passed"]
    assert found.part == split(**MONTHS, claim=False).part  # It is compared, and nothing is drawn by it
    with pytest.raises(GateFailed, match="balance = population"):
        split(**MONTHS, population={"origin": {"EWR": 0.9, "JFK": 0.05, "LGA": 0.05}})
    with pytest.raises(SettingsError, match="Did you mean `origin`"):
        split(**MONTHS, population={"orgin": {"EWR": 1.0}})
    with pytest.raises(SettingsError, match="Did you mean `EWR`"):
        split(**MONTHS, population={"origin": {"EWK": 1.0}})


def test_whom_the_rows_stand_for_is_shown_before_training(split):
    found = split(**MONTHS, compared=["carrier"], claim=False)
    shares = next(record for record in found.records if record.get("title") == "shares")
    assert {row[0] for row in shares["rows"]} == {"late", "month of the year", "weekday", "carrier"}
    said = next(record["value"] for record in found.records if record.get("name") == "stands for")
    late = found.rows.group_by("part").agg(pl.col("late").mean()).filter(part="train")["late"].item()
    assert f"`late` is True in {late:.1%} of the training rows" in said
    assert "No month of the test is in training" in said


# Folds


def test_folds_in_time_never_look_ahead_nor_cut_a_day():
    draw = np.random.default_rng(0)
    for _ in range(50):
        hours = np.sort(draw.integers(0, 24 * 90, int(draw.integers(20, 300))))
        rows = pl.DataFrame({"at": [datetime(2013, 1, 1) + timedelta(hours=int(hour)) for hour in hours]})
        parts, gap = int(draw.integers(1, 5)), int(draw.integers(0, 4))
        judged = []
        for fit, judge in make_folds(
            rows.sample(fraction=1, shuffle=True, seed=1), None, "at", parts=parts, gap_days=gap
        ):
            judged.extend(judge)
            days = rows.sample(fraction=1, shuffle=True, seed=1)["at"].dt.date()
            assert (days[judge].min() - days[fit].max()).days > gap
        assert len(judged) == len(set(judged))


def test_the_last_windows_are_judged_and_each_is_as_long_as_asked():
    rows = daily(CANCER)
    folds = make_folds(rows, None, "day", parts=3, fold_days=7)
    assert [len(judge) for _, judge in folds] == [70, 70, 69]
    assert folds[-1][1][-1] == len(rows) - 1 and [len(fit) for fit, _ in folds] == [360, 430, 500]


def test_folds_keep_groups_together_and_classes_apart():
    rows, classes = WINE.with_columns(who=pl.col("row") % 30), WINE["label"].to_numpy()
    for fit, judge in make_folds(rows, classes, group="who", parts=4):
        assert not set(rows[fit]["who"]) & set(rows[judge]["who"]) and len(fit) + len(judge) == len(rows)
    for _, judge in make_folds(WINE, classes, parts=4):
        assert abs(np.bincount(classes[judge]) / len(judge) - np.bincount(classes) / len(classes)).max() < 0.02


def test_few_rows_fold_or_say_why_not():
    five = pl.DataFrame({"who": [1, 1, 2, 2, 3], "at": [date(2013, 1, day) for day in range(1, 6)]})
    for fit, judge in make_folds(five, np.array([0, 0, 0, 1, 1]), parts=3):
        assert set(np.array([0, 0, 0, 1, 1])[fit]) == {0, 1} and len(judge)
    assert all(4 in fit for fit, _ in make_folds(five, np.array([0, 0, 0, 0, 1])))
    assert len(make_folds(five, None, group="who", parts=5)) == 3
    assert len(make_folds(five, None, "at")) == 3
    with pytest.raises(StepError, match="one class only"):
        make_folds(five, np.array([0, 0, 0, 0, 1]), "at")
    with pytest.raises(StepError, match="cannot be cut into 8 windows"):
        make_folds(five, None, "at", parts=7)
    with pytest.raises(StepError, match="no row to fit on"):
        make_folds(five, None, "at", gap_days=30)


# Balance


def test_weights_give_training_rows_the_shares_of_the_population():
    rows = read_table(SAMPLES / "gold")
    wanted = {"origin": {"EWR": 0.5, "JFK": 0.3, "LGA": 0.2}, "late": {"True": 0.4}}
    weights = balance_weights(rows, "population", "late", "binary", wanted)
    for name, value, share in [("origin", "EWR", 0.5), ("origin", "LGA", 0.2), ("late", True, 0.4)]:
        assert abs(weights[(rows[name] == value).to_numpy()].sum() / weights.sum() - share) < 1e-5


@pytest.mark.parametrize("how", ["classes", "under", "over"])
def test_balanced_classes_weigh_alike(how):
    weights = balance_weights(CANCER, how, "label", "binary")
    sums = np.bincount(CANCER["label"].to_numpy(), weights)
    assert abs(sums[0] / sums[1] - 1) < 1e-9 and abs(weights.mean() - 1) < 1e-9
    assert (balance_weights(CANCER, how, "label", "binary") == weights).all()


def test_drawn_rows_are_as_many_of_every_class():
    classes = CANCER["label"].to_numpy()
    least, most = sorted(np.bincount(classes))
    under, over = draw_rows(classes, "under"), draw_rows(classes, "over")
    assert np.bincount(classes[under]).tolist() == [least] * 2 and len(set(under)) == len(under)
    assert np.bincount(classes[over]).tolist() == [most] * 2 and set(over) == set(range(len(classes)))
    assert not np.array_equal(under, draw_rows(classes, "under", seed=1))


def test_test_rows_are_judged_as_they_are_under_every_balance(split):
    found = split(CANCER)
    train, test = (part(found, name).drop("part") for name in ("train", "test"))
    before, features = test.clone(), [name for name in test.columns if name not in ("row", "label")]
    for how in ("classes", "under", "over"):
        weights = balance_weights(train, how, "label", "binary")
        model = fit_model("trees", train, features, "label", weights=weights, rounds=10, rows_a_leaf=5)
        assert len(weights) == len(train) and len(predict(model, test)) == len(before) and test.equals(before)
