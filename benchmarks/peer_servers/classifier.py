"""What any Python server would do around an engine: JPEG to float, the network, five most probable classes."""

import io
import os

import numpy as np
from PIL import Image

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SCALE = (1 / (255 * STD)).astype(np.float32)[:, None, None]
SHIFT = (-MEAN / STD).astype(np.float32)[:, None, None]
TOP = 5


def onnxruntime(path, threads, batch):  # noqa: ARG001 - a session takes batches of every size
    """Return what runs the network of a file on float32 (N, 3, H, W)."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def openvino(path, threads, batch):
    """Return the same with OpenVINO: compiled for each size of batch, which is faster than for any.

    A worker has one batch at a time, so the hint is latency, which gives all its threads to that one. Threads are not
    pinned, for every worker would pin them to the same cores.
    """
    import openvino as ov

    core = ov.Core()
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }

    def request(size):
        network = core.read_model(path)
        shape = network.input().partial_shape
        shape[0] = size
        network.reshape(shape)
        return core.compile_model(network, "CPU", options).create_infer_request()

    requests = {size: request(size) for size in range(1, batch + 1)}
    return lambda images: requests[len(images)].infer([images], share_inputs=True)[0]


ENGINES = {"ONNX Runtime": onnxruntime, "OpenVINO": openvino}


class Classifier:
    """The network of the file that ``PEER_NETWORK`` names, by the engine ``PEER_ENGINE`` on ``PEER_THREADS`` threads.

    Of batches of at most ``PEER_BATCH`` pictures.
    """

    def __init__(self):
        threads, batch = int(os.environ["PEER_THREADS"]), int(os.environ["PEER_BATCH"])
        self._run = ENGINES[os.environ["PEER_ENGINE"]](os.environ["PEER_NETWORK"], threads, batch)

    @staticmethod
    def decode(content):
        """Return the picture, float32 (3, H, W), of a JPEG file."""
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        return pixels.transpose(2, 0, 1) * SCALE + SHIFT

    def classify(self, images):
        """Return, for each picture of float32 (N, 3, H, W), class ids and probabilities, best first."""
        logits = self._run(images)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = exponentials / exponentials.sum(axis=1, keepdims=True)
        best = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)
        return best, np.take_along_axis(scores, best, 1)
