"""The contenders' networks are the same network."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.networks import Network, dequantised, network
from benchmarks.peers import torch_network
from benchmarks.publish import ROOT
from bitgear import reference
from bitgear.bits import MASTER_BITS
from bitgear.convert.float_model import FloatModel, random_float_model


@pytest.fixture(scope="module")
def shipped() -> Network:
    return network("resnet20-32")


def in_onnxruntime(model: FloatModel, images: np.ndarray) -> np.ndarray:
    answer: np.ndarray = model.session().run(None, {"image": images})[0]
    return answer


def test_the_float_network_of_the_shipped_master_answers_as_its_eight_bits(shipped: Network) -> None:
    with Image.open(ROOT / "examples/cat.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB").resize((32, 32)))[None]
    expected = reference.run(shipped.master, shipped.master.input.encode(pixels), MASTER_BITS)
    answer = in_onnxruntime(dequantised(shipped.master), shipped.model.normalise(pixels))
    assert np.corrcoef(answer.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("architecture", "side_px"), [("resnet18", 64), ("resnet20", 32), ("mobilenet_v1", 64), ("mobilenet_v2", 64)]
)
def test_pytorch_gets_the_network_that_onnx_runtime_gets(architecture: str, side_px: int) -> None:
    torch = pytest.importorskip("torch")
    model = random_float_model(architecture, side_px=side_px, multiplier=0.25)
    images = np.random.default_rng(1).normal(size=(2, 3, side_px, side_px)).astype(np.float32)
    with torch.inference_mode():
        answer = torch_network(model)(torch.from_numpy(images)).numpy()
    expected = in_onnxruntime(model, images)
    np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
