"""What a server with the shipped masters must answer, whatever it runs in."""

from pathlib import Path

import httpx
import pytest

from bitgear.checkpoint import read_master
from bitgear.engines import create_engine
from bitgear.models import shipped_masters
from bitgear.tasks.classify import predictions, preprocess
from bitgear.tasks.pictures import decode_picture
from tests.serving import png

MODEL = "resnet20-cifar10"
WIDTHS = (8, 4, 2)
EXAMPLES = Path(__file__).parents[2] / "examples"


def is_ready(url: str) -> bool:
    """Whether a server answers at ``url`` and is ready."""
    try:
        return httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def check_answers(url: str) -> None:
    """Assert that every picture gets, at each width, what the core computes in this process."""
    pictures = {"image/jpeg": (EXAMPLES / "cat.jpg").read_bytes(), "image/png": png(side_px=32)}
    master = read_master(shipped_masters()[MODEL])
    engine = create_engine()
    with httpx.Client(base_url=url, trust_env=False) as client:
        for width in WIDTHS:
            derived = engine.derive(master, width)
            for media_type, picture in pictures.items():
                headers = {"Content-Type": media_type, "Precision": str(width)}
                answer = client.post(f"/v1/models/{MODEL}/classify", content=picture, headers=headers)
                assert answer.status_code == 200, answer.text
                document = answer.json()
                assert answer.headers["Precision"] == str(width)
                assert document["precision"] == {
                    "requested": str(width), "served": width, "source": "request", "reason": "asked"
                }  # fmt: skip
                logits = derived.run(preprocess(decode_picture(picture), master.input))
                assert document["predictions"] == [
                    {"class": p.class_name, "class_id": p.class_id, "confidence": pytest.approx(p.confidence, abs=1e-6)}
                    for p in predictions(logits[0], master.labels, 5)
                ]
