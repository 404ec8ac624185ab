"""The master checkpoint: one safetensors file that holds everything a model needs at every width.

``docs/format.md`` defines the file. Reading validates everything before any tensor is allocated, then reads them
into memory: what becomes of the file afterwards does not matter. Writing goes to a temporary sibling that replaces the
target at the end.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from bitgear.bits import MASTER_BITS, WIDTHS, Plan, check_bits, is_plan_name
from bitgear.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointNotFound,
    CheckpointTruncated,
    GraphError,
    HeaderInvalid,
    HeaderTooLarge,
    MasterChanged,
    MetadataInvalid,
    NotAMaster,
    PrecisionError,
    PrecisionMissing,
    PrecisionNotOffered,
    TensorDtype,
    TensorMissing,
    TensorShape,
    TensorUnexpected,
    ValueInvalid,
    VersionUnsupported,
    quoted,
)
from bitgear.files import locked, open_regular, write_atomically
from bitgear.graph import Conv, Graph, Linear, Shape
from bitgear.inputs import MAX_SCALE, MIN_SCALE, InputRecord
from bitgear.plans import (
    BatchNorm,
    NamedPlan,
    Own,
    check_own,
    check_plans,
    finite_metrics,
    from_json,
    mean_bits,
    scale_names,
    scales_name,
    tensor_name,
    tensor_shapes,
    to_json,
)

FORMAT = "bitgear-master"
VERSION = 4
"""The newest version that is read. A file is written in the lowest that holds it: 1 without named plans, 2 with plans,
3 with scales of a plan's own, 4 with a central fraction."""
TASKS = ("classify", "detect", "segment")
EXTRA_CHANNELS: Mapping[str, int] = {"detect": 4}
"""Channels of the output that stand for no class: the four sides of a box."""

DATA_DIGEST = "data_sha256"
"""Metadata entry, which may be missing: SHA-256 of all bytes behind the header, in lower-case hexadecimal."""

MAX_HEADER_BYTES = 4 * 1024 * 1024
"""A hundred times what a network of fifty layers needs. Parsed, nested lists take up to forty times their bytes."""

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "I8": np.dtype(np.int8),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}


@dataclass(frozen=True)
class TensorSpec:
    """What the graph prescribes for one tensor: safetensors dtype, shape, and whether its values must be positive.

    ``per_width``: the first axis has a row for each width. A ``shape`` of (-1,) stands for one scale or one a channel.
    """

    dtype: str
    shape: tuple[int, ...]
    positive: bool = False
    per_width: bool = False


@dataclass(frozen=True, eq=False)
class Master:
    """A model as stored: int8 weights, scales, batch-norm parameters per width, and what is known about it.

    ``task``: one of :data:`TASKS`; it decides what the output means (docs/format.md). ``tensors`` are read-only arrays
    by name. ``accuracy`` maps a width to metrics such as ``{"top1": 0.92, "images": 10000}``. ``plans``: what it offers
    beside the widths. ``sensitivities``: by node name, the trace of the Hessian of the loss with respect to the layer's
    float weights, divided by their number; empty, or with a value for every searchable convolution at least.
    ``digest``: SHA-256 of the file that it was read from, in hexadecimal; empty if it was made in memory. Two masters
    are the same only if they are the same object.
    """

    name: str
    task: str
    graph: Graph = field(repr=False)
    input: InputRecord
    labels: tuple[str, ...] = field(repr=False)
    widths: tuple[int, ...]
    tensors: Mapping[str, NDArray[Any]] = field(repr=False)
    accuracy: Mapping[int, Mapping[str, float]] = field(default_factory=dict, repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    plans: tuple[NamedPlan, ...] = field(default=(), repr=False)
    sensitivities: Mapping[str, float] = field(default_factory=dict, repr=False)
    digest: str = ""

    @property
    def version(self) -> str:
        """Which file it was read from: the first twelve digits of :attr:`digest`."""
        return self.digest[:12]

    def row(self, bits: int) -> int:
        """Return the row of a width in per-width tensors."""
        return self.widths.index(bits)

    @cached_property
    def precisions(self) -> Mapping[str, Plan]:
        """What is offered, by name: the widths, highest first, then the named plans, those of most bits first."""
        plans = sorted(self.plans, key=lambda each: (-mean_bits(self.graph, each.plan), each.name))
        return {str(bits): Plan.uniform(bits) for bits in self.widths} | {each.name: each.plan for each in plans}

    def plan(self, precision: int | str) -> Plan:
        """Return the plan of a width, or of a precision as it is written: ``4``, ``w8a7``, or a plan's name.

        Raises :class:`~bitgear.errors.PrecisionNotOffered`, which names those that are offered, or
        :class:`~bitgear.errors.PrecisionError` for what no precision can be written as.
        """
        name = precision.strip(" \t") if isinstance(precision, str) else str(check_bits(precision))
        if name in self.precisions:
            return self.precisions[name]
        if is_plan_name(name):
            raise PrecisionNotOffered(name, self.precisions, self.name)
        try:
            plan = Plan.parse(name)
        except PrecisionError as error:
            raise PrecisionError(f"{error}, nor does it name a plan of model {self.name!r}") from error
        if not plan.widths <= set(self.widths):
            raise PrecisionNotOffered(name, self.precisions, self.name)
        return plan

    def metrics(self, precision: str) -> Mapping[str, float]:
        """Return what was measured at one of :attr:`precisions`, by metric; empty if nothing was.

        Raises ``KeyError`` for any other name.
        """
        if precision.isdecimal():
            return self.accuracy.get(int(precision), {})
        return {each.name: each.accuracy for each in self.plans}[precision]

    def batch_norm(self, plan: Plan) -> Mapping[str, BatchNorm] | None:
        """Return the batch norm that a named plan of these widths brings, by convolution; None: the rows serve."""
        return self._batch_norms.get(plan)

    @cached_property
    def _batch_norms(self) -> Mapping[Plan, Mapping[str, BatchNorm]]:
        return {each.plan: each.batch_norm for each in self.plans if each.batch_norm is not None}

    def scale(self, name: str, bits: int, plan: Plan) -> np.float32:
        """Return a scale of activations or residuals by its tensor's name: the plan's own, or that of the width."""
        own = self._scales.get(plan)
        return np.float32(self.tensors[name][self.row(bits)] if own is None else own[name])

    @cached_property
    def _scales(self) -> Mapping[Plan, Mapping[str, np.float32]]:
        return {each.plan: each.scales for each in self.plans if each.scales is not None}

    def with_plans(self, plans: Iterable[NamedPlan]) -> "Master":
        """Return the master with these plans too, in place of those of their names. All else is the same object.

        Raises what :func:`~bitgear.plans.check_plans` and :func:`~bitgear.plans.check_own` raise.
        """
        added = tuple(plans)
        names = {each.name for each in added}
        together = (*(each for each in self.plans if each.name not in names), *added)
        check_plans(together, self.graph, self.widths)
        for each in added:
            check_own(each, self.graph)
        return replace(self, plans=together, digest="")

    def with_accuracy(self, measured: Mapping[str, Mapping[str, float]]) -> "Master":
        """Return the master with what was measured at some of its :attr:`precisions`, in place of what it knew."""
        widths = {int(name): dict(metrics) for name, metrics in measured.items() if name.isdecimal()}
        plans = tuple(replace(each, accuracy=measured.get(each.name, each.accuracy)) for each in self.plans)
        return replace(self, accuracy={**self.accuracy, **widths}, plans=plans, digest="")

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of every value of the graph, without the batch."""
        return self.graph.shapes((3, self.input.height_px, self.input.width_px))

    @property
    def parameter_count(self) -> int:
        """Number of weights, biases, and one gain and bias for each batch-norm channel."""
        count = 0
        for node in self.graph.nodes:
            if isinstance(node, Conv):
                count += self.tensors[f"{node.name}.weight"].size + 2 * node.channels
            elif isinstance(node, Linear):
                count += self.tensors[f"{node.name}.weight"].size + node.channels
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, those of the plans included."""
        held = [self.tensors, *(each.tensors for each in self.plans)]
        return sum(tensor.nbytes for tensors in held for tensor in tensors.values())


def tensor_specs(graph: Graph, record: InputRecord, width_count: int) -> dict[str, TensorSpec]:
    """Return the tensors that a master of this graph holds beside those of its plans, by name.

    Raises :class:`GraphError` on impossible shapes.
    """
    shapes = graph.shapes((3, record.height_px, record.width_px))
    specs: dict[str, TensorSpec] = {}
    per_width = TensorSpec("F32", (width_count,), positive=True, per_width=True)
    for node in graph.nodes:
        if isinstance(node, Conv):
            specs[f"{node.name}.weight"] = TensorSpec(
                "I8", (node.channels, shapes[node.input][0] // node.groups, node.kernel, node.kernel)
            )
            specs[f"{node.name}.weight_scale"] = TensorSpec("F32", (-1,), positive=True)
            for part in ("gain", "bias"):
                specs[f"{node.name}.{part}"] = TensorSpec("F16", (width_count, node.channels), per_width=True)
        elif isinstance(node, Linear):
            specs[f"{node.name}.weight"] = TensorSpec("I8", (node.channels, shapes[node.input][0]))
            specs[f"{node.name}.weight_scale"] = TensorSpec("F32", (-1,), positive=True)
            specs[f"{node.name}.bias"] = TensorSpec("F32", (node.channels,))
    return specs | dict.fromkeys(scale_names(graph), per_width)


def read_master(path: str | os.PathLike[str]) -> Master:
    """Return the master in a file, validated in full, its tensors in memory of this process.

    Raises a subclass of :class:`~bitgear.errors.CheckpointError` or :class:`~bitgear.errors.GraphError` for whatever
    is wrong; the message begins with the path.
    """
    path = Path(path)
    with _named(path):
        return _read(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Begin messages about a file with its path."""
    try:
        yield
    except (CheckpointError, GraphError) as error:
        raise type(error)(f"{_shown(path)}: {error}") from error


def _shown(path: Path) -> str:
    """Return a path as a message can carry it: bytes of its name that are no UTF-8 are halves of surrogate pairs."""
    return str(path).encode(errors="backslashreplace").decode()


def _open(path: Path) -> BufferedReader:
    try:
        return open_regular(path)
    except (OSError, ValueError) as error:  # a ValueError says that no path is written like this
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointNotFound(f"cannot be opened: {reason}; give the path of a .safetensors file") from error


def _read(path: Path) -> Master:
    try:
        with _open(path) as file:
            before = os.fstat(file.fileno())
            size = before.st_size
            header = _read_header(file, size)
            described = _describe(header.metadata)
            specs = _specs(described)
            _check_entries(header.entries, specs, len(described.master.widths), size - header.data_start)
            # Not mapped: whoever writes over the file in place would change or end a server that has it open.
            content = bytearray(size)
            file.seek(0)
            read_bytes = file.readinto(content)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise CheckpointNotFound(f"cannot be read: {error.strerror}; give the path of a .safetensors master") from error
    except MemoryError as error:
        raise CheckpointError(f"finds no memory for its {size} bytes; give more, or a smaller master") from error
    if read_bytes < size or (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
        raise CheckpointTruncated("was written to while it was read; rename a whole file to this name instead")
    view = memoryview(content).toreadonly()
    tensors: dict[str, NDArray[Any]] = {}
    data = view[header.data_start :]
    _check_digest(header.metadata, data)
    for name, entry in header.entries.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    _check_values(tensors, specs)
    graph = described.master.graph
    plans = tuple(_with_own(plan, own, tensors, graph) for plan, own in described.plans)
    master = replace(described.master, tensors=tensors, plans=plans, digest=hashlib.sha256(view).hexdigest())
    version = header.metadata["version"]
    if int(version) < int(_version(master)):
        raise MetadataInvalid(f"metadata entry 'version' is {version}; what the file holds is of {_version(master)}")
    return master


def _check_digest(metadata: Mapping[str, str], data: memoryview) -> None:
    said = metadata.get(DATA_DIGEST)
    if said is not None and said != (found := hashlib.sha256(data).hexdigest()):
        raise CheckpointCorrupt(
            f"holds other tensors than were written: their SHA-256 begins with {found[:12]}, and metadata entry "
            f"{DATA_DIGEST!r} says {quoted(said[:12])}; copy the file again"
        )


def _with_own(plan: NamedPlan, own: Own, tensors: dict[str, NDArray[Any]], graph: Graph) -> NamedPlan:
    """Return a plan with what it has of its own, which leaves the tensors."""
    if own.batch_norm:
        norms = {
            conv.name: BatchNorm(*(tensors.pop(tensor_name(plan.name, conv.name, part)) for part in ("gain", "bias")))
            for conv in graph.convs
        }
        plan = replace(plan, batch_norm=norms)
    if own.scales:
        scales = tensors.pop(scales_name(plan.name))
        plan = replace(plan, scales=dict(zip(scale_names(graph), scales, strict=True)))
    return plan


def read_name(path: str | os.PathLike[str]) -> str:
    """Return the name that the master in a file gives itself; the rest of the file is not looked at.

    Raises a subclass of :class:`~bitgear.errors.CheckpointError` for a file that is no master.
    """
    path = Path(path)
    with _named(path):
        try:
            with _open(path) as file:
                header = _read_header(file, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise CheckpointNotFound(f"cannot be read: {error.strerror}") from error
        return _name(header.metadata)


class _Header(NamedTuple):
    """What stands before the tensors: ours to read, where each tensor lies, and the byte from which that counts."""

    metadata: dict[str, str]
    entries: dict[str, dict[str, Any]]
    data_start: int


def _read_header(file: BufferedReader, size: int) -> _Header:
    prefix = file.read(8)
    if len(prefix) < 8:
        raise CheckpointTruncated(f"has {size} bytes; a safetensors file begins with 8 bytes of header length")
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER_BYTES:
        raise HeaderTooLarge(f"declares a header of {length} bytes; the limit is {MAX_HEADER_BYTES}")
    if 8 + length > size:
        raise CheckpointTruncated(f"ends after {size} bytes inside the header, which needs {8 + length}")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise HeaderInvalid(f"the header begins with {text[:8]!r}; expected the brace of a JSON object")
    try:
        # Decoded here, for of bytes the parser guesses the encoding, while other readers know UTF-8 alone.
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise HeaderInvalid(f"the header is not JSON in UTF-8: {error}") from error
    return _Header(*_split_header(header), 8 + length)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _split_header(header: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise NotAMaster("is a safetensors file, but its metadata do not say that it is a bitgear master")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderInvalid("a metadata value is not a string")
    entries = {name: value for name, value in header.items() if name != "__metadata__"}
    for name, entry in entries.items():
        valid = (
            isinstance(entry, dict)
            and isinstance(entry.get("dtype"), str)
            and _whole_numbers(entry.get("shape"))
            and _whole_numbers(entry.get("data_offsets"))
            and len(entry["data_offsets"]) == 2
        )
        if not valid:
            raise HeaderInvalid(f"the entry of tensor {quoted(name)} lacks a dtype, a shape or two offsets")
    return metadata, entries


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)


class _Described(NamedTuple):
    """What metadata say: a master without tensors, and its plans without what they have of their own, and what."""

    master: Master
    plans: list[tuple[NamedPlan, Own]]


def _describe(metadata: Mapping[str, str]) -> _Described:
    _check_version(metadata.get("version", ""))
    name = _name(metadata)
    task = metadata.get("task")
    if task not in TASKS:
        raise MetadataInvalid(f"metadata entry 'task' is {quoted(task)}; this version knows {', '.join(TASKS)}")
    graph = Graph.from_json(_json(metadata, "graph"))
    record = _input(metadata, task)
    labels = _labels(metadata, task, graph.shapes((3, record.height_px, record.width_px))[graph.nodes[-1].name])
    widths = _widths(metadata)
    plans = _plans(metadata, graph, widths)
    accuracy = _accuracy(_json(metadata, "accuracy"), widths)
    provenance = _object(_json(metadata, "provenance"), "provenance")
    sensitivities = _sensitivities(metadata, graph)
    return _Described(
        Master(name, task, graph, record, labels, widths, {}, accuracy, provenance, sensitivities=sensitivities), plans
    )


def _specs(described: _Described) -> dict[str, TensorSpec]:
    """Return all tensors that a file holds, those of its plans included, by name."""
    graph = described.master.graph
    specs = tensor_specs(graph, described.master.input, len(described.master.widths))
    for plan, own in described.plans:
        if own.batch_norm:
            specs |= {name: TensorSpec("F16", shape) for name, shape in tensor_shapes(plan.name, graph).items()}
        if own.scales:
            specs[scales_name(plan.name)] = TensorSpec("F32", (len(scale_names(graph)),), positive=True)
    return specs


def _check_version(version: str) -> None:
    if not (version.isascii() and version.isdecimal() and len(version) <= 9 and version[0] != "0"):
        raise MetadataInvalid(f"metadata entry 'version' is {quoted(version)}; expected a whole number from 1")
    if int(version) > VERSION:
        raise VersionUnsupported(f"has format version {version}; this bitgear reads up to {VERSION}; upgrade bitgear")


def _input(metadata: Mapping[str, str], task: str) -> InputRecord:
    try:
        record = InputRecord.from_json(_json(metadata, "input"))
    except ValueError as error:
        raise MetadataInvalid(f"metadata entry 'input': {error}") from error
    if task == "classify" and record.height_px != record.width_px:
        raise MetadataInvalid(
            f"metadata entry 'input': {record.width_px} x {record.height_px} pixels; classification needs a square"
        )
    if task != "classify" and record.central_fraction != 1:
        raise MetadataInvalid("metadata entry 'input': central_fraction is for classification; leave it out")
    return record


def _labels(metadata: Mapping[str, str], task: str, output: Shape) -> tuple[str, ...]:
    labels = _json(metadata, "labels")
    if len(output) != (1 if task == "classify" else 3):
        expected = "(C,)" if task == "classify" else "(C, H, W)"
        raise MetadataInvalid(
            f"the graph's output has shape {output}; a master to {task} makes one of shape {expected}"
        )
    names = output[0] - EXTRA_CHANNELS.get(task, 0)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels) or len(labels) != names:
        raise MetadataInvalid(
            f"metadata entry 'labels' must be a list of {names} strings: a master to {task} makes an output of "
            f"shape {output}"
        )
    return tuple(labels)


def _widths(metadata: Mapping[str, str]) -> tuple[int, ...]:
    widths = _json(metadata, "widths")
    if not isinstance(widths, list) or any(width not in WIDTHS or type(width) is not int for width in widths):
        raise MetadataInvalid("metadata entry 'widths' must be a list of numbers from 2 to 8")
    if MASTER_BITS not in widths or widths != sorted(set(widths), reverse=True):
        raise PrecisionMissing(
            f"metadata entry 'widths' is {quoted(widths)}; expected 8 and lower widths once each, highest first"
        )
    return tuple(widths)


def _plans(metadata: Mapping[str, str], graph: Graph, widths: Sequence[int]) -> list[tuple[NamedPlan, Own]]:
    """Return the plans without what they have of their own, and what that is."""
    if "plans" not in metadata:
        return []
    plans = [from_json(name, value) for name, value in _object(_json(metadata, "plans"), "plans").items()]
    check_plans([plan for plan, _ in plans], graph, widths)
    return plans


def _sensitivities(metadata: Mapping[str, str], graph: Graph) -> dict[str, float]:
    if "sensitivities" not in metadata:
        return {}
    value = _object(_json(metadata, "sensitivities"), "sensitivities")
    if not finite_metrics(value):
        raise MetadataInvalid("metadata entry 'sensitivities' must be an object of finite numbers")
    known = {node.name for node in graph.nodes if isinstance(node, Conv | Linear)}
    for name in value:
        if name not in known:
            raise MetadataInvalid(f"metadata entry 'sensitivities' names {quoted(name)}, which has no weights")
    for conv in graph.searchable:
        if conv.name not in value:
            raise MetadataInvalid(
                f"metadata entry 'sensitivities' lacks {conv.name!r}; give all searchable layers or none"
            )
    return value


def _name(metadata: Mapping[str, str]) -> str:
    name = metadata.get("name", "")
    if not is_model_name(name):
        raise MetadataInvalid(f"metadata entry 'name' is {quoted(name)}; expected 1 to 64 of a-z 0-9 . _ -")
    return name


def _json(metadata: Mapping[str, str], name: str) -> Any:
    if name not in metadata:
        raise MetadataInvalid(f"metadata entry {name!r} is missing")
    try:
        value = json.loads(metadata[name], object_pairs_hook=_no_duplicates)
        # What JSON cannot carry, NaN and halves of surrogate pairs, would fail only when an answer quotes it.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MetadataInvalid(f"metadata entry {name!r} is not JSON: {error}") from error
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MetadataInvalid(f"metadata entry {name!r} must be an object")
    return value


def _accuracy(value: Any, widths: Sequence[int]) -> dict[int, dict[str, float]]:
    table = _object(value, "accuracy")
    for width, metrics in table.items():
        if width not in map(str, widths) or not finite_metrics(metrics):
            raise MetadataInvalid(
                f"metadata entry 'accuracy' has no finite metrics for an offered width at {quoted(width)}"
            )
    return {int(width): metrics for width, metrics in table.items()}


def _check_entries(
    entries: Mapping[str, dict[str, Any]], specs: Mapping[str, TensorSpec], width_count: int, data_bytes: int
) -> None:
    for name, spec in specs.items():
        if name not in entries:
            raise TensorMissing(f"tensor {name!r} is missing")
        dtype, shape = entries[name]["dtype"], tuple(entries[name]["shape"])
        if dtype != spec.dtype:
            raise TensorDtype(f"tensor {name!r} has dtype {quoted(dtype)}; expected {spec.dtype}")
        if spec.per_width and len(shape) == len(spec.shape) and shape[1:] == spec.shape[1:] and shape[0] != width_count:
            raise PrecisionMissing(f"tensor {name!r} has {shape[0]} rows for {width_count} widths")
        if spec.shape == (-1,):
            channels = specs[name.removesuffix("_scale")].shape[0]
            if shape not in ((1,), (channels,)):
                raise TensorShape(f"tensor {name!r} has shape {quoted(shape)}; expected (1,) or ({channels},)")
        elif shape != spec.shape:
            raise TensorShape(f"tensor {name!r} has shape {quoted(shape)}; expected {spec.shape}")
    for name in entries:
        if name not in specs:
            raise TensorUnexpected(f"tensor {quoted(name)} is not used by the graph")
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        size = math.prod(entry["shape"]) * _DTYPES[entry["dtype"]].itemsize
        if begin != position or end - begin != size:
            raise HeaderInvalid(f"tensor {name!r} lies at {begin}..{end}; expected {position}..{position + size}")
        position = end
    if position > data_bytes:
        raise CheckpointTruncated(f"holds {data_bytes} bytes of tensors; the header declares {position}")
    if position < data_bytes:
        raise HeaderInvalid(f"{data_bytes - position} bytes follow the last tensor")


def _check_values(tensors: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec]) -> None:
    for name, spec in specs.items():
        if spec.dtype == "I8":
            continue
        if not np.isfinite(tensors[name]).all():
            raise ValueInvalid(f"tensor {name!r} holds a NaN or an infinite value")
        if spec.positive and not ((tensors[name] >= MIN_SCALE) & (tensors[name] <= MAX_SCALE)).all():
            raise ValueInvalid(f"tensor {name!r} holds a scale outside {MIN_SCALE:.3g} .. {MAX_SCALE:.3g}")


def is_model_name(name: str) -> bool:
    """Return whether ``name`` is 1 to 64 of a-z, 0-9, dot, underscore, hyphen, first a letter or digit, no two dots."""
    allowed = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
    return 1 <= len(name) <= 64 and set(name) <= allowed and name[0] not in "._-" and ".." not in name


def write_master(master: Master, path: str | os.PathLike[str]) -> None:
    """Write a master: the same master gives the same bytes. The file appears complete or not at all.

    Raises :class:`~bitgear.errors.CheckpointError` or :class:`~bitgear.errors.GraphError` if what would be written
    could not be read back, and the message begins with ``path`` where that is found by reading; nothing is left behind.
    """
    path = Path(path)
    metadata = {
        "format": FORMAT,
        "version": _version(master),
        "name": master.name,
        "task": master.task,
        "graph": _dump(master.graph.to_json()),
        "input": _dump(master.input.to_json()),
        "labels": _dump(list(master.labels)),
        "widths": _dump(list(master.widths)),
        "accuracy": _dump({str(width): dict(metrics) for width, metrics in master.accuracy.items()}),
        "provenance": _dump(dict(master.provenance)),
    }
    held = dict(master.tensors)
    if master.plans:
        check_plans(master.plans, master.graph, master.widths)  # an object of the metadata could not hold some mistakes
        metadata["plans"] = _dump({each.name: to_json(each) for each in master.plans})
    if master.sensitivities:
        metadata["sensitivities"] = _dump(dict(master.sensitivities))
    for each in master.plans:
        held |= each.tensors
    tensors = {name: np.ascontiguousarray(held[name]) for name in sorted(held)}
    content = _with_metadata(save(tensors), metadata)
    with _named(path):  # nobody asked for the sibling that is checked
        write_atomically(path, content, check=_read)


def _version(master: Master) -> str:
    if master.input.central_fraction != 1:
        return "4"
    if any(each.scales is not None for each in master.plans):
        return "3"
    return "2" if master.plans else "1"


def rewrite_master(
    path: str | os.PathLike[str], change: Callable[[Master], Master], *, of: Master | None = None
) -> Master:
    """Put what ``change`` makes of the master in a file in its place, and return it as it is read back.

    Readers see the old file or the new one; of several that rewrite masters of one folder, each sees what the one
    before has written. ``of``: the master, as it was read, that what is added belongs to. Raises
    :class:`~bitgear.errors.MasterChanged` if the file holds another network or other weights by now, and what
    :func:`read_master`, ``change`` and :func:`write_master` raise, and the file is as it was then.
    """
    path = Path(os.path.realpath(path))  # the file itself, whatever a link to it leads to a moment later
    with locked(path.parent):
        held = read_master(path)
        if of is not None and not _same_weights(held, of):
            raise MasterChanged(
                f"{_shown(path)} was written anew meanwhile, with other weights; what was to be added belongs to those "
                "of before: run again"
            )
        write_master(change(held), path)
        return read_master(path)


def _same_weights(one: Master, other: Master) -> bool:
    """Return whether what all precisions share is equal: plans, accuracy and descriptions do not count."""
    if one.graph != other.graph or one.tensors.keys() != other.tensors.keys():
        return False
    return all(np.array_equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MetadataInvalid(f"the metadata cannot be written as JSON: {error}") from error


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file with metadata and a digest of its tensors, the keys of its header sorted.

    The library orders metadata by a random hash.
    """
    (length,) = struct.unpack("<Q", content[:8])
    data = content[8 + length :]
    entries = json.loads(content[8 : 8 + length])
    digest = hashlib.sha256(data).hexdigest()
    header = _dump({**entries, "__metadata__": {**metadata, DATA_DIGEST: digest}}).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned to 8 bytes
    return struct.pack("<Q", len(header)) + header + data
