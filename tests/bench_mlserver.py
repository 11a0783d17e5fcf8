"""The model for MLServer, which loads it by its own interface; the numbers are those of the bundle's scorer."""

from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from mlops_kit.deployment.inference.rows import Rows
from mlops_kit.deployment.inference.scoring import load_scorer


class Flights(MLModel):
    """Rows come as one column a feature."""

    async def load(self) -> bool:
        self.scorer = load_scorer(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        columns = [[None if value != value else value for value in one.data] for one in payload.inputs]
        rows = Rows([one.name for one in payload.inputs], [list(row) for row in zip(*columns, strict=True)])
        scores = self.scorer.score(self.scorer.schema.check(rows))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", np.asarray(scores))])
