"""The native engine: integers from the first layer to the last, in C++ (``bitgear/native``).

This module lowers a master's graph to a flat list of steps over byte buffers. The idea: a value is never stored. Each
reader of a value has a buffer of its own, and whoever makes the value writes, in its epilogue, the reader's codes into
it, quantised with the reader's scale. Selections (max pooling, nearest resizing, shortcuts, concatenation) commute with
quantisation, so they move codes: the value before a selection is written with the scale of the reader behind it.

Byte = code + zero, zero 0 for unsigned codes, 2^(bits-1) for signed ones.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgear import _native
from bitgear.bits import MASTER_BITS, Plan, Precision, activation_range, as_plan
from bitgear.checkpoint import Master
from bitgear.engines.base import out_of_memory
from bitgear.engines.rates import Rates, rates_here
from bitgear.engines.registry import choose_instruction_set
from bitgear.errors import EngineUnavailable, GraphError
from bitgear.fold import Folded, check_plan, fold
from bitgear.graph import (
    IMAGE,
    AvgPool,
    Concat,
    Conv,
    Linear,
    MaxPool,
    Node,
    Pool,
    Resize,
    Shape,
    Shortcut,
    SummingNode,
    borders,
    sums,
)
from bitgear.reference import check_image, interpolation, nearest

_ADVICE = "choose the engine onnxruntime"


class _Quantizer(NamedTuple):
    """How codes are made of a value: ``low`` to ``high``, with ``zero`` as the byte of code 0."""

    scale: float
    low: int
    high: int
    zero: int


@dataclass(frozen=True)
class _Feed:
    """Where codes of a value go: a buffer, the first channel in it, and how they are quantised."""

    buffer: int
    channel: int
    quantizer: _Quantizer


@dataclass(frozen=True, eq=False)
class NativeModel:
    """A master at a plan, packed for one instruction set.

    ``nbytes`` counts packed weights and constants, not the memory that calls work in, which is kept for the next ones:
    some more than ``core.arena_bytes`` for each thread of each call, as many as ever were at the same time.
    """

    master: Master
    plan: Plan
    threads: int
    core: _native.Model

    @property
    def nbytes(self) -> int:
        return self.core.resident_bytes

    @cached_property  # a small network is run in less time than it takes to look all of this up a few times
    def _shape(self) -> tuple[int, ...]:
        """The output's for one image."""
        channels, height, width = self.core.result_shape
        return (channels,) if isinstance(self.master.graph.nodes[-1], Pool | Linear) else (channels, height, width)

    def run(self, q_image: NDArray[np.int8], threads: int | None = None) -> NDArray[np.float32]:
        """Return what :meth:`bitgear.engines.base.DerivedModel.run` does, with up to ``threads`` threads."""
        check_image(self.master, q_image)
        try:
            result = np.empty((len(q_image), *self._shape), np.float32)
            self.core.run(np.ascontiguousarray(q_image), result, self.threads if threads is None else threads)
        except MemoryError as error:
            raise out_of_memory(NativeEngine.name, self.master, self.plan) from error
        return result

    def profile(self, q_image: NDArray[np.int8], rounds: int) -> dict[str, float]:
        """Return the seconds that every node takes, in order of execution, its steps' medians over ``rounds`` calls.

        Nodes that were merged into others are missing. Calls use the model's threads; the time is the first one's.
        """
        check_image(self.master, q_image)
        seconds: dict[str, float] = {}
        for name, _, _, step_seconds in self.core.profile(np.ascontiguousarray(q_image), self.threads, rounds):
            seconds[name] = seconds.get(name, 0.0) + step_seconds
        return seconds


class NativeEngine:
    """Packs masters for the instruction set named, or for the best of this processor (``""``).

    Layers take the paths that are fastest by what was measured of this machine (:mod:`bitgear.engines.rates`).

    Raises :class:`~bitgear.errors.EngineUnavailable` for one that is unknown, not compiled in, not offered by the
    processor or refused by the system.
    """

    name = "native"

    def __init__(self, threads: int = 1, instruction_set: str = "", rates: Rates | None = None) -> None:
        try:
            self.instruction_set = choose_instruction_set(instruction_set)
        except ValueError as error:
            usable = [
                name
                for name, compiled, offered, _ in _native.instruction_sets()
                if compiled and offered and name != instruction_set
            ]
            raise EngineUnavailable(f"{error}; usable here are {', '.join(usable)}") from error
        self.threads = threads
        self._rates = rates

    @property
    def rates(self) -> Rates:
        """What paths are chosen by; those of this machine unless others were given. Measured at first use."""
        return rates_here(self.instruction_set) if self._rates is None else self._rates

    def derive(self, master: Master, precision: Precision) -> NativeModel:
        plan = as_plan(precision)
        check_plan(master, plan)
        try:
            core = lower(master, plan, self.instruction_set, self.rates)
        except MemoryError as error:
            raise out_of_memory(self.name, master, plan) from error
        return NativeModel(master, plan, self.threads, core)


def lower(master: Master, plan: Plan, instruction_set: str, rates: Rates, path: str = "") -> _native.Model:
    """Return the finished steps of a master at a plan, on the paths that are fastest by ``rates``.

    ``path`` forces that path wherever it is possible, for tests. Raises :class:`~bitgear.errors.GraphError` naming a
    node that the native engine cannot run, or if all together need too much memory.
    """
    lowering = _Lowering(master, plan, instruction_set, rates, path)
    try:
        return lowering.run()
    except ValueError as error:  # what the extension says of a step that it refuses
        raise GraphError(
            f"node {lowering.node.name!r} is not what the native engine can run: {error}; {_ADVICE}"
        ) from error


class _Lowering:
    """Goes through the graph backwards, to learn who reads what, then forwards, to make the steps."""

    def __init__(self, master: Master, plan: Plan, instruction_set: str, rates: Rates, path: str) -> None:
        self.master = master
        self.graph = master.graph
        self.shapes = master.shapes
        self.path = path
        self.core = _native.Model(instruction_set, rates)
        self.feeds: dict[str, list[_Feed]] = {name: [] for name in self.shapes}
        self.folded: dict[str, Folded] = {}
        self.read_from: dict[str, int] = {}  # buffer of a node's input
        self.residual_from: dict[str, int] = {}
        self.moves: dict[str, list[tuple[int, _Feed]]] = {}  # of selections: from buffer to feed
        self.pooled: dict[str, MaxPool] = {}  # convolutions that pool their sums, by name
        self.plan = plan
        self.last = self.node = self.graph.nodes[-1]  # ``node``: the one at hand, for messages
        self.named = {node.name: node for node in self.graph.nodes}
        self.readers = Counter(value for node in self.graph.nodes for value in set(self.graph.inputs(node)))

    def run(self) -> _native.Model:
        if not sums(self.last):
            raise GraphError(
                f"node {self.last.name!r} ends the graph with a selection; the native engine returns sums only; "
                f"{_ADVICE}"
            )
        alive = [node for node in reversed(self.graph.nodes) if self._collect(node)]
        for feed in self.feeds[IMAGE]:
            self.core.add_image(feed.buffer)
        for node in reversed(alive):
            self._emit(node)
        try:
            self.core.finish()
        except ValueError as error:  # no node is to blame, but all of them together
            raise GraphError(f"the graph is not what the native engine can run: {error}; {_ADVICE}") from error
        return self.core

    def _collect(self, node: Node) -> bool:
        """Make the buffers that a node reads; False if nobody reads the node itself."""
        self.node = node
        feeds = self.feeds[node.name]
        if not feeds and node is not self.last:
            return False
        # Here, not where outputs are written: through selections of selections, feeds would double with each.
        if len(feeds) > _native.MAX_OUTPUTS:
            raise GraphError(
                f"what reads {node.name!r} needs {len(feeds)} buffers of its codes; the native engine writes "
                f"{_native.MAX_OUTPUTS} at most; {_ADVICE}"
            )
        if isinstance(node, Concat):
            for feed in feeds:
                channel = feed.channel
                for source in node.inputs:
                    self.feeds[source].append(_Feed(feed.buffer, channel, feed.quantizer))
                    channel += self.shapes[source][0]
        elif sums(node):
            self._collect_sum(node)
        elif isinstance(node, MaxPool) and self._pools_sums(node):
            self.pooled[node.input] = node
            self.feeds[node.input] = feeds
        else:
            padding = borders(node) if isinstance(node, MaxPool) else (0, 0)
            self.moves[node.name] = []
            for feed in feeds:
                buffer = self._buffer(self.shapes[node.input], padding, (0, 0), 0)
                self.feeds[node.input].append(_Feed(buffer, 0, feed.quantizer))
                self.moves[node.name].append((buffer, feed))
        return True

    def _pools_sums(self, node: MaxPool) -> bool:
        """Return whether the convolution before a max pooling can pool its sums: nobody else reads it."""
        conv = self.named.get(node.input)
        if not isinstance(conv, Conv) or self.readers[conv.name] > 1 or conv.groups > 1 or conv.residual is not None:
            return False
        fits = node.kernel <= _native.MAX_POOLED_KERNEL and node.stride <= _native.MAX_POOLED_STRIDE
        return conv.stride > 1 and fits

    def _collect_sum(self, node: SummingNode) -> None:
        folded = self.folded[node.name] = fold(self.master, node, self.plan)
        quantizer = self._quantizer(node.input, folded.act_scale, folded.act_bits)
        padding, spare = (0, 0), (0, 0)
        if isinstance(node, Conv | AvgPool):
            padding = borders(node)
        if isinstance(node, Conv) and (self.path != "" or not self.core.avoids_winograd):
            _, height, width = self.shapes[node.name]
            spare = _native.winograd_spare(node.kernel, node.stride, node.dilation, height, width)
        buffer = self._buffer(self.shapes[node.input], padding, spare, quantizer.zero)
        self.read_from[node.name] = buffer
        self.feeds[node.input].append(_Feed(buffer, 0, quantizer))
        if isinstance(node, Conv) and node.residual is not None:
            quantizer = self._quantizer(node.residual, folded.residual_scale, MASTER_BITS)
            buffer = self._buffer(self.shapes[node.residual], (0, 0), (0, 0), quantizer.zero)
            self.residual_from[node.name] = buffer
            self.feeds[node.residual].append(_Feed(buffer, 0, quantizer))

    def _quantizer(self, value: str, scale: np.float32 | None, bits: int) -> _Quantizer:
        low, high = activation_range(bits, self.graph.signed(value))
        return _Quantizer(1.0 if scale is None else float(scale), low, high, zero=-low)

    def _buffer(self, shape: Shape, padding: tuple[int, int], spare: tuple[int, int], fill: int) -> int:
        channels, height, width = shape if len(shape) == 3 else (shape[0], 1, 1)
        start, end = padding
        spare_bottom, spare_right = spare
        return self.core.add_buffer(
            height=height, width=width, channels=channels, top=start, left=start, bottom=end, right=end,
            spare_bottom=spare_bottom, spare_right=spare_right, fill=fill,
        )  # fmt: skip

    def _emit(self, node: Node) -> None:
        self.node = node
        match node:
            case Concat():
                pass  # its inputs were written side by side
            case MaxPool():
                for buffer, feed in self.moves.get(node.name, []):
                    self.core.add_maximum(
                        name=node.name, input=buffer, output=feed.buffer, channel=feed.channel,
                        kernel=node.kernel, stride=node.stride,
                    )  # fmt: skip
            case Shortcut():
                rows, columns = (range(0, side, node.stride) for side in self.shapes[node.input][1:])
                pad = (node.channels - self.shapes[node.input][0]) // 2
                self._emit_copies(node, list(rows), list(columns), pad)
            case Resize(mode="nearest"):
                (_, height, width), (_, out_height, out_width) = self.shapes[node.input], self.shapes[node.name]
                self._emit_copies(node, nearest(height, out_height).tolist(), nearest(width, out_width).tolist(), 0)
            case Conv() | Linear():
                self._emit_conv(node)
            case Pool() | AvgPool() | Resize():
                self._emit_sum(node)

    def _emit_copies(self, node: Shortcut | Resize, rows: list[int], columns: list[int], pad: int) -> None:
        for buffer, feed in self.moves[node.name]:
            self.core.add_copy(
                name=node.name, input=buffer, output=feed.buffer, channel=feed.channel, source_y=rows, source_x=columns,
                pad_channels=pad, pad_byte=feed.quantizer.zero,
            )  # fmt: skip

    def _emit_conv(self, node: Conv | Linear) -> None:
        folded = self.folded[node.name]
        low, high = activation_range(folded.act_bits, self.graph.signed(node.input))
        conv = node if isinstance(node, Conv) else None
        residual = None
        if conv is not None and conv.residual is not None:
            quantizer = self._quantizer(conv.residual, folded.residual_scale, MASTER_BITS)
            residual = _native.Residual(
                buffer=self.residual_from[node.name], scale=quantizer.scale, zero=quantizer.zero
            )
        self.core.add_conv(
            name=node.name,
            input=self.read_from[node.name],
            q8=self.master.tensors[f"{node.name}.weight"],
            channels=node.channels,
            kernel=1 if conv is None else conv.kernel,
            stride=1 if conv is None else conv.stride,
            dilation=1 if conv is None else conv.dilation,
            groups=1 if conv is None else conv.groups,
            weight_bits=folded.weight_bits,
            act_max=high - low,
            zero=-low,
            multiplier=_per_channel(folded.multiplier, node.channels),
            bias=[] if folded.bias is None else _per_channel(folded.bias, node.channels),
            relu=conv is not None and conv.relu,
            clip=math.inf if conv is None or conv.clip is None else conv.clip,
            residual=residual,
            outputs=self._outputs(node),
            result=node is self.last,
            pooling=self._pooling(node),
            path=self.path,
        )

    def _pooling(self, node: Conv | Linear) -> _native.Pooling | None:
        pool = self.pooled.get(node.name)
        if pool is None:
            return None
        _, height, width = self.shapes[pool.name]
        return _native.Pooling(kernel=pool.kernel, stride=pool.stride, padding=pool.padding, height=height, width=width)

    def _emit_sum(self, node: Pool | AvgPool | Resize) -> None:
        folded = self.folded[node.name]
        zero = self._quantizer(node.input, folded.act_scale, MASTER_BITS).zero
        multiplier = _per_channel(folded.multiplier, self.shapes[node.input][0])
        buffer, outputs, result = self.read_from[node.name], self._outputs(node), node is self.last
        if isinstance(node, Resize):
            (_, height, width), (_, out_height, out_width) = self.shapes[node.input], self.shapes[node.name]
            rows, columns = _interpolation(height, out_height), _interpolation(width, out_width)
            self.core.add_bilinear(
                name=node.name, input=buffer, rows=rows, columns=columns, zero=zero, multiplier=multiplier,
                outputs=outputs, result=result,
            )  # fmt: skip
        else:
            kernel, stride = (0, 1) if isinstance(node, Pool) else (node.kernel, node.stride)
            self.core.add_window_sum(
                name=node.name, input=buffer, kernel=kernel, stride=stride, zero=zero, multiplier=multiplier,
                outputs=outputs, result=result,
            )  # fmt: skip

    def _outputs(self, node: Node) -> list[_native.Output]:
        return [
            _native.Output(
                buffer=feed.buffer, channel=feed.channel, scale=feed.quantizer.scale, low=feed.quantizer.low,
                high=feed.quantizer.high, zero=feed.quantizer.zero,
            )
            for feed in self.feeds[node.name]
        ]  # fmt: skip


def _interpolation(size: int, out_size: int) -> list[_native.Interpolation]:
    """Return where every output position of an axis lies between two source positions."""
    axis = (positions.tolist() for positions in interpolation(size, out_size))
    return [
        _native.Interpolation(first=first, second=second, second_weight=weight)
        for first, second, weight in zip(*axis, strict=True)
    ]


def _per_channel(values: NDArray[np.float32], channels: int) -> list[float]:
    numbers: list[float] = np.broadcast_to(values, (channels,)).tolist()
    return numbers
