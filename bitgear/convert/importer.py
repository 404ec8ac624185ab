"""From a state dict and pictures to a measured master: what ``bitgear import`` does."""

import hashlib
import json
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tqdm import tqdm

import bitgear
from bitgear.bits import MASTER_BITS, WIDTHS, descending
from bitgear.checkpoint import MAX_HEADER_BYTES, is_model_name, write_master
from bitgear.convert.calibrate import calibrate
from bitgear.convert.float_model import FloatModel, read_float_model, read_metadata
from bitgear.engines import create_engine
from bitgear.errors import DataError, HeaderTooLarge, MetadataInvalid, PrecisionMissing
from bitgear.evaluate import Measured
from bitgear.graph import IMAGE
from bitgear.tasks.classify import measure
from bitgear.tasks.datasets import LabelledImages, read_class_names, read_pictures, subset

MAX_METADATA_BYTES = MAX_HEADER_BYTES // 4
"""Of the weights, as JSON: the rest of a master's header is for the graph, the tensors and plans that come later."""


@dataclass(frozen=True)
class ImportOptions:
    """What an import needs to know.

    ``architecture``: None recognises it by the weights' names. ``labels``: file of class names, where the pictures do
    not give them all. ``calibrate``: pictures to calibrate on; accuracy is measured on the others. ``limit``: pictures
    used of all there are, spread evenly. ``central_fraction``: see :func:`~bitgear.tasks.datasets.resize_crop`.
    ``side_px``: side of the input, if not the architecture's customary one. ``seed`` picks the calibration pictures.
    """

    weights: Path
    images: Path
    architecture: str | None = None
    labels: Path | None = None
    calibrate: int = 200
    name: str | None = None
    widths: tuple[int, ...] = WIDTHS
    limit: int | None = None
    central_fraction: float = 1.0
    side_px: int | None = None
    seed: int = 0
    engine: str = "auto"
    threads: int = 2


def import_model(options: ImportOptions, out: Path, *, progress: bool = True) -> dict[str, Any]:
    """Write the master of a float network to ``out``, measured at every width; return the report, ready for JSON.

    Nothing is written unless all of it succeeds. Raises :class:`~bitgear.errors.CheckpointError` for weights that do
    not fit the architecture, :class:`~bitgear.errors.GraphError` for a side of the input that does not, and
    :class:`~bitgear.errors.DataError` for pictures that do not fit the network.
    """
    name = options.name or _name_of(options.weights)
    widths = descending(options.widths)
    if not is_model_name(name):
        raise MetadataInvalid(f"name {name!r} is not 1 to 64 of a-z 0-9 . _ -; give another")
    if MASTER_BITS not in widths:
        raise PrecisionMissing(f"widths {', '.join(map(str, widths))} lack 8, the master's own; add it")
    if not out.parent.is_dir():
        raise DataError(f"folder {out.parent} does not exist; create it first")
    engine = create_engine(options.engine, options.threads)
    model = read_float_model(options.weights, options.architecture, options.side_px)
    # What the file says of itself comes first: it may be copied from another file, whose name and digest it then says.
    weights = {**_metadata(options.weights), "file": options.weights.name, "sha256": _sha256(options.weights)}
    chosen, others = split(_read(options, model, progress), options.calibrate, options.seed)

    started = time.perf_counter()
    with _bar("calibrating", len(model.graph.nodes) * len(widths), "step", progress) as bar:
        calibrated = calibrate(
            model, chosen.images, widths, name=name, labels=chosen.classes, threads=options.threads,
            seed=options.seed, progress=bar.update,
        )  # fmt: skip
    calibration_seconds = time.perf_counter() - started

    with _bar("measuring", len(others.labels) * (1 + len(widths)), "image", progress) as bar:
        session = model.session(options.threads)
        fp32 = measure(lambda pixels: session.run(None, {IMAGE: model.normalise(pixels)})[0], others, bar.update)
        measured: dict[int, Measured] = {}
        for bits in widths:
            started = time.perf_counter()
            derived = engine.derive(calibrated.master, bits)
            encode = calibrated.master.input.encode
            accuracy = measure(lambda pixels: derived.run(encode(pixels)), others, bar.update)  # noqa: B023
            metrics = {"top1": accuracy.top1, "top5": accuracy.top5}
            measured[bits] = Measured(metrics, accuracy.images, time.perf_counter() - started)

    provenance = {
        "method": "post-training calibration",
        "architecture": model.name,
        "weights": weights,
        "data": f"{len(chosen.labels)} pictures of {options.images.name} to calibrate, {len(others.labels)} to measure",
        "seed": options.seed,
        "fp32_top1": fp32.top1,
        "fp32_top5": fp32.top5,
        "versions": {
            "bitgear": bitgear.__version__,
            "numpy": np.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
    }
    seen = replace(calibrated.master.input, central_fraction=options.central_fraction)
    master = replace(
        calibrated.master,
        input=seen,
        accuracy={bits: row.stored for bits, row in measured.items()},
        provenance=provenance,
    )
    write_master(master, out)
    return {
        "model": name,
        "architecture": model.name,
        "parameters": master.parameter_count,
        "master_bytes": out.stat().st_size,
        "weights": weights,
        "images": {
            "source": options.images.name,
            "calibrated": len(chosen.labels),
            "measured": len(others.labels),
            "central_fraction": options.central_fraction,
            "seed": options.seed,
        },
        "engine": engine.name,
        "threads": options.threads,
        "calibration_seconds": calibration_seconds,
        "fp32": asdict(fp32),
        "precisions": {str(bits): row.to_json() for bits, row in measured.items()},
    }


def split(data: LabelledImages, calibrate: int, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Return ``calibrate`` pictures picked at random, and all others; raise :class:`DataError` if none are left."""
    count = len(data.labels)
    if not 0 < calibrate < count:
        raise DataError(
            f"{calibrate} of {count} pictures to calibrate leave none to measure; take fewer (--calibrate) or give more"
        )
    order = np.random.default_rng(seed).permutation(count)
    return subset(data, np.sort(order[:calibrate])), subset(data, np.sort(order[calibrate:]))


def _read(options: ImportOptions, model: FloatModel, progress: bool) -> LabelledImages:
    classes: Sequence[str] | None = None if options.labels is None else read_class_names(options.labels)
    with _bar("reading", None, "image", progress) as bar:
        data = read_pictures(
            options.images, model.input.height_px, classes,
            central_fraction=options.central_fraction, limit=options.limit, progress=bar.update,
        )  # fmt: skip
    outputs = len(model.biases[model.graph.nodes[-1].name])
    if len(data.classes) != outputs:
        where = options.images if options.labels is None else options.labels
        raise DataError(
            f"the network tells {outputs} classes apart, {where} names {len(data.classes)}; "
            "give a file with the name of every class, in the order of the network's outputs (--labels)"
        )
    return data


def _metadata(weights: Path) -> dict[str, str]:
    """Return what a file of weights says of itself; refuse more than a master's header has room for."""
    metadata = read_metadata(weights)
    size = len(json.dumps(metadata))
    if size > MAX_METADATA_BYTES:
        raise HeaderTooLarge(
            f"{weights}: has metadata of {size} bytes, which a master would keep; save the weights with at most "
            f"{MAX_METADATA_BYTES}"
        )
    return metadata


def _bar(what: str, total: int | None, unit: str, progress: bool) -> Any:
    return tqdm(desc=what, total=total, unit=unit, leave=False, disable=not progress)


def _name_of(path: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:64]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
