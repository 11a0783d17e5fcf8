"Estimators by name: what is stored answers as scikit-learn does, or is refused."

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from mlops_kit.project import SettingsError, StepError
from mlops_kit.training.estimators import estimator_bytes, fit_estimator, load_estimator, predict_estimator

TABLES = {"binary": load_breast_cancer, "multiclass": load_wine, "regression": load_diabetes}
CLASSIFIERS = {
    "sklearn.ensemble.RandomForestClassifier": {"n_estimators": 10},
    "sklearn.ensemble.GradientBoostingClassifier": {"n_estimators": 10},
    "sklearn.linear_model.LogisticRegression": {},
    "sklearn.naive_bayes.GaussianNB": {},
    "sklearn.neural_network.MLPClassifier": {"max_iter": 20},
    "sklearn.neighbors.KNeighborsClassifier": {},
}
REGRESSORS = {
    "sklearn.ensemble.ExtraTreesRegressor": {"n_estimators": 10},
    "sklearn.ensemble.GradientBoostingRegressor": {"n_estimators": 10},
    "sklearn.linear_model.HuberRegressor": {},
    "sklearn.linear_model.PoissonRegressor": {},
    "sklearn.svm.SVR": {},
    "sklearn.neighbors.KNeighborsRegressor": {},
}
FOREST = "sklearn.ensemble.RandomForestClassifier"


def hard(task, missing=0.1):
    "A real table with a category of 5 values as its last column, missing values, and a column that is never there."
    rows, truth = TABLES[task](return_X_y=True)
    draw = np.random.default_rng(0)
    last = np.searchsorted(np.quantile(rows[:, -1], [0.2, 0.4, 0.6, 0.8]), rows[:, -1])
    rows = np.column_stack([rows[:, :-1], np.zeros(len(rows)), last]).astype(float)
    rows[draw.random(rows.shape) < missing] = np.nan
    rows[:, -2] = np.nan
    return rows, truth, {rows.shape[1] - 1: 5}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("task", "name", "parameters"),
    [("binary", *pair) for pair in CLASSIFIERS.items()]
    + [("multiclass", *pair) for pair in CLASSIFIERS.items()]
    + [("regression", *pair) for pair in REGRESSORS.items()],
)
def test_onnx_answers_as_the_estimator_does(task, name, parameters):
    rows, truth, categorical = hard(task)
    fit, rest = rows[::2], rows[1::2]
    fitted = fit_estimator(name, parameters, fit, truth[::2], categorical, task)
    kind, data = estimator_bytes(fitted, fit, task)
    loaded = load_estimator(kind, data)
    classes = 0 if task == "regression" else truth.max() + 1
    theirs, ours = (predict_estimator(one, rest, task, classes) for one in (fitted, loaded))
    assert kind == "onnx" and np.abs(theirs - ours).max() <= 1e-5 * (theirs.std() if task == "regression" else 1)
    assert np.isfinite(predict_estimator(loaded, np.full_like(rest[:2], np.nan), task, classes)).all()


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_equal_rows_give_equal_bytes(task):
    rows, truth, categorical = hard(task)
    name = FOREST if task == "binary" else FOREST.replace("Classifier", "Regressor")
    made = [fit_estimator(name, {"n_estimators": 5, "n_jobs": jobs}, rows, truth, categorical, task) for jobs in (1, 2)]
    first, second = (estimator_bytes(one, rows, task)[1] for one in made)
    assert first == second
    other = fit_estimator(name, {"n_estimators": 5}, rows, truth, categorical, task, seed=1)
    assert estimator_bytes(other, rows, task)[1] != first


def test_weights_count():
    rows, truth, categorical = hard("binary")
    favoured = np.where(truth == 1, 50.0, 1.0)
    plain, weighed = (
        predict_estimator(
            fit_estimator(FOREST, {"max_depth": 3}, rows, truth, categorical, "binary", weights), rows, "binary"
        )
        for weights in (None, favoured)
    )
    assert weighed[:, 1].mean() > plain[:, 1].mean() + 0.05
    with pytest.raises(SettingsError, match="takes no weights"):
        fit_estimator("sklearn.neighbors.KNeighborsClassifier", {}, rows, truth, categorical, "binary", favoured)


def test_an_unknown_category_and_a_missing_one_are_the_same():
    rows, truth, categorical = hard("multiclass", missing=0)
    fitted = fit_estimator("sklearn.linear_model.LogisticRegression", {}, rows, truth, categorical, "multiclass")
    loaded = load_estimator(*estimator_bytes(fitted, rows, "multiclass"))
    strange, missing = rows.copy(), rows.copy()
    strange[:, -1], missing[:, -1] = 77, np.nan
    assert (
        predict_estimator(loaded, strange, "multiclass", 3) == predict_estimator(loaded, missing, "multiclass", 3)
    ).all()
    assert (
        predict_estimator(loaded, rows, "multiclass", 3) != predict_estimator(loaded, missing, "multiclass", 3)
    ).any()


def test_a_class_that_was_absent_has_no_probability():
    rows, truth, categorical = hard("multiclass")
    there = truth != 1
    fitted = fit_estimator(FOREST, {"n_estimators": 5}, rows[there], truth[there], categorical, "multiclass")
    loaded = load_estimator(*estimator_bytes(fitted, rows[there], "multiclass"))
    for one in (fitted, loaded):
        scores = predict_estimator(one, rows, "multiclass", 3)
        assert scores.shape == (len(rows), 3) and (scores[:, 1] == 0).all() and np.allclose(scores.sum(axis=1), 1)


@pytest.mark.parametrize("columns", [[0], [-1]])
def test_one_feature_is_enough(columns):
    rows, truth, _ = hard("binary")
    rows = rows[:, columns]
    fitted = fit_estimator(FOREST, {"n_estimators": 5}, rows, truth, {0: 5} if columns == [-1] else {}, "binary")
    loaded = load_estimator(*estimator_bytes(fitted, rows, "binary"))
    assert np.allclose(predict_estimator(loaded, rows, "binary"), predict_estimator(fitted, rows, "binary"), atol=1e-5)


def test_ten_thousand_categories_fit_in_memory():
    draw = np.random.default_rng(0)
    rows = np.column_stack([draw.normal(size=20_000), draw.integers(0, 10_000, 20_000)])
    truth = (rows[:, 0] > 0).astype(int)
    fitted = fit_estimator(FOREST, {"n_estimators": 3, "max_depth": 3}, rows, truth, {1: 10_000}, "binary")
    assert fitted[:-1].transform(rows[:5].astype(np.float32)).shape == (5, 256)
    assert estimator_bytes(fitted, rows, "binary")[0] == "onnx"


def test_what_onnx_would_answer_wrongly_is_not_stored_as_onnx():
    rows, truth, categorical = hard("binary")
    name = "sklearn.discriminant_analysis.LinearDiscriminantAnalysis"
    fitted = fit_estimator(name, {}, rows, truth, categorical, "binary")
    with pytest.raises(StepError, match="differ") as refused:
        estimator_bytes(fitted, rows, "binary")
    assert "pickle_allowed" in refused.value.remedy
    kind, data = estimator_bytes(fitted, rows, "binary", pickle_allowed=True)
    loaded = load_estimator(kind, data)
    assert (
        kind == "pickle"
        and (predict_estimator(loaded, rows, "binary") == predict_estimator(fitted, rows, "binary")).all()
    )


def test_a_parameter_that_the_estimator_refuses_is_said_in_its_words():
    rows, truth, categorical = hard("binary")
    with pytest.raises(StepError, match="max_depth"):
        fit_estimator(FOREST, {"max_depth": -3}, rows, truth, categorical, "binary")
    with pytest.raises(StepError, match="cannot be fitted"):
        fit_estimator("sklearn.linear_model.LogisticRegression", {}, rows, truth * 0, categorical, "binary")
