"""Speed of the train step: what it does, beside a plain LightGBM script with the same parameters on the same table."""

import json
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from ratio import in_turn, middle, say

ROOT = Path(__file__).parents[1]
DATA = ROOT / "runs/dev/data"


def ours() -> dict[str, float]:
    """Read, fit and save as the step does."""
    from mlops_kit.steps import load_workload
    from mlops_kit.training.models import part_rows, save_model
    from mlops_kit.training.train import fit_chosen, read_choices

    about, chosen = load_workload("flights"), read_choices(str(DATA / "choices"))
    import lightgbm  # noqa: F401  # Neither side pays for the import

    start = time.perf_counter()
    rows = part_rows(str(DATA / "gold"), str(DATA / "splits"), about.key, "train")
    read = time.perf_counter()
    model = fit_chosen(rows, [*about.meanings], about.label, chosen)
    fitted = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, model)
    return {"all": time.perf_counter() - start, "fit": fitted - read}


def theirs() -> dict[str, float]:
    """What a person would write with pandas and LightGBM."""
    import lightgbm as lgb

    chosen = json.loads((DATA / "choices/choices.json").read_text())
    words = chosen["parameters"]
    parameters = {
        "objective": "binary",
        "num_leaves": words["leaves"],
        "learning_rate": words["learning_rate"],
        "min_data_in_leaf": words["rows_a_leaf"],
        "feature_fraction": words["features_a_tree"],
        "bagging_fraction": words["rows_a_tree"],
        "bagging_freq": 1,
        "lambda_l2": words["l2"],
        "seed": words["seed"],
        "verbosity": -1,
    }
    start = time.perf_counter()
    gold = pl.read_parquet(f"{DATA}/gold/**/*.parquet")
    splits = pl.read_parquet(f"{DATA}/splits/**/*.parquet").filter(pl.col("part") == "train")
    frame = gold.join(splits.drop("part"), on=["departure", "carrier", "flight"]).to_pandas()
    read = time.perf_counter()
    features = frame.drop(columns=["departure", "flight", "late", "month"])
    text = features.select_dtypes(["object", "string"]).columns
    features[text] = features[text].astype("category")
    booster = lgb.train(parameters, lgb.Dataset(features, frame["late"]), chosen["rounds"])
    fitted = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        booster.save_model(f"{folder}/model.txt")
    return {"all": time.perf_counter() - start, "fit": fitted - read}


def report(rounds: int = 3) -> None:
    here = str(Path(__file__))
    found = in_turn({"ours": [here, "ours"], "theirs": [here, "theirs"]}, rounds)
    ours, theirs = ({what: middle(found[side], what) for what in ("all", "fit")} for side in ("ours", "theirs"))
    told = f"{ours['all']:.1f} s against {theirs['fit']:.1f} s, {theirs['all']:.1f} s with reading"
    say("train step, reading included / fit of a plain script", ours["all"] / theirs["fit"], 1.1, told)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps({"ours": ours, "theirs": theirs}[sys.argv[1]]()))
    else:
        report()
