"""The tasks that are served, each described once: what can be asked, what surrounds the network, what is answered.

Routes, OpenAPI and the runtime know nothing of a task but its :class:`Task`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitgear.errors import InputError
from bitgear.inputs import InputRecord
from bitgear.tasks import classify, detect, segment
from bitgear.tasks.detect import DetectOptions
from bitgear.tasks.letterbox import Letterbox, place_picture
from bitgear.tasks.members import MASK_FORMATS, Members, of_detections, of_predictions, of_segmentation
from bitgear.tasks.options import DEFAULT_TOP_K, MAX_DETECTIONS, MAX_NAMES, MAX_TOP_K, class_ids
from bitgear.tasks.pictures import Picture
from server import answers
from server.controls import Control, Controls, by_name, names, one_of, share, whole
from server.errors import BadParameter
from server.precision import PRECISION_CONTROLS

Options = TypeVar("Options")
Place = TypeVar("Place")


@dataclass(frozen=True)
class Task(Generic[Options, Place]):
    """One task as it is served.

    ``metrics``: those of a ladder, the first one being what the task is measured by. ``options`` makes of controls and
    of the model's labels what ``postprocess`` wants, and raises :class:`~server.errors.BadParameter`. ``preprocess``
    gives the codes of a picture, int8 (1, 3, H, W), and where in them the picture lies; ``whole_input`` gives that
    place for a picture that is the input itself. ``postprocess`` gets the network's output for this one picture, that
    place, the labels, the input and the options.
    """

    name: str
    summary: str
    controls: Mapping[str, Control]
    answer: type[answers.InferenceAnswer]
    metrics: tuple[str, ...]
    options: Callable[[Controls, Sequence[str]], Options]
    preprocess: Callable[[Picture, InputRecord], tuple[NDArray[np.int8], Place]]
    whole_input: Callable[[InputRecord], Place]
    postprocess: Callable[[NDArray[np.float32], Place, Sequence[str], InputRecord, Options], Members]


def _top_k(controls: Controls, labels: Sequence[str]) -> int:  # noqa: ARG001 - as every task's options
    return int(controls.get("top_k", DEFAULT_TOP_K))


def _classify_input(picture: Picture, record: InputRecord) -> tuple[NDArray[np.int8], None]:
    return classify.preprocess(picture, record), None


def _no_place(record: InputRecord) -> None:  # noqa: ARG001 - as every task's
    return None


def _whole_letterbox(record: InputRecord) -> Letterbox:
    return Letterbox.of(record.width_px, record.height_px, record)


def _classify_members(
    output: NDArray[np.float32],
    place: None,  # noqa: ARG001 - these two are as every task's
    labels: Sequence[str],
    record: InputRecord,  # noqa: ARG001
    top_k: int,
) -> Members:
    return of_predictions(classify.predictions(output, labels, top_k))


CLASSIFY = Task(
    name="classify",
    summary="Classify one image at the precision asked for.",
    controls={
        **PRECISION_CONTROLS,
        **by_name(
            Control(
                "top_k",
                None,
                whole(1, MAX_TOP_K),
                {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K},
                f"How many classes to return, by default {DEFAULT_TOP_K}; never more than there are.",
            )
        ),
    },
    answer=answers.ClassifyAnswer,
    metrics=("top1", "top5"),
    options=_top_k,
    preprocess=_classify_input,
    whole_input=_no_place,
    postprocess=_classify_members,
)


def _detect_options(controls: Controls, labels: Sequence[str]) -> DetectOptions:
    wanted: dict[str, Any] = {
        name: controls[name] for name in ("confidence", "iou", "max_detections") if name in controls
    }
    if "classes" in controls:
        try:
            wanted["classes"] = class_ids(controls["classes"], labels)
        except InputError as error:
            raise BadParameter(str(error), "classes") from error
    return DetectOptions(**wanted)


def _detect_members(
    output: NDArray[np.float32], place: Letterbox, labels: Sequence[str], record: InputRecord, options: DetectOptions
) -> Members:
    return of_detections(detect.detections(output, place, labels, record, options))


_DETECT_DEFAULTS = DetectOptions()
_SHARE_SCHEMA = {"type": "number", "minimum": 0, "maximum": 1}

DETECT = Task(
    name="detect",
    summary="Detect objects in one image at the precision asked for.",
    controls={
        **PRECISION_CONTROLS,
        **by_name(
            Control(
                "confidence",
                None,
                share,
                _SHARE_SCHEMA,
                f"Least confidence of a detection, by default {_DETECT_DEFAULTS.confidence}.",
            ),
            Control(
                "iou",
                None,
                share,
                _SHARE_SCHEMA,
                "Of two boxes of one class that overlap by more than this, the less confident one is left out; "
                f"by default {_DETECT_DEFAULTS.iou}.",
            ),
            Control(
                "max_detections",
                None,
                whole(1, MAX_DETECTIONS),
                {"type": "integer", "minimum": 1, "maximum": MAX_DETECTIONS},
                "How many detections to return at most, the most confident ones; "
                f"by default {_DETECT_DEFAULTS.max_detections}.",
            ),
            Control(
                "classes",
                None,
                names,
                {"type": "string", "minLength": 1},
                "Names or ids of the classes to look for, separated by commas; in JSON a list, too.",
                {"type": "array", "items": {"type": ["string", "integer"]}, "minItems": 1, "maxItems": MAX_NAMES},
            ),
        ),
    },
    answer=answers.DetectAnswer,
    metrics=("map50_95", "map50"),
    options=_detect_options,
    preprocess=place_picture,
    whole_input=_whole_letterbox,
    postprocess=_detect_members,
)


def _mask_format(controls: Controls, labels: Sequence[str]) -> str:  # noqa: ARG001 - as every task's options
    return str(controls.get("mask_format", MASK_FORMATS[0]))


def _segment_members(
    output: NDArray[np.float32],
    place: Letterbox,
    labels: Sequence[str],
    record: InputRecord,  # noqa: ARG001 - as every task's
    mask_format: str,
) -> Members:
    return of_segmentation(segment.segmentation(output, place, labels), mask_format)


SEGMENT = Task(
    name="segment",
    summary="Tell the class of every pixel of one image at the precision asked for.",
    controls={
        **PRECISION_CONTROLS,
        **by_name(
            Control(
                "mask_format",
                None,
                one_of(*MASK_FORMATS),
                {"type": "string", "enum": list(MASK_FORMATS)},
                "png, the default: base64 of a picture of ids; rle: run lengths of COCO; polygon: outer outlines.",
            )
        ),
    },
    answer=answers.SegmentAnswer,
    metrics=("miou", "pixel_accuracy"),
    options=_mask_format,
    preprocess=place_picture,
    whole_input=_whole_letterbox,
    postprocess=_segment_members,
)

TASKS: Mapping[str, Task[Any, Any]] = {task.name: task for task in (CLASSIFY, DETECT, SEGMENT)}
