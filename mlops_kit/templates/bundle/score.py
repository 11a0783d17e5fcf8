"Score by Azure Machine Learning's contract: init() once, run(raw_data) for each request."

import json
import os
from pathlib import Path

from mlops_kit.deployment.schema import Refused, read_body
from mlops_kit.deployment.scoring import load_scorer

scorer = None


def init():
    global scorer
    scorer = load_scorer(Path(os.environ.get("AZUREML_MODEL_DIR", Path(__file__).parent)))


def run(raw_data):
    try:
        rows = read_body(raw_data if isinstance(raw_data, bytes) else raw_data.encode())
        scores = scorer.score(scorer.schema.check(rows))
    except Refused as refused:
        return json.dumps(refused.body())
    return json.dumps({"predictions": scorer.answer(scores)})
