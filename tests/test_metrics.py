"Metrics are scikit-learn's under any weights, intervals cover, slices and gates are not fooled by noise."

import json
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as sk
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import scale
from threadpoolctl import threadpool_limits

from mlops_kit.project import GateFailed, StepError
from mlops_kit.training.bars import hold_bars, judge_bars
from mlops_kit.training.fairness import fairness_table
from mlops_kit.training.intervals import (
    bootstrap,
    calibration_noise,
    compare,
    compare_resampling,
    draw_blocks,
    make_blocks,
    measure_models,
    with_intervals,
)
from mlops_kit.training.metrics import confusion, measure, measure_classes, measure_draws
from mlops_kit.training.slices import cut, slice_table, worst_slice

CALM = {"max_iter": 200}


def chances(data, target, columns):
    "Probabilities of a plain model, each row judged by one that has not seen it."
    model = LogisticRegression(**CALM)
    return cross_val_predict(model, scale(data[:, columns]), target, method="predict_proba")


@pytest.fixture(scope="module")
def tumours():
    "Two classes: truth, probabilities, and a group of rows each."
    found = load_breast_cancer()
    return found.target, chances(found.data, found.target, [4, 8]), np.arange(569) % 40


@pytest.fixture(scope="module")
def people():
    "A number: truth, prediction, and the table."
    found = load_diabetes(as_frame=True)
    return found.target.to_numpy(), cross_val_predict(Ridge(), found.data, found.target), pl.from_pandas(found.data)


def rounded(scores, digits):
    "Probabilities with many equal ones."
    positive = scores[:, 1].round(digits)
    return np.column_stack([1 - positive, positive])


@pytest.mark.parametrize("digits", [12, 2, 1, 0])
def test_draws_of_two_classes_are_scikit_learns_with_weights(tumours, digits):
    truth, scores, blocks = tumours
    scores = rounded(scores, digits)
    counts = draw_blocks(blocks, draws=3000)  # So many that scores are ranked piece by piece
    drawn = measure_draws("binary", truth, scores, blocks, counts.astype(float), threshold=0.6)
    quick = measure_draws("binary", truth, scores, blocks, counts, threshold=0.6)  # Ranks in single precision
    assert all(quick[name] == pytest.approx(drawn[name], abs=1e-6) for name in drawn)
    for draw in (0, 7, 2999):
        weights, said = {"sample_weight": counts[draw][blocks]}, scores[:, 1] >= 0.6
        expected = {
            "auc": sk.roc_auc_score(truth, scores[:, 1], **weights),
            "average_precision": sk.average_precision_score(truth, scores[:, 1], **weights),
            "log_loss": sk.log_loss(truth, scores, **weights),
            "brier": sk.brier_score_loss(truth, scores[:, 1], **weights),
            "accuracy": sk.accuracy_score(truth, said, **weights),
            "precision": sk.precision_score(truth, said, **weights),
            "recall": sk.recall_score(truth, said, **weights),
            "specificity": sk.recall_score(truth, said, pos_label=0, **weights),
        }
        assert {name: drawn[name][draw] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_many_classes_are_scikit_learns_with_weights():
    digits = load_digits()
    scores = 0.05 + 0.5 * digits.data[:, [20, 21, 28, 36, 42, 43, 10, 13, 51, 53]] / 16  # Bad, and with many ties
    scores, blocks = scores / scores.sum(axis=1, keepdims=True), np.arange(1797) % 50
    counts = draw_blocks(blocks, draws=20)
    drawn = measure_draws("multiclass", digits.target, scores, blocks, counts.astype(float))
    weights, said = {"sample_weight": counts[11][blocks]}, scores.argmax(axis=1)
    macro = {**weights, "average": "macro", "zero_division": 0}
    expected = {
        "auc": sk.roc_auc_score(digits.target, scores, multi_class="ovr", **weights),
        "log_loss": sk.log_loss(digits.target, scores, **weights),
        "accuracy": sk.accuracy_score(digits.target, said, **weights),
        "precision": sk.precision_score(digits.target, said, **macro),
        "recall": sk.recall_score(digits.target, said, **macro),
        "f1": sk.f1_score(digits.target, said, **macro),
        "brier": np.average(((scores - np.eye(10)[digits.target]) ** 2).sum(axis=1), weights=counts[11][blocks]),
    }
    assert {name: drawn[name][11] for name in expected} == pytest.approx(expected, abs=1e-12)
    table = measure_classes(digits.target, scores, digits.target_names)
    assert [of["f1"] for of in table] == pytest.approx(sk.f1_score(digits.target, said, average=None))
    assert confusion(digits.target, scores) == sk.confusion_matrix(digits.target, said).tolist()


def test_numbers_are_scikit_learns_with_weights(people):
    truth, scores, _ = people
    quantiles, blocks = np.column_stack([scores - 70, scores, scores + 60]), np.arange(442) % 30
    counts = draw_blocks(blocks, draws=20)
    drawn = measure_draws("regression", truth, scores, blocks, counts, quantiles=quantiles, levels=[0.1, 0.5, 0.9])
    weights = {"sample_weight": counts[3][blocks]}
    pinball = [
        sk.mean_pinball_loss(truth, quantiles[:, at], alpha=level, **weights)
        for at, level in enumerate([0.1, 0.5, 0.9])
    ]
    expected = {
        "mae": sk.mean_absolute_error(truth, scores, **weights),
        "mse": sk.mean_squared_error(truth, scores, **weights),
        "rmse": sk.root_mean_squared_error(truth, scores, **weights),
        "mape": sk.mean_absolute_percentage_error(truth, scores, **weights),
        "r2": sk.r2_score(truth, scores, **weights),
        "pinball_loss": np.mean(pinball),
        "interval_coverage": np.average((truth >= scores - 70) & (truth <= scores + 60), weights=counts[3][blocks]),
    }
    assert {name: drawn[name][3] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_alerts_are_the_rows_with_the_highest_scores(tumours):
    truth, scores, _ = tumours
    assert len(np.unique(scores[:, 1])) == len(truth)
    for most in (1, 57, 300, 569):
        found = measure("binary", truth, scores, alert_share=most / 569)["recall_at_alerts"]
        assert found == pytest.approx(truth[np.argsort(-scores[:, 1])][:most].sum() / truth.sum())
    tied = np.array([0.5, 0.5, 0.5, 0.5, 0.2])  # One alert, for any of four rows, two of which are right
    found = measure("binary", np.array([1, 0, 1, 0, 1]), np.column_stack([1 - tied, tied]), alert_share=0.2)
    assert found["recall_at_alerts"] == pytest.approx(0.5 / 3)
    order = np.random.default_rng(0).permutation(569)
    equal = rounded(scores, 1)
    assert measure("binary", truth[order], equal[order]) == pytest.approx(measure("binary", truth, equal))


def test_the_calibration_error_is_that_of_ten_equal_groups(tumours):
    truth, scores, _ = tumours
    groups = np.array_split(np.argsort(scores[:, 1]), 10)
    expected = sum(abs((scores[rows, 1] - truth[rows]).sum()) for rows in groups) / 569
    assert measure("binary", truth, scores)["calibration_error"] == pytest.approx(expected, abs=0.004)
    exact = np.repeat([0.25, 0.75], 4)
    came = np.array([1, 0, 0, 0, 1, 1, 1, 0])
    assert measure("binary", came, np.column_stack([1 - exact, exact]))["calibration_error"] == 0


FIVE = np.array([0.2, 0.4, 0.4, 0.6, 0.9])
EDGES = {
    "one class": ("binary", np.zeros(5, int), np.column_stack([1 - FIVE, FIVE])),
    "the other class": ("binary", np.ones(5, int), np.column_stack([1 - FIVE, FIVE])),
    "five rows": ("binary", np.array([0, 0, 1, 1, 1]), np.column_stack([1 - FIVE, FIVE])),
    "constant scores": ("binary", np.array([0, 0, 1, 1, 1]), np.full((5, 2), 0.5)),
    "sure and wrong": ("binary", np.array([0, 1]), np.array([[0.0, 1.0], [1.0, 0.0]])),
    "one row": ("binary", np.array([1]), np.array([[0.5, 0.5]])),
    "a class that never came": ("multiclass", np.array([0, 1, 1, 0]), np.full((4, 3), 1 / 3)),
    "one class of many": ("multiclass", np.zeros(4, int), np.full((4, 3), 1 / 3)),
    "a truth of 0": ("regression", np.array([0.0, 1, 2]), np.array([0.5, 1, 2])),
    "a constant truth": ("regression", np.full(6, 0.1), np.arange(6.0)),
    "one value": ("regression", np.array([3.0]), np.array([2.0])),
}


@pytest.mark.parametrize("case", EDGES)
@pytest.mark.parametrize("blocks", ["rows", "one"])
def test_what_is_not_defined_is_none_and_never_nan(case, blocks):
    task, truth, scores = EDGES[case]
    numbers = np.arange(len(truth)) if blocks == "rows" else np.zeros(len(truth), int)
    found = measure_models(task, truth, {"model": scores, "twin": scores}, numbers, draws=50)
    rows = pl.DataFrame({"number": np.arange(len(truth)), "word": ["a"] * len(truth)})
    parts = (slice_table(task, truth, scores, rows, rows.columns, numbers, draws=50, least_events=1),)
    parts += (worst_slice(task, truth, scores, rows, rows.columns, numbers, draws=50),)
    parts += (fairness_table(task, truth, scores, rows, ["word"], numbers, draws=50, least_events=1),)
    json.dumps([found, *parts, calibration_noise(task, truth, scores, numbers)], allow_nan=False)
    if blocks == "one" or len(truth) == 1:
        assert all(of["low"] is None for of in found["models"]["model"].values())
    undefined = {name for name, of in found["models"]["model"].items() if of["value"] is None}
    expected = {
        "one class": {"auc", "average_precision", "recall_at_alerts", "recall"},
        "the other class": {"auc", "average_precision", "recall_at_alerts", "specificity"},
        "one row": {"auc", "average_precision", "recall_at_alerts", "specificity"},
        "one class of many": {"auc"},
        "a truth of 0": {"mape"},
        "a constant truth": {"r2"},
        "one value": {"r2"},
    }
    assert undefined == expected.get(case, set())


def test_rows_of_weight_zero_do_not_count(tumours):
    truth, scores, _ = tumours
    kept = np.arange(569) < 300
    assert measure("binary", truth, scores, weights=kept.astype(float))["auc"] == pytest.approx(
        measure("binary", truth[kept], scores[kept])["auc"]
    )
    assert set(measure("binary", truth, scores, weights=np.zeros(569)).values()) == {None}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda truth, scores: (truth, np.where(scores > 0.9, np.nan, scores)), "scores that are NaN"),
        (lambda truth, scores: (truth, np.where(scores > 0.9, np.inf, scores)), "scores that are NaN or infinite"),
        (lambda truth, scores: (truth, scores * 2), "no probabilities"),
        (lambda truth, scores: (truth[:-1], scores), r"shape \(569, 2\) for 568 rows"),
        (lambda truth, scores: (truth + 1, scores), "the truth holds class 2"),
        (lambda truth, scores: (truth[:0], scores[:0]), "no rows"),
    ],
)
def test_what_cannot_be_measured_is_refused(tumours, spoil, said):
    truth, scores, blocks = tumours
    truth, scores = spoil(truth, scores)
    with pytest.raises(StepError, match=said):
        measure("binary", truth, scores)
    with pytest.raises(StepError, match=said):
        fairness_table("binary", truth, scores, pl.DataFrame({"a": truth}), ["a"], blocks)


def test_a_truth_that_is_missing_is_refused():
    with pytest.raises(StepError, match="1 of 2 rows have truth that are NaN"):
        measure("regression", np.array([np.nan, 1]), np.array([1.0, 1]))


def test_a_difference_is_paired(tumours):
    truth, scores, blocks = tumours
    weak = 0.9 * scores + 0.05
    found = measure_models("binary", truth, {"model": scores, "weak": weak}, blocks)
    apart, alone = found["over"]["weak"]["log_loss"], found["models"]["model"]["log_loss"]
    assert apart["high"] - apart["low"] < 0.5 * (alone["high"] - alone["low"])
    assert apart["value"] == pytest.approx(found["models"]["weak"]["log_loss"]["value"] - alone["value"])
    assert found["over"]["weak"]["auc"] == pytest.approx({"value": 0, "low": 0, "high": 0})
    assert found == measure_models("binary", truth, {"model": scores, "weak": weak}, blocks)
    with threadpool_limits(1):
        assert found == measure_models("binary", truth, {"model": scores, "weak": weak}, blocks)


def test_losses_count_upwards_in_a_comparison(people):
    truth, scores, _ = people
    found = measure_models(
        "regression", truth, {"model": scores, "constant": np.full(442, truth.mean())}, np.arange(442)
    )
    assert all(found["over"]["constant"][name]["low"] > 0 for name in ("mae", "rmse", "mse", "r2"))


def test_gathered_blocks_keep_the_width_of_an_interval():
    truth = (np.random.default_rng(0).random(20_000) < 0.3).astype(int)
    rows, scores = pl.DataFrame({"id": np.arange(20_000)}), np.full((20_000, 2), 0.5)
    blocks = make_blocks(rows, None)
    assert blocks.max() + 1 == 300
    error = bootstrap("binary", truth, scores, blocks).draws["observed_share"].std()
    assert error == pytest.approx((0.3 * 0.7 / 20_000) ** 0.5, rel=0.1)


def days(rng, number=40, rows=30, effect=1.0):
    "Rows of days that share an effect: day, truth, and what a calibrated model says that knows no day."
    day = np.repeat(np.arange(number), rows)
    known = rng.normal(size=len(day))
    chance = 1 / (1 + np.exp(-(known - 1 + effect * rng.normal(size=number)[day])))
    said = 1 / (1 + np.exp(-(known - 1)))
    return day, (rng.random(len(day)) < chance).astype(int), np.column_stack([1 - said, said])


@pytest.mark.slow
def test_intervals_of_days_cover_and_those_of_rows_do_not():
    rng = np.random.default_rng(0)
    _, truth, scores = days(rng, 20_000)
    true = measure("binary", truth, scores)
    judged, held = ("auc", "log_loss", "brier", "observed_share", "recall", "average_precision"), []
    for seed in range(300):
        day, truth, scores = days(rng)
        table = {of["metric"]: of for of in compare_resampling("binary", truth, scores, day, draws=400, seed=seed)}
        held.append(
            [
                [table[m][low] <= true[m] <= table[m][high] for m in judged]
                for low, high in (("low", "high"), ("row_low", "row_high"))
            ]
        )
    by_day, by_row = np.mean(held, axis=0)
    assert (by_day > 0.91).all() and by_row[1:4].max() < 0.85


@pytest.mark.slow
def test_a_calibrated_model_is_within_its_noise():
    rng, beyond = np.random.default_rng(1), []
    for seed in range(200):
        day, truth, scores = days(rng, effect=0.0)
        noise = calibration_noise("binary", truth, scores, day, draws=300, seed=seed)
        beyond.append(measure("binary", truth, scores)["calibration_error"] > noise)
    assert np.mean(beyond) < 0.1


def test_the_interval_of_a_calibration_error_knows_that_noise_adds_to_it():
    day, truth, scores = days(np.random.default_rng(2), effect=0.0)
    found = with_intervals(bootstrap("binary", truth, scores, day))["calibration_error"]
    assert found["low"] < 0.5 * found["value"]
    off = np.clip(scores[:, 1] + 0.2, 0, 1)
    found = with_intervals(bootstrap("binary", truth, np.column_stack([1 - off, off]), day))["calibration_error"]
    assert 0.1 < found["low"] < 0.2 < found["high"] < 0.25


def test_slices_are_the_rows_that_they_name(tumours):
    truth, scores, blocks = tumours
    cell = load_breast_cancer(as_frame=True).frame["mean radius"].to_numpy()
    rows = pl.DataFrame({"radius": cell, "half": np.where(cell > 13, "large", None), "all": ["same"] * 569})
    table = slice_table("binary", truth, scores, rows, ["radius", "half", "all"], blocks, draws=300)
    by = {of["slice"]: of for of in table}
    assert {"half = large", "half = missing", "all = same"} < set(by) and len(table) == 7
    here = cell > 13
    expected = measure("binary", truth[here], scores[here])
    found = {name: of["value"] for name, of in by["half = large"]["metrics"].items()}
    assert found == pytest.approx(expected, rel=1e-9)
    whole = with_intervals(bootstrap("binary", truth, scores, blocks, draws=300))["auc"]
    corrected = by["all = same"]["metrics"]["auc"]
    assert corrected["low"] < whole["low"] and corrected["value"] == whole["value"]
    judged = [of["metrics"]["auc"]["value"] for of in table if of["judged"]]
    assert all(one <= two for one, two in pairwise(judged))
    assert all(of["judged"] == (of["events"] >= 50) for of in table) and not table[-1]["judged"]


def test_a_slice_of_one_day_is_not_judged(tumours):
    truth, scores, blocks = tumours
    table = slice_table("binary", truth, scores, pl.DataFrame({"day": blocks // 39}), ["day"], blocks, least_events=1)
    assert [of["judged"] for of in table] == [True, False] and table[1]["blocks"] == 1


def test_odd_columns_are_cut():
    rows = 60
    odd = {
        "same": [1.5] * rows,
        "empty": [None] * rows,
        "nan": [float("nan")] * (rows - 1) + [1.0],
        "endless": [float("inf")] * 20 + [float(n) for n in range(40)],
        "close": [1_000_000.0 + n / 10 for n in range(rows)],
        "flag": [True, False] * 30,
        "code": [f"code {n}" for n in range(rows)],
    }
    found = {name: cut(pl.Series(name, values)) for name, values in odd.items()}
    assert {name: of.n_unique() for name, of in found.items()} == {
        "same": 1, "empty": 1, "nan": 2, "endless": 3, "close": 4, "flag": 2, "code": 31,
    }  # fmt: skip
    assert set(found["empty"]) == {"missing"} and all(of.null_count() == 0 for of in found.values())


def test_a_slice_that_noise_made_is_not_called_worse():
    rng, called = np.random.default_rng(0), []
    for seed in range(40):
        day, truth, scores = days(rng, 60, 20, effect=0.0)
        rows = pl.DataFrame(rng.normal(size=(len(day), 8)))
        found = worst_slice("binary", truth, scores, rows, rows.columns, day, draws=100, seed=seed)
        called.append(found["worse"]["low"] > 0)
        assert found["found"] > measure("binary", truth, scores)["log_loss"]
    assert np.mean(called) < 0.15


def test_a_slice_that_is_worse_is_found_and_named():
    rng = np.random.default_rng(3)
    day, truth, scores = days(rng, 60, 40, effect=0.0)
    rows = pl.DataFrame({"load": rng.normal(size=len(day)), "place": rng.choice(["sea", "land"], len(day)), "at": day})
    wrong = ((rows["load"] > 0.8) & (rows["place"] == "sea")).to_numpy() & (rng.random(len(day)) < 0.8)
    found = worst_slice("binary", np.where(wrong, 1, truth), scores, rows, rows.columns, day)
    assert "load over 0." in found["rule"] and ("place is sea" in found["rule"] or "place is not land" in found["rule"])
    assert found["worse"]["low"] > 0 and found["metrics"]["observed_share"]["low"] > 0.6


def test_missing_values_are_named_in_a_rule():
    rng = np.random.default_rng(4)
    day, truth, scores = days(rng, 60, 40, effect=0.0)
    gone = rng.random(len(day)) < 0.2
    rows = pl.DataFrame({"wind": np.where(gone, np.nan, 5.0)})
    found = worst_slice("binary", np.where(gone, 1, truth), scores, rows, ["wind"], day)
    assert found["rule"] == "wind is missing"
    wind = rng.uniform(0, 9, len(day))
    bad, rows = gone | (wind > 6), pl.DataFrame({"wind": np.where(gone, np.nan, wind)})
    found = worst_slice("binary", np.where(bad, 1, truth), scores, rows, ["wind"], day, depth=1)
    assert found["rule"].startswith(("wind over 5.9", "wind over 6")) and found["rule"].endswith(" or missing")


def test_a_gap_between_groups_is_found_and_chance_is_not():
    called = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        day, truth, scores = days(rng, 60, 60, effect=0.0)
        rows = pl.DataFrame({"group": rng.choice(["a", "b", "c"], len(day))})
        gaps = fairness_table("binary", truth, scores, rows, ["group"], day, draws=200)[0]["gaps"]
        called.append([gap["low"] > 0 for gap in gaps.values()])
    assert (np.mean(called, axis=0) < 0.15).all()
    shifted = np.clip(scores[:, 1] + np.where(rows["group"] == "b", 0.15, 0), 0, 1)
    unfair = np.column_stack([1 - shifted, shifted])
    bad = fairness_table("binary", truth, unfair, rows, ["group"], day)[0]["gaps"]
    assert bad["calibration_gap"]["low"] > 0.08 and bad["calibration_gap"]["between"][0] == "b"
    assert bad["selection_rate_gap"]["low"] > 0 and bad["recall_gap"]["low"] > 0


def test_a_group_of_few_events_is_in_no_gap():
    day, truth, scores = days(np.random.default_rng(6), 60, 60, effect=0.0)
    group = np.where(np.arange(len(day)) < 60, "day", np.where(np.arange(len(day)) % 97 == 0, "few", "most"))
    (found,) = fairness_table("binary", truth, scores, pl.DataFrame({"group": group}), ["group"], day, least_events=12)
    assert {of["group"]: of["judged"] for of in found["groups"]} == {"day": False, "few": False, "most": True}
    assert found["groups"][0]["events"] >= 12 and found["groups"][0]["blocks"] == 1
    assert {gap["value"] for gap in found["gaps"].values()} == {None}


def evaluate(truth, models, blocks, rows=None, columns=()):
    "An evaluation as the step makes it."
    judged = models["model"]
    found = {"task": "binary", "rows": len(truth)} | measure_models("binary", truth, models, blocks, draws=300)
    found["slices"] = slice_table("binary", truth, judged, rows, columns, blocks, draws=300) if columns else []
    return found | {"fairness": []}


def test_a_model_of_shuffled_labels_is_refused(tumours):
    truth, scores, blocks = tumours
    data, constant = load_breast_cancer().data, np.tile(1 - truth.mean(), (569, 2))
    constant[:, 1] = truth.mean()
    shuffled = np.random.default_rng(0).permutation(truth)
    chance = chances(data, shuffled, [4, 8])
    refused = judge_bars(evaluate(shuffled, {"model": chance, "constant": constant}, blocks), {"auc_at_least": 0})
    assert [of["passed"] for of in refused] == [False, True]
    with pytest.raises(GateFailed, match=r"skill over constant, lower end is -0\.\d+; the bar is at least 0\.0001"):
        hold_bars(refused)
    passed = judge_bars(evaluate(truth, {"model": scores, "constant": constant}, blocks), {"auc_at_least": 0})
    assert all(of["passed"] for of in passed)
    hold_bars(passed)


def test_a_model_worse_than_the_champion_is_refused(tumours):
    truth, scores, blocks = tumours
    constant = np.full((569, 2), 0.5)
    weak = 0.7 * scores + 0.15
    bars = {"log_loss_over_champion_low_at_least": -0.005, "auc_over_champion_at_least": -0.001}
    found = evaluate(truth, {"model": weak, "constant": constant, "champion": scores}, blocks)
    assert [of["passed"] for of in judge_bars(found, bars)] == [True, False, True]
    first = evaluate(truth, {"model": weak, "constant": constant}, blocks)
    assert len(judge_bars(first, bars)) == 1  # There is no champion yet
    lost = first | {"over": first["over"] | {"champion": {}}}
    assert [of["passed"] for of in judge_bars(lost, bars)] == [True, False, False]


def test_a_slice_fails_only_when_its_whole_interval_misses(tumours):
    truth, scores, blocks = tumours
    rows = pl.DataFrame({"half": np.where(np.arange(569) % 2, "odd", "even")})
    found = evaluate(truth, {"model": scores, "constant": np.full((569, 2), 0.5)}, blocks, rows, ["half"])
    ends = [of["metrics"]["auc"] for of in found["slices"]]
    between = min(of["high"] for of in ends) - 0.001
    assert between > max(of["value"] for of in ends)  # Every slice is below the bar, and none of them surely
    assert judge_bars(found, {"slice_auc_at_least": between})[1]["passed"]
    missed = judge_bars(found, {"slice_auc_at_least": between + 0.002})[1]
    assert not missed["passed"] and "half = " in missed["note"] and "its high end is held" in missed["note"]
    assert not judge_bars(found, {"slice_auc_at_least": 0}, slice_rows=10_000)[1]["passed"]


def test_wines_and_their_classes():
    wine = load_wine()
    scores = chances(wine.data, wine.target, [0, 1, 2])
    found = measure_models(
        "multiclass", wine.target, {"model": scores, "constant": np.full((178, 3), 1 / 3)}, np.arange(178)
    )
    assert found["over"]["constant"]["auc"]["low"] > 0 and found["models"]["constant"]["auc"]["value"] == 0.5
    both = [bootstrap("multiclass", wine.target, scores, np.arange(178), seed=seed) for seed in (1, 1)]
    assert compare(*both)["log_loss"] == {"value": 0, "low": 0, "high": 0}
