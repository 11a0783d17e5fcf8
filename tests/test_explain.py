"What is said about a model is true of it: contributions add up, noise counts for nothing, nothing personal is told."

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from mlops_kit.project import StepError
from mlops_kit.training import explain
from mlops_kit.training.calibration import fit_calibration
from mlops_kit.training.encoding import encode
from mlops_kit.training.intervals import make_blocks
from mlops_kit.training.metrics import row_loss
from mlops_kit.training.models import fit_model, predict, predict_raw
from mlops_kit.training.tasks import number_labels

TREES = {"rounds": 25, "leaves": 7, "learning_rate": 0.1, "rows_a_leaf": 5, "seed": 0}


def table(load) -> pl.DataFrame:
    """Real rows with a text column, some missing values, a feature of noise, and a key with a person's name."""
    found = load(as_frame=True)
    rows = pl.from_pandas(found.frame.rename(columns={"target": "label"}))
    draw, first, n = np.random.default_rng(0), rows.columns[0], len(rows)
    middle, holes = rows[first].median(), pl.Series(draw.random(n) < 0.1)
    text = pl.when(pl.col(first) > middle).then(pl.lit("high")).otherwise(pl.lit("low")).alias("level")
    rows = rows.with_columns(text, pl.Series("noise", draw.normal(size=n)), pl.Series("number", np.arange(n)))
    rows = rows.with_columns(pl.when(~holes).then(pl.col(rows.columns[1])).alias(rows.columns[1]))
    return rows.with_columns(person=pl.format("person {}", "number"))


TABLES = {
    "binary": table(load_breast_cancer),
    "multiclass": table(load_wine),
    "regression": table(load_diabetes),
}


def features(rows: pl.DataFrame) -> list[str]:
    return [name for name in rows.columns if name not in ("label", "number", "person")]


def fit(task: str, family: str = "trees", rows: pl.DataFrame | None = None, more: tuple = ()):
    rows = TABLES[task] if rows is None else rows
    read = [*features(rows), *more]
    model = fit_model(family, rows, read, "label", **(TREES if family == "trees" else {}))
    truth = number_labels(rows["label"], model.task, model.classes)
    return model, rows, truth


@pytest.mark.parametrize("task", TABLES)
@pytest.mark.parametrize("family", ["trees", "linear"])
def test_contributions_add_up_to_the_raw_score(task, family):
    model, rows, _ = fit(task, family)
    parts, scores = explain.contributions(model, rows), predict(model, rows)
    whole = parts.base + parts.values.sum(axis=1)
    if task == "regression":
        assert np.allclose(whole, scores)
    elif task == "binary":
        assert np.allclose(whole, np.log(scores[:, 1] / scores[:, 0]))
    elif family == "trees":
        matrix = encode(rows, model.features, model.categories)
        assert np.allclose(whole, model.trees.predict(matrix, raw_score=True).max(axis=1))
    else:  # The softmax of all classes' sums; the chosen one's is what is taken apart
        others = [explain.contributions(model, rows, np.tile(np.eye(3)[c], (len(rows), 1))) for c in range(3)]
        sums = np.column_stack([of.base + of.values.sum(axis=1) for of in others])
        powers = np.exp(sums - sums.max(axis=1, keepdims=True))
        assert np.allclose(powers / powers.sum(axis=1, keepdims=True), scores)
        assert np.allclose(whole, sums[np.arange(len(rows)), scores.argmax(axis=1)])


@pytest.mark.parametrize("task", TABLES)
@pytest.mark.parametrize("family", ["trees", "linear"])
def test_a_planted_feature_matters_most_and_a_useless_one_not_at_all(task, family):
    truth = TABLES[task]["label"].to_numpy().astype(float)
    strong = truth + np.random.default_rng(1).normal(size=len(truth)) * truth.std() / 5
    planted = TABLES[task].with_columns(pl.Series("planted", strong), pl.lit(3.0).alias("constant"))
    # Seen halves apart: a model may lean on noise in the rows that it learned
    even = pl.Series(np.random.default_rng(2).random(len(planted)) < 0.5)
    model, _, _ = fit(task, family, planted.filter(even))
    unseen = planted.filter(~even)
    truth = number_labels(unseen["label"], model.task, model.classes)
    found = explain.permutation_importance(model, unseen, truth, make_blocks(unseen, None))
    measure, by = found.columns[1], {row["feature"]: row for row in found.to_dicts()}
    assert found["feature"][0] == "planted" and by["planted"]["low"] > 0
    assert by["constant"][measure] == by["constant"]["low"] == by["constant"]["high"] == 0
    assert abs(by["noise"][measure]) < 0.1 * by["planted"][measure]
    assert measure == ("rmse_increase" if task == "regression" else "log_loss_increase")


def test_an_interval_over_few_days_is_wider_than_over_rows():
    model, rows, truth = fit("binary")
    days = rows.sort("mean radius").with_columns(day=pl.int_range(pl.len()) // 60)
    truth = number_labels(days["label"], "binary", model.classes)
    found = [explain.permutation_importance(model, days, truth, make_blocks(days, of)) for of in (None, "day")]
    single, whole = (one.row(0, named=True) for one in found)
    assert single["feature"] == whole["feature"] and single["log_loss_increase"] == whole["log_loss_increase"]
    assert whole["high"] - whole["low"] > single["high"] - single["low"]


@pytest.mark.parametrize("family", ["constant", "sklearn.linear_model.LogisticRegression"])
def test_every_family_can_be_shuffled_and_those_without_contributions_say_so(family):
    rows = TABLES["binary"].drop_nulls().drop("level")
    model = fit_model(family, rows, features(rows), "label")
    truth, scores = number_labels(rows["label"], "binary", model.classes), predict(model, rows)
    found = explain.permutation_importance(model, rows, truth, make_blocks(rows, None), most=100)
    assert (found["log_loss_increase"] == 0).all() == (family == "constant")
    with pytest.raises(StepError, match="gives no contributions"):
        explain.contributions(model, rows)
    with pytest.raises(StepError, match="has no gain"):
        explain.gain_importance(model)
    worst = explain.worst_rows(model, rows, scores, truth, ["number"], "label", keep=3)
    assert all("gives no contributions" in words for words in worst["reasons"])


@pytest.mark.parametrize("task", TABLES)
def test_the_worst_rows_are_those_with_the_largest_loss(task):
    model, rows, truth = fit(task)
    scores = predict(model, rows)
    worst = explain.worst_rows(model, rows, scores, truth, ["number"], "label", keep=20)
    loss = row_loss(task, truth, scores)
    assert worst["loss"].to_list() == sorted(loss, reverse=True)[:20]
    assert (worst["label"].to_numpy() == rows["label"].to_numpy()[worst["number"]]).all()
    answer = {"binary": lambda: scores[:, 1], "multiclass": lambda: scores.max(axis=1), "regression": lambda: scores}
    assert worst["score"].to_list() == answer[task]()[worst["number"]].tolist()
    assert worst.equals(explain.worst_rows(model, rows, scores, truth, ["number"], "label", keep=20))


@pytest.mark.parametrize("task", TABLES)
def test_words_name_the_largest_contributions_and_their_direction(task):
    model, rows, _ = fit(task)
    for place, words in enumerate(explain.reasons(model, rows[:5])):
        first, second, *_ = explain.explain_row(model, rows[place : place + 1]).to_dicts()
        verb = "raises" if first["contribution"] > 0 else "lowers"
        said = f"{first['feature']} {'' if first['value'] == 'missing' else '= '}{first['value']}"
        assert words.startswith(f"{said} {verb} ") and second["feature"] in words


def test_no_personal_column_is_shown():
    rows = TABLES["binary"].with_columns(pl.format("wing {}", pl.col("label")).alias("ward"))
    model, _, truth = fit("binary", rows=rows)
    open_words = explain.worst_rows(model, rows, predict(model, rows), truth, ["person", "number"], "label")
    assert "person" in open_words.columns and any("ward" in words for words in open_words["reasons"])
    hidden = ["person", "ward"]
    shown = explain.worst_rows(model, rows, predict(model, rows), truth, ["person", "number"], "label", hidden=hidden)
    assert not any(word in str(shown.to_dicts()) for word in ("person", "ward", "wing"))
    assert "ward" not in explain.explain_row(model, rows[:1], hidden)["feature"]


def test_a_missing_value_and_a_new_category_are_explained():
    model, rows, _ = fit("binary", "linear")
    strange = rows[:1].with_columns(level=pl.lit("never seen"), **{"mean area": pl.lit(None, pl.Float64)})
    table = {row["feature"]: row for row in explain.explain_row(model, strange).to_dicts()}
    assert table["level"]["contribution"] == table["mean area"]["contribution"] == 0
    assert table["mean area"]["value"] == "missing" and table["level"]["value"] == "never seen"


def test_the_calibrated_scores_are_judged_and_the_raw_ones_taken_apart():
    from dataclasses import replace

    model, rows, truth = fit("multiclass")
    curves = fit_calibration("platt", truth, predict_raw(model, rows))
    bent = replace(model, calibration=curves)
    assert np.array_equal(explain.contributions(bent, rows).values, explain.contributions(model, rows).values)
    blocks = make_blocks(rows, None)
    one, other = (explain.permutation_importance(of, rows, truth, blocks) for of in (model, bent))
    assert one["log_loss_increase"][0] != other["log_loss_increase"][0]


def test_a_label_named_as_an_added_column_keeps_its_values():
    rows = TABLES["regression"].rename({"label": "score"})
    model = fit_model("linear", rows, ["bmi", "bp"], "score")
    worst = explain.worst_rows(model, rows, predict(model, rows), rows["score"].to_numpy(), ["number"], "score", 5)
    assert worst.columns == ["number", "score", "model_score", "loss", "reasons"]
    assert worst["score"].to_list() == rows["score"][worst["number"]].to_list()


def test_the_figure_states_what_was_found():
    model, rows, truth = fit("binary")
    shuffled = explain.permutation_importance(model, rows, truth, make_blocks(rows, None))
    close = shuffled["low"][0] <= shuffled["log_loss_increase"][1]
    for found in (shuffled, explain.contribution_importance(model, rows), explain.gain_importance(model)):
        figure = explain.draw_importance(found, many=5)
        finding = "leads, but not surely" if found is shuffled and close else "matters most"
        assert figure.get_suptitle() == f"{found['feature'][0]} {finding}"
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == found["feature"][:5].to_list()
    constant = fit_model("constant", rows, ["noise"], "label")
    none = explain.permutation_importance(constant, rows, truth, make_blocks(rows, None))
    assert explain.draw_importance(none).get_suptitle() == "No feature surely matters"
