"""Evaluations of real models, one of each task, as `evaluate` writes them."""

import functools

import numpy as np
import polars as pl
from sklearn.datasets import load_diabetes, load_digits

from mlops_kit.steps import load_workload
from mlops_kit.training.bars import judge_bars
from mlops_kit.training.baselines import fit_baselines
from mlops_kit.training.curves import draw_curves
from mlops_kit.training.evaluation_lists import name_classes
from mlops_kit.training.evaluation_page import evaluation_page
from mlops_kit.training.fairness import fairness_table
from mlops_kit.training.intervals import calibration_noise, compare_resampling, make_blocks, measure_models
from mlops_kit.training.metrics import confusion, measure_classes
from mlops_kit.training.models import fit_model, part_rows, predict
from mlops_kit.training.slices import slice_table, worst_slice
from mlops_kit.training.tasks import number_labels

FOOTER = {"Data": "gold 41cc0e", "Code": "a41f9c0 on main"}


def evaluate(task, label, train, test, features, time, columns, quality, champion=None, threshold=None, **given):
    """Everything that the page shows, of a small model."""
    models = {"model": fit_model("trees", train, features, label, task, seed=0, **given)}
    models |= fit_baselines(train, features, label, task=task)
    if champion:
        models["champion"] = fit_model("trees", train, features, label, task, seed=0, rounds=8, leaves=4)
    classes = models["model"].classes
    truth = number_labels(test[label], task, classes)
    scores = {name: predict(model, test) for name, model in models.items()}
    judged, blocks = scores["model"], make_blocks(test, time)
    how = {"draws": 200} | ({"threshold": threshold} if threshold else {})
    found = {"task": task, "label": label, "classes": classes, "rows": len(test), "blocks": int(blocks.max()) + 1}
    found |= {"blocks_of": "days" if time else "rows", "draws": 200, "threshold": threshold, "family": "trees"}
    found |= measure_models(task, truth, scores, blocks, **how)
    found["resampling"] = compare_resampling(task, truth, judged, blocks, **how) if time else []
    found["slices"] = slice_table(task, truth, judged, test, columns, blocks, least_events=15, **how)
    found["worst_slice"] = worst_slice(task, truth, judged, test, features, blocks, **how)
    found["fairness"] = fairness_table(
        task, truth, judged, test, columns[:1], blocks, classes=classes, least_events=15, **how
    )
    found["confusion"] = [] if task == "regression" else confusion(truth, judged, threshold)
    found["per_class"] = [] if task == "regression" else measure_classes(truth, judged, classes, threshold)
    found["calibration_noise"] = calibration_noise(task, truth, judged, blocks, draws=200)
    found |= {"champion": champion, "model_megabytes": 0.42}
    found["gates"] = judge_bars(found, quality, {"model_megabytes": 0.42})
    figures = draw_curves(task, truth, scores, threshold, name_classes(classes, label), blocks, costs=(1, 3))
    return found, figures, test, judged


@functools.cache
def flights():
    """Two classes, days, a champion; one bar that is missed."""
    about = load_workload("flights")
    train, test = (part_rows("samples/gold", "samples/splits", about.key, part) for part in ("train", "test"))
    features = [name for name in about.meanings if name in train.columns]
    quality = {"auc_at_least": 0.6, "auc_over_champion_low_at_least": 0, "slice_auc_at_least": 0.66}
    quality |= {"recall_gap_at_most": 0.2, "calibration_error_at_most": 0.05, "model_megabytes_at_most": 5}
    champion = {"version": "13", "comparable": True, "why": ""}
    columns = ["origin", "carrier", "temp", "minute_of_day", "dest"]
    given = {"rounds": 60, "leaves": 15, "learning_rate": 0.1}
    return evaluate("binary", about.label, train, test, features, about.time, columns, quality, champion, 0.25, **given)


@functools.cache
def digits():
    """Ten classes, rows that are independent, no champion."""
    table = pl.DataFrame(load_digits().data[:, 10:30:2], schema=[f"pixel_{n}" for n in range(10)])
    table = table.with_columns(digit=pl.Series(load_digits().target))
    features, quality = table.columns[:-1], {"auc_at_least": 0.8}
    given = {"rounds": 30, "leaves": 7}
    return evaluate("multiclass", "digit", table[:1200], table[1200:], features, None, features[:2], quality, **given)


@functools.cache
def diabetes():
    """Numbers, few rows."""
    table = pl.DataFrame(load_diabetes().data, schema=load_diabetes().feature_names)
    table = table.with_columns(progress=pl.Series(load_diabetes().target))
    features, quality = table.columns[:-1], {"mae_at_most": 60, "r2_at_least": 0.2, "slice_mae_at_most": 70}
    given = {"rounds": 40, "leaves": 7}
    champion = {"version": "2", "comparable": False, "why": "it reads the feature `bmi2`, which gold has no more"}
    found, *rest = evaluate(
        "regression", "progress", table[:300], table[300:], features, None, ["bmi", "age"], quality, **given
    )
    return found | {"champion": champion}, *rest


EXAMPLES = {"flights": flights, "digits": digits, "diabetes": diabetes}


@functools.cache
def render(name):
    """The page of an example."""
    found, figures, test, scores = EXAMPLES[name]()
    order = np.argsort(-scores[:, 1] if scores.ndim > 1 else -scores)[:100].tolist()
    reasons = "dep_delay_mean_2h_overall = 41 raises the chance of late most, then x = 3; y = 2 lowers it most"
    errors = test[order].select(*test.columns[:3], found["label"]).with_columns(loss=2.5, reasons=pl.lit(reasons))
    names = [column for column in test.columns if column != found["label"]][:30]
    share = np.arange(len(names), 0, -1) / sum(range(len(names) + 1))
    importance = pl.DataFrame({"feature": names, "log_loss_increase": share, "low": share - 0.01, "high": share + 0.01})
    return evaluation_page(found, [name, "candidate of run 7f3c19a2"], figures, errors, importance, FOOTER)
