"""LitServe: python litserve_app.py PORT WORKERS BATCH."""

import base64
import sys

import litserve as ls
import numpy as np
from classifier import Classifier

BATCH_TIMEOUT_SECONDS = 0.002


class Api(ls.LitAPI):
    """JSON with a file in base64 in, five classes out."""

    def setup(self, device):  # noqa: ARG002 - the signature is LitServe's
        self.classifier = Classifier()

    def decode_request(self, request):
        return self.classifier.decode(base64.b64decode(request["image"]))

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        classes, scores = self.classifier.classify(x if x.ndim == 4 else x[None])
        results = list(zip(classes.tolist(), scores.tolist(), strict=True))
        return results if x.ndim == 4 else results[0]

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        classes, scores = output
        return {"predictions": [{"class_id": c, "confidence": s} for c, s in zip(classes, scores, strict=True)]}


if __name__ == "__main__":
    port, workers, batch = map(int, sys.argv[1:])
    api = Api(max_batch_size=batch, batch_timeout=BATCH_TIMEOUT_SECONDS if batch > 1 else 0.0)
    server = ls.LitServer(api, accelerator="cpu", devices=1, workers_per_device=workers, fast_queue=True)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="error", generate_client_file=False)
