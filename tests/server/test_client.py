"""The Python client against a real server: what it reads is what was answered."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitgear_client import (
    AsyncClient,
    BadParameter,
    Client,
    DeadlineExceeded,
    PngMask,
    PolygonMask,
    RateLimited,
    RleMask,
    TaskMismatch,
    Unauthorised,
)
from PIL import Image

from tests.serving import Running, pixels, running

PICTURE = pixels(side_px=40)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, every_task: Running) -> Any:
    """``call(method, *args)`` makes one call with a client of either kind."""
    url = str(every_task.client.base_url)

    def sync_call(method: str, *args: Any, **kwargs: Any) -> Any:
        with Client(url) as client:
            return getattr(client, method)(*args, **kwargs)

    async def async_call(method: str, *args: Any, **kwargs: Any) -> Any:
        async with AsyncClient(url) as client:
            return await getattr(client, method)(*args, **kwargs)

    return sync_call if request.param == "sync" else lambda *args, **kwargs: asyncio.run(async_call(*args, **kwargs))


def test_every_task(call: Any) -> None:
    assert len(call("classify", PICTURE, "tiny", precision=4, top_k=3).predictions) == 3
    found = call(
        "detect", PICTURE, "boxes", precision=4, confidence=1e-6, iou=0.5, max_detections=9, classes=["bag", 3]
    )
    assert len(found.detections) == 9
    assert {detection.class_id for detection in found.detections} <= {2, 3}
    assert (found.image_width_px, found.image_height_px, found.precision.served) == (40, 40, 4)
    segmented = call("segment", PICTURE, "areas", precision=4)
    assert isinstance(segmented.mask, PngMask)
    with Image.open(io.BytesIO(segmented.mask.png)) as image:
        mask = np.asarray(image)
    assert {c.class_id: c.pixels for c in segmented.classes} == {i: (mask == i).sum() for i in np.unique(mask)}
    lengths = call("segment", PICTURE, "areas", precision=4, mask_format="rle").mask
    assert isinstance(lengths, RleMask)
    assert {s.class_id: sum(s.counts[1::2]) for s in lengths.segments} == {
        i: (mask == i).sum() for i in np.unique(mask)
    }
    outlines = call("segment", PICTURE, "areas", precision=4, mask_format="polygon").mask
    assert isinstance(outlines, PolygonMask)
    assert [s.class_id for s in outlines.segments] == np.unique(mask).tolist()


def test_refusals(call: Any) -> None:
    with pytest.raises(TaskMismatch) as mismatch:
        call("detect", PICTURE, "areas")
    assert (mismatch.value.task, mismatch.value.route) == ("segment", "/v1/models/areas/segment")
    for wrong in ({"confidence": float("nan")}, {"iou": 1.1}, {"classes": ["dog"]}, {"classes": []}):
        with pytest.raises(BadParameter) as refused:
            call("detect", PICTURE, "boxes", **wrong)
        assert refused.value.parameter == next(iter(wrong))


def test_ladders(call: Any) -> None:
    assert set(call("ladder", "boxes").rungs[0].accuracy) == {"map50_95", "map50"}
    assert set(call("ladder", "areas").rungs[0].accuracy) == {"miou", "pixel_accuracy"}


def test_controls_of_service(call: Any) -> None:
    result = call("classify", PICTURE, "tiny", precision=4, lenient=True, deadline_ms=60_000, priority=1)
    assert result.precision.requested == "4"
    with pytest.raises(DeadlineExceeded) as late:
        call("classify", PICTURE, "tiny", deadline_ms=0.001)
    assert late.value.stage == "queue"
    with pytest.raises(BadParameter):
        call("segment", PICTURE, "areas", deadline_ms=-1)


def test_a_key_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[me]\nkey = "a-long-key"\nrequests_per_s = 0.001\n')
    with running(tmp_path, keys=file) as server:
        url = str(server.client.base_url)
        with Client(url) as client, pytest.raises(Unauthorised):
            client.classify(PICTURE, "tiny")
        with Client(url, api_key="a-long-key") as client:
            assert client.classify(PICTURE, "tiny").predictions
            with pytest.raises(RateLimited) as limited:  # final at once: the wait exceeds the budget
                client.classify(PICTURE, "tiny")
        assert limited.value.retry_after_s == 1000
