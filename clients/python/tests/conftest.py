"""Answers as docs/http.md shows them, and a clock that only moves when somebody sleeps."""

import json

import pytest

CLASSIFY = {
    "id": "0b6c",
    "model": "resnet20-cifar10",
    "version": "1",
    "image": {"width": 32, "height": 24},
    "predictions": [
        {"class": "cat", "class_id": 3, "confidence": 0.93},
        {"class": "dog", "class_id": 5, "confidence": 0.05},
    ],
    "precision": {"requested": "4", "served": 4, "source": "request", "reason": "asked"},
    "timing_ms": {"queue": 0.02, "decode": 0.2, "switch": 0.0, "infer": 1.1, "post": 0.05, "total": 1.5},
}
COMMON = {name: CLASSIFY[name] for name in ("id", "version", "image", "precision", "timing_ms")}
DETECT = COMMON | {
    "model": "boxes",
    "detections": [
        {"class": "car", "class_id": 2, "confidence": 0.91, "box": [1.5, 2, 30.25, 20.0]},
        {"class": "bus", "class_id": 0, "confidence": 0.3, "box": [0.0, 0.0, 32.0, 24.0]},
    ],
}
SEGMENT = COMMON | {
    "model": "areas",
    "mask": {"format": "png", "width": 32, "height": 24, "data": "iVBORw=="},
    "classes": [{"class": "road", "class_id": 3, "pixels": 768, "share": 1}],
}
RLE = SEGMENT | {
    "mask": {
        "format": "rle",
        "width": 3,
        "height": 2,
        "segments": [{"class": "road", "class_id": 3, "rle": {"size": [2, 3], "counts": [0, 4, 2]}}],
    }
}
POLYGON = SEGMENT | {
    "mask": {
        "format": "polygon",
        "width": 3,
        "height": 2,
        "segments": [{"class": "road", "class_id": 3, "polygons": [[[0, 0], [2, 0], [2, 2], [0, 2]]]}],
    }
}
MODEL = {
    "name": "resnet20-cifar10",
    "version": "1",
    "task": "classify",
    "precisions": [8, 4, 2],
    "default_precision": 8,
    "classes": 10,
    "input": {"height": 32, "width": 48},
}
DETAILS = MODEL | {
    "labels": ["airplane", "automobile"],
    "accuracy": {"8": {"top1": 0.917}, "2": {"top1": 1}},
    "provenance": {"seed": 1, "commit": "abc"},
}
LADDER = {
    "model": "resnet20-cifar10",
    "engine": "onnxruntime",
    "profile": "default",
    "rungs": [
        {
            "precision": 8,
            "mean_bits": 8,
            "offered": True,
            "reason": None,
            "pruned": None,
            "batch_ms": {"fixed": 0.1, "per_image": 1.1},
            "accuracy": {"top1": 0.917},
            "top1": 0.917,
            "resident": True,
            "resident_bytes": 1100000,
            "latency_ms": {"p50": 1.2, "p99": 1.9, "count": 1000},
        },
        {
            "precision": "mixed-2.6",
            "mean_bits": 2.625,
            "offered": False,
            "reason": "floor",
            "pruned": "2 is as fast and as accurate",
            "batch_ms": {"fixed": 0.1, "per_image": 0.6},
            "accuracy": {},
            "top1": None,
            "resident": False,
            "resident_bytes": None,
            "latency_ms": None,
        },
    ],
}


class FakeTime:
    """Stands in for clock, sleep (plain and async) and chance; ``slept_s`` records every sleep."""

    def __init__(self):
        self.now_s = 1000.0
        self.chance = 0.5
        self.slept_s = []

    def clock(self):
        return self.now_s

    def random(self):
        return self.chance

    def sleep(self, wait_s):
        self.slept_s.append(wait_s)
        self.now_s += wait_s

    async def async_sleep(self, wait_s):
        self.sleep(wait_s)


def _copy(value):
    return json.loads(json.dumps(value))


@pytest.fixture
def fake_time():
    return FakeTime()


@pytest.fixture
def classify_json():
    return _copy(CLASSIFY)


@pytest.fixture
def detect_json():
    return _copy(DETECT)


@pytest.fixture
def segment_json():
    return _copy(SEGMENT)


@pytest.fixture
def rle_json():
    return _copy(RLE)


@pytest.fixture
def polygon_json():
    return _copy(POLYGON)


@pytest.fixture
def model_json():
    return _copy(MODEL)


@pytest.fixture
def details_json():
    return _copy(DETAILS)


@pytest.fixture
def ladder_json():
    return _copy(LADDER)
