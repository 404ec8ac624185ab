"""MLServer's custom runtime: pictures as BYTES, each the base64 of a file."""

import base64

import numpy as np
from classifier import Classifier
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Model(MLModel):
    """JSON of the Open Inference Protocol with files in base64 in, five classes of each out."""

    async def load(self):
        self.classifier = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        files = payload.inputs[0].data.root
        images = np.stack([self.classifier.decode(base64.b64decode(content)) for content in files])
        classes, scores = self.classifier.classify(images)
        outputs = [
            ResponseOutput(name="class_id", datatype="INT64", shape=list(classes.shape), data=classes.ravel().tolist()),
            ResponseOutput(name="confidence", datatype="FP32", shape=list(scores.shape), data=scores.ravel().tolist()),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
