"Score by Azure Machine Learning's contract: init() once, run(raw_data) for each request."

import os
from pathlib import Path

from mlops_kit.deployment.inference.forms import read_body
from mlops_kit.deployment.inference.rows import Refused
from mlops_kit.deployment.inference.scoring import Scorer, load_scorer

scorer: Scorer  # Set by init()


def init():
    "Load the model, once."
    global scorer
    scorer = load_scorer(find_bundle(Path(os.environ.get("AZUREML_MODEL_DIR", Path(__file__).parent))))


def find_bundle(place):
    "Find the bundle: Azure puts it into a folder of its own below that of the model."
    return next(iter(sorted(place.rglob("manifest.json")))).parent


def run(raw_data):
    "Answer one request; a refusal has its own status."
    try:
        rows = read_body(raw_data if isinstance(raw_data, bytes) else raw_data.encode())
        scores = scorer.score(scorer.schema.check(rows))
    except Refused as refused:
        return respond(refused.body(), refused.status)
    return {"predictions": scorer.answer(scores)}


def respond(body, status):
    "Answer with a status, where Azure's inference server runs this."
    from azureml_inference_server_http.api.aml_response import AMLResponse

    return AMLResponse(body, status, json_str=True)
