import random
import threading

import httpx
import pytest

from bitgear import reference
from bitgear.tasks.classify import Prediction, predictions
from tests.serving import PATH, Running, pixels, png

REQUESTS = 1000
CONNECTIONS = 16
IMAGES = 8


def test_a_thousand_requests_at_mixed_widths_each_get_the_answer_of_their_width(server: Running) -> None:
    master = server.master
    expected: dict[tuple[int, int], list[Prediction]] = {}
    for seed in range(IMAGES):
        for bits in master.widths:
            logits = reference.run(master, master.input.encode(pixels(seed)[None]), bits)
            expected[seed, bits] = predictions(logits[0], master.labels, 10)
    contents = [png(seed) for seed in range(IMAGES)]
    rng = random.Random(0)
    jobs = [(rng.randrange(IMAGES), rng.choice(master.widths)) for _ in range(REQUESTS)]
    wrong: list[str] = []

    def work(mine: list[tuple[int, int]]) -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=60, trust_env=False) as client:
            for seed, bits in mine:
                headers = {"Content-Type": "image/png", "Precision": str(bits)}
                body = client.post(PATH, content=contents[seed], headers=headers, params={"top_k": 10}).json()
                want = expected[seed, bits]
                same = (
                    body["precision"]["served"] == bits
                    and [p["class_id"] for p in body["predictions"]] == [p.class_id for p in want]
                    and [p["confidence"] for p in body["predictions"]]
                    == pytest.approx([p.confidence for p in want], abs=1e-6)
                )
                if not same:
                    wrong.append(f"image {seed} at {bits} bits: {body}")

    threads = [threading.Thread(target=work, args=(jobs[i::CONNECTIONS],)) for i in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
