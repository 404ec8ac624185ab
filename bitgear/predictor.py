"""A model in a program: one object, which classifies, detects or segments. docs/library.md shows it."""

import os
from collections.abc import Sequence

from bitgear.checkpoint import Master, read_master
from bitgear.engines import DerivedModel, ModelCache, create_engine
from bitgear.errors import BitgearError, InputError
from bitgear.models import find_master
from bitgear.tasks import classify, detect, segment
from bitgear.tasks.classify import Prediction
from bitgear.tasks.detect import Detection, DetectOptions
from bitgear.tasks.letterbox import place_picture
from bitgear.tasks.options import DEFAULT_TOP_K, class_ids
from bitgear.tasks.pictures import ImageInput, as_picture
from bitgear.tasks.segment import Segmentation

__all__ = ["BitgearError", "Detection", "ImageInput", "Prediction", "Predictor", "Segmentation", "load"]

KEPT_BYTES = 256 * 1024**2
"""Of derived models: those used longest ago give way, and are derived anew when they are asked for."""


def load(model: str | os.PathLike[str], *, engine: str = "auto", threads: int = 1) -> "Predictor":
    """Return the predictor of a shipped master's name or of a master's path.

    ``engine``: ``auto``, ``native``, ``onnxruntime`` or ``reference``, with equal answers. ``threads``: of one call.

    Raises :class:`~bitgear.errors.ModelNotFound`, :class:`~bitgear.errors.CheckpointError` for a file that is no sound
    master, and :class:`~bitgear.errors.EngineUnavailable`.
    """
    return Predictor(str(find_master(os.fspath(model)).absolute()), engine, threads)


class Predictor:
    """A master and an engine: made by :func:`load`, used by any number of threads, pickled as path, engine and threads.

    ``master`` says what the model is: ``name``, ``task``, ``labels``, ``precisions``.

    ``image`` is anything of :data:`~bitgear.tasks.pictures.ImageInput`: a path, the bytes of a JPEG, PNG or WebP file,
    a uint8 array (H, W, 3) RGB or (H, W) grey, or a Pillow image. ``precision`` is a width from 2 to 8, ``"w8a7"``, or
    the name of a plan; None: the highest width.

    All methods raise :class:`~bitgear.errors.InputError` for a model of another task, for an array that is no picture
    and for an option out of its range, :class:`~bitgear.errors.ImageError` for bytes that are no picture,
    :class:`~bitgear.errors.SystemRefused` for a file that cannot be read, :class:`~bitgear.errors.PrecisionError` for a
    precision that the model does not offer, and what the engine raises: all of them are a ``BitgearError``.
    """

    def __init__(self, path: str, engine: str, threads: int) -> None:
        self._made_of = path, engine, threads
        self.master: Master = read_master(path)
        self._models = ModelCache(create_engine(engine, threads), KEPT_BYTES)

    def __reduce__(self) -> tuple[type["Predictor"], tuple[str, str, int]]:
        return Predictor, self._made_of

    def __repr__(self) -> str:
        path, engine, threads = self._made_of
        return f"bitgear.load({path!r}, engine={engine!r}, threads={threads})"

    def classify(
        self, image: ImageInput, precision: int | str | None = None, *, top_k: int = DEFAULT_TOP_K
    ) -> list[Prediction]:
        """Return the ``top_k`` most probable classes, 1 to 1000 of them and never more than there are, best first."""
        model = self._model("classify", precision)
        output = model.run(classify.preprocess(as_picture(image), self.master.input))
        return classify.predictions(output[0], self.master.labels, top_k)

    def detect(
        self,
        image: ImageInput,
        precision: int | str | None = None,
        *,
        confidence: float = DetectOptions.confidence,
        iou: float = DetectOptions.iou,
        max_detections: int = DetectOptions.max_detections,
        classes: Sequence[int | str] | None = None,
    ) -> list[Detection]:
        """Return the objects, best first, their boxes in pixels of the picture.

        ``confidence``: the least, 0 to 1. ``iou``: of two boxes of a class that overlap by more, 0 to 1, the less
        confident one is left out. ``max_detections``: 1 to 1000. ``classes``: names or ids to look for; None: all.
        """
        model = self._model("detect", precision)
        wanted = None if classes is None else class_ids(classes, self.master.labels)
        options = DetectOptions(confidence, iou, max_detections, wanted)
        codes, letterbox = place_picture(as_picture(image), self.master.input)
        return detect.detections(model.run(codes)[0], letterbox, self.master.labels, self.master.input, options)

    def segment(self, image: ImageInput, precision: int | str | None = None) -> Segmentation:
        """Return the class of every pixel of the picture."""
        model = self._model("segment", precision)
        codes, letterbox = place_picture(as_picture(image), self.master.input)
        return segment.segmentation(model.run(codes)[0], letterbox, self.master.labels)

    def _model(self, task: str, precision: int | str | None) -> DerivedModel:
        if self.master.task != task:
            raise InputError(
                f"{task}() is not for model {self.master.name!r}, whose task is {self.master.task}; call "
                f"{self.master.task}()"
            )
        widest = max(self.master.widths)
        return self._models.get(self.master, self.master.plan(widest if precision is None else precision))
