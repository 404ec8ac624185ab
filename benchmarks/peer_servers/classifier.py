"""What any Python server would do around ONNX Runtime: JPEG to float, the network, five most probable classes."""

import io
import os

import numpy as np
import onnxruntime as ort
from PIL import Image

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SCALE = (1 / (255 * STD)).astype(np.float32)[:, None, None]
SHIFT = (-MEAN / STD).astype(np.float32)[:, None, None]
TOP = 5


class Classifier:
    """The network of the file that ``PEER_NETWORK`` names, on ``PEER_THREADS`` threads."""

    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session = ort.InferenceSession(os.environ["PEER_NETWORK"], options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    @staticmethod
    def decode(content):
        """Return the picture, float32 (3, H, W), of a JPEG file."""
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        return pixels.transpose(2, 0, 1) * SCALE + SHIFT

    def classify(self, images):
        """Return, for each picture of float32 (N, 3, H, W), class ids and probabilities, best first."""
        (logits,) = self._session.run(None, {self._input: images})
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = exponentials / exponentials.sum(axis=1, keepdims=True)
        best = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)
        return best, np.take_along_axis(scores, best, 1)
