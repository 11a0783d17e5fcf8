"""What an endpoint says of itself in OpenAPI is valid, and says what the door does."""

import copy
import json
from pathlib import Path

import orjson
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from mlops_kit.deployment.inference.forms import read_body
from mlops_kit.deployment.inference.openapi import describe_api
from mlops_kit.deployment.inference.rows import Refused
from mlops_kit.deployment.inference.scoring import load_scorer

PACKAGE = Path(__file__).parents[1] / "samples/package"
SCORER = load_scorer(PACKAGE)
SIGNATURE, MODEL = (json.loads((PACKAGE / name).read_text()) for name in ("signature.json", "model.json"))
TOLD = orjson.loads(orjson.dumps(describe_api(SIGNATURE, "flights", "7", MODEL["categories"])))
BODY = TOLD["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
ROW = json.loads((PACKAGE / "golden.json").read_text())["rows"][0]


def fits(content, schema) -> bool:
    return Draft202012Validator({**schema, "components": TOLD["components"]}).is_valid(content)


def refusal(content) -> dict:
    """The answer of the door, empty where it scores."""
    try:
        SCORER.schema.check(read_body(orjson.dumps(content)))
    except Refused as refused:
        return refused.body()
    return {}


def test_the_document_is_openapi():
    validate(TOLD)
    broken = copy.deepcopy(TOLD)
    del broken["paths"]["/score"]["post"]["responses"]
    broken["components"]["securitySchemes"]["key"]["type"] = "bearer"
    with pytest.raises(Exception, match="bearer"):
        validate(broken)


def test_its_example_is_scored():
    assert fits(BODY["example"], BODY["schema"]) and not refusal(BODY["example"])


TABLE = {"columns": [*ROW], "data": [[*ROW.values()]]}
COLUMNS = {name: [value] for name, value in ROW.items()}
FORMS = [
    {"input_data": TABLE},
    {"input_data": TABLE | {"index": [0]}},
    {"input_data": [ROW]},
    {"input_data": [[*ROW.values()]]},
    {"dataframe_split": TABLE},
    {"dataframe_records": [ROW, ROW]},
    {"inputs": [ROW]},
    {"inputs": COLUMNS},
    {"inputs": [[*ROW.values()]]},
    {"instances": [ROW]},
    [ROW],
    ROW,
]


@pytest.mark.parametrize("content", FORMS)
def test_every_form_that_is_read_is_told(content):
    assert fits(content, BODY["schema"]) and not refusal(content)


def test_a_request_by_keys_is_told_where_features_can_be_looked_up():
    keys = {"carrier": "YV", "flight": 3771, "departure": "2013-12-31T14:32:00"}
    told = orjson.loads(orjson.dumps(describe_api(SIGNATURE, "flights", "7", MODEL["categories"], [*keys])))
    validate(told)
    schema = told["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    valid = Draft202012Validator({**schema, "components": told["components"]}).is_valid
    lists = {name: [value] for name, value in keys.items()}
    by_keys = [keys, [keys], {"dataframe_records": [keys, keys]}, {"input_data": [keys]}, {"inputs": lists}]
    assert all(map(valid, [*by_keys, *FORMS])) and not any(fits(content, BODY["schema"]) for content in by_keys)
    wrong = [keys | {"extra": 1}, keys | {"flight": None}, {"carrier": "YV"}, [keys | ROW], keys | {"flight": [3771]}]
    assert not any(map(valid, [*wrong, *WRONG]))


WRONG = [
    [],
    {},
    "rows",
    {"dataframe_records": []},
    {"dataframe_records": ROW},
    {"dataframe_split": [ROW]},
    {"input_data": TABLE, "dataframe_split": TABLE},
    [ROW | {"distance": 1.5}],
    [ROW | {"distance": "far"}],
    [ROW | {"distance": None}],
    [ROW | {"origin": "XXX"}],
    [ROW | {"extra": 1}],
    [{name: value for name, value in ROW.items() if name != "distance"}],
]


@pytest.mark.parametrize("content", WRONG)
def test_what_the_document_forbids_is_refused_as_it_says(content):
    said = refusal(content)
    assert not fits(content, BODY["schema"]) and fits(said, {"$ref": "#/components/schemas/Refusal"})


def test_an_answer_is_as_told():
    scores = SCORER.score(SCORER.schema.check(read_body(orjson.dumps([ROW, ROW]))))
    answer = {"predictions": SCORER.answer(scores)}
    schema = {"$ref": "#/components/schemas/Answer"}
    assert fits(answer, schema) and not fits({"predictions": [{"False": "1"}]}, schema)
