"Models on tables that are hard to learn from: each is fitted, or refused with a reason."

import json

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from threadpoolctl import threadpool_limits

from mlops_kit.project import SettingsError, StepError
from mlops_kit.training.models import fit_model, load_model, predict, save_model

TREES = {"rounds": 20, "leaves": 7, "learning_rate": 0.1, "rows_a_leaf": 5, "seed": 0}


def table(load) -> pl.DataFrame:
    found = load(as_frame=True)
    return pl.from_pandas(found.frame.rename(columns={"target": "label"}))


CANCER, DIABETES, WINE = (table(load) for load in (load_breast_cancer, load_diabetes, load_wine))


def features(rows: pl.DataFrame) -> list[str]:
    return [name for name in rows.columns if name != "label"]


def fit(rows: pl.DataFrame, family: str = "trees", **given):
    given = (TREES if family == "trees" else {}) | given
    return fit_model(family, rows, features(rows), "label", **given)


@pytest.mark.parametrize(("rows", "task"), [(CANCER, "binary"), (WINE, "multiclass"), (DIABETES, "regression")])
@pytest.mark.parametrize("family", ["trees", "linear", "constant"])
def test_every_family_fits_every_task_and_comes_back_as_it_was(rows, task, family, tmp_path):
    model = fit(rows, family)
    assert model.task == task
    again = load_model(save_model(tmp_path, model))
    assert again == model and (predict(again, rows) == predict(model, rows)).all()
    scores = predict(model, rows)
    assert scores.shape == (len(rows),) if task == "regression" else np.allclose(scores.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("rows", "name", "parameters"),
    [
        (CANCER, "sklearn.ensemble.RandomForestClassifier", {"n_estimators": 20}),
        (WINE, "sklearn.linear_model.LogisticRegression", {"max_iter": 500}),
        (DIABETES, "sklearn.neighbors.KNeighborsRegressor", {}),
    ],
)
def test_an_estimator_by_name_is_stored_as_onnx_and_comes_back(rows, name, parameters, tmp_path):
    model = fit(rows, name, parameters=parameters)
    again = load_model(save_model(tmp_path, model))
    assert {file.name for file in tmp_path.iterdir()} == {"model.json", "model.onnx"}
    assert again == model and (predict(again, rows) == predict(model, rows)).all()
    constant = predict(fit(rows, "constant"), rows)
    truth = rows["label"].to_numpy()
    right = [np.abs(found if found.ndim == 1 else found.argmax(axis=1)) for found in (predict(model, rows), constant)]
    assert np.abs(right[0] - truth).mean() < np.abs(right[1] - truth).mean()


def test_a_pickle_is_written_only_where_settings_allow_it(tmp_path):
    name = "sklearn.ensemble.HistGradientBoostingClassifier"
    with pytest.raises(StepError, match="pickle_allowed"):
        fit(CANCER, name)
    save_model(tmp_path, fit(CANCER, name, pickle_allowed=True))
    assert (tmp_path / "model.pkl").is_file()
    assert predict(load_model(tmp_path), CANCER).shape == (len(CANCER), 2)


def test_models_learn_more_than_the_constant():
    for rows in (CANCER, WINE):
        truth = rows["label"].to_numpy()
        right = {name: (predict(fit(rows, name), rows).argmax(axis=1) == truth).mean() for name in ("trees", "linear")}
        assert min(right.values()) > 0.95
    truth = DIABETES["label"].to_numpy()
    errors = {name: np.std(predict(fit(DIABETES, name), DIABETES) - truth) for name in ("trees", "linear")}
    assert max(errors.values()) < 0.8 * truth.std()


@pytest.mark.parametrize("rows", [CANCER, WINE, DIABETES])
def test_the_text_of_the_trees_is_the_same_on_any_number_of_threads(rows):
    fit(rows)  # Only a loaded library can be limited
    found = set()
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            found.add(fit(rows, rows_a_tree=0.7, features_a_tree=0.5).text)
    assert len(found) == 1


def test_ten_thousand_categories_are_read_and_an_unknown_one_counts_as_missing():
    draw = np.random.default_rng(0)
    names = [f"place {n}" for n in range(10_000)]
    rows = pl.DataFrame({"place": names * 2, "label": draw.random(20_000) < 0.3, "size": draw.normal(size=20_000)})
    for family in ("trees", "linear"):
        model = fit(rows, family)
        unknown, missing = (rows.head(5).with_columns(place=pl.lit(value, pl.String)) for value in ("nowhere", None))
        assert (predict(model, unknown) == predict(model, missing)).all()


def test_a_constant_feature_and_one_that_is_never_there_do_no_harm():
    rows = CANCER.with_columns(constant=pl.lit(7.0), never=pl.lit(None, pl.Float64), same=CANCER["mean radius"])
    for family in ("trees", "linear"):
        found = predict(fit(rows, family), rows)
        assert np.isfinite(found).all() and found.shape == (len(rows), 2)


def test_one_feature_and_five_rows_are_enough_to_answer():
    rows = pl.DataFrame({"size": [1.0, 2.0, 3.0, 4.0, 5.0], "label": ["no", "no", "yes", "no", "yes"]})
    for family in ("trees", "linear", "constant"):
        assert np.isfinite(predict(fit(rows, family), rows)).all()


def test_an_infinite_value_is_named_by_feature():
    broken = CANCER.with_columns(
        pl.when(pl.int_range(pl.len()) < 3).then(np.inf).otherwise("mean area").alias("mean area")
    )
    for family in ("trees", "linear"):
        with pytest.raises(StepError, match="3 rows hold an infinite value\n  at feature `mean area`"):
            fit(broken, family)
    with pytest.raises(StepError, match="infinite"):
        predict(fit(CANCER), broken)


def test_a_missing_label_is_counted_and_one_value_is_refused():
    gaps = DIABETES.with_columns(pl.when(pl.int_range(pl.len()) < 4).then(np.nan).otherwise("label").alias("label"))
    with pytest.raises(StepError, match="4 of 442 rows have no label"):
        fit(gaps)
    with pytest.raises(StepError, match="one value only"):
        fit(CANCER.filter(pl.col("label") == 1))


@pytest.mark.parametrize(
    ("weights", "words"),
    [(0.0, "all weights are 0"), (-1.0, "below 0"), (np.nan, "not finite")],
)
def test_weights_that_teach_nothing_are_refused(weights, words):
    with pytest.raises(StepError, match=words):
        fit(CANCER, weights=np.full(len(CANCER), weights))


def test_a_row_of_weight_zero_is_as_if_it_were_not_there():
    half = np.arange(len(DIABETES)) % 2 == 0
    weighted = fit(DIABETES, "linear", weights=half.astype(float))
    alone = fit(DIABETES.filter(half), "linear")
    assert weighted.fitted["centre"] != alone.fitted["centre"]  # Columns are centred by all rows; answers agree
    assert np.allclose(predict(weighted, DIABETES), predict(alone, DIABETES), rtol=0.02)
    assert fit(CANCER, "constant", weights=(CANCER["label"] == 1).cast(float).to_numpy()).fitted["shares"] == [0, 1]


def test_a_rising_constraint_holds_for_every_row():
    falls = CANCER.select("mean radius", "label")  # A larger radius means malignant, which is 0
    grid = pl.DataFrame({"mean radius": np.linspace(6, 28, 50)})
    free = predict(fit(falls), grid)[:, 1]
    held = predict(fit(falls, monotone={"mean radius": 1}), grid)[:, 1]
    assert (np.diff(free) < 0).any() and (np.diff(held) >= 0).all()
    with pytest.raises(SettingsError, match="Did you mean `mean radius`"):
        fit(falls, monotone={"mean radios": 1})


def test_text_and_float_labels_are_classes_in_order():
    names = CANCER.with_columns(
        pl.when(pl.col("label") == 1).then(pl.lit("benign")).otherwise(pl.lit("malignant")).alias("label")
    )
    assert fit(names).classes == ["benign", "malignant"]
    assert fit(CANCER.with_columns(pl.col("label").cast(pl.Float64))).classes == [0.0, 1.0]
    assert fit(WINE.with_columns(pl.col("label").cast(pl.Float64))).task == "multiclass"


def test_a_stored_model_holds_no_pickle_and_is_plain_text(tmp_path):
    save_model(tmp_path, fit(CANCER))
    assert {file.name for file in tmp_path.iterdir()} == {"model.json", "model.txt"}
    assert json.loads((tmp_path / "model.json").read_text())["family"] == "trees"
