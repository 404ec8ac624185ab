"""Results as members of a JSON object, as the server answers them and ``bitgear predict`` prints: docs/http.md."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bitgear.tasks.classify import Prediction
from bitgear.tasks.detect import Detection
from bitgear.tasks.masks import outlines, run_lengths, to_png
from bitgear.tasks.segment import Segmentation

BOX_DECIMALS = 3

Members = dict[str, Any]
"""Part of an object, as JSON values."""


def of_predictions(found: Sequence[Prediction]) -> Members:
    """Return the most probable classes."""
    return {"predictions": [{**_class(p.class_id, p.class_name), "confidence": p.confidence} for p in found]}


def of_detections(found: Sequence[Detection]) -> Members:
    """Return the objects; boxes are rounded to ``BOX_DECIMALS``."""
    return {
        "detections": [
            {
                **_class(each.class_id, each.class_name),
                "confidence": each.confidence,
                "box": [round(side, BOX_DECIMALS) for side in each.box_xyxy],
            }
            for each in found
        ]
    }


def of_segmentation(found: Segmentation, mask_format: str) -> Members:
    """Return the mask in one of ``MASK_FORMATS``, and the classes that are there."""
    height_px, width_px = found.mask.shape
    return {
        "mask": {"format": mask_format, "width": width_px, "height": height_px, **_MASK_MEMBERS[mask_format](found)},
        "classes": [
            {**_class(class_id, name), "pixels": pixels, "share": pixels / found.mask.size}
            for class_id, name, pixels in found.present
        ],
    }


def _class(class_id: int, name: str) -> Members:
    return {"class": name, "class_id": class_id}


def _png_members(found: Segmentation) -> Members:
    return {"data": base64.b64encode(to_png(found.mask)).decode("ascii")}


def _rle_members(found: Segmentation) -> Members:
    size = list(found.mask.shape)
    return {
        "segments": [
            {**_class(class_id, found.labels[class_id]), "rle": {"size": size, "counts": counts}}
            for class_id, counts in run_lengths(found.mask).items()
        ]
    }


def _polygon_members(found: Segmentation) -> Members:
    return {
        "segments": [
            {**_class(class_id, found.labels[class_id]), "polygons": polygons}
            for class_id, polygons in outlines(found.mask).items()
        ]
    }


_MASK_MEMBERS: Mapping[str, Callable[[Segmentation], Members]] = {
    "png": _png_members,
    "rle": _rle_members,
    "polygon": _polygon_members,
}
MASK_FORMATS = tuple(_MASK_MEMBERS)
