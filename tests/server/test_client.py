"""The Python client against a real server: what it reads is what was answered."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
from bitgear_client import AsyncClient, BadParameter, Client, PngMask, PolygonMask, RleMask, TaskMismatch
from PIL import Image

from tests.serving import Running, pixels

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
