"""The native engine, in C++ (bitgear/native). Missing where it could not be built."""

import numpy as np
from numpy.typing import NDArray

MAX_SIDE: int
MAX_WINDOW: int
MAX_TERMS: int
MAX_SUMMED: int
MAX_IMAGES: int
INTERPOLATION_ONE: int
MAX_OUTPUTS: int
MAX_AVERAGED: int
MAX_PICTURE_BYTES: int
MAX_POOLED_KERNEL: int
MAX_POOLED_STRIDE: int

def instruction_sets() -> list[tuple[str, bool, bool, list[str]]]:
    """Return name, compiled in, offered by this processor, paths; best first."""

def choose(name: str = "", multiplies: bool = True) -> str:
    """Return the instruction set used for ``name``, the best one for ``""``; raise ValueError if it cannot be used.

    Asks the system for the tiles of AMX if that is the set, and for nothing otherwise.
    """

def winograd_spare(kernel: int, stride: int, dilation: int, height: int, width: int) -> tuple[int, int]:
    """Return how many pixels below and right of a convolution's input Winograd's tiles reach over its borders.

    ``height`` and ``width``: of its result. Zeros where no form computes such a convolution.
    """

def measure_rates(instruction_set: str) -> dict[str, float]:
    """Return nanoseconds of the set's kernels by name; see rates.h."""

def derive(instruction_set: str, q8: NDArray[np.int8], bits: int, out: NDArray[np.int8]) -> None:
    """Write the codes of a width into ``out``, as :func:`bitgear.rounding.derive` does."""

def place_picture(
    instruction_set: str,
    pixels: NDArray[np.uint8],
    box: tuple[float, float],
    content: tuple[int, int],
    corner: tuple[int, int],
    table: NDArray[np.int8],
    bar: tuple[int, int, int],
    codes: NDArray[np.int8],
) -> None:
    """Write the codes (3, H, W) of a picture (h, w, 3): its ``box`` from the upper left resized to ``content``.

    Widths come before heights. ``corner``: where in the input the content begins. ``table``: (3, 256).
    """

def reduce_picture(pixels: NDArray[np.uint8], factors: tuple[int, int], averages: NDArray[np.uint8]) -> None:
    """Write the averages (h', w', 3) of a picture (h, w, 3) over blocks of ``factors``, width and height.

    As ``Image.reduce`` of Pillow; a block has at most 2^24 pixels.
    """

def paint_mask(
    instruction_set: str,
    logits: NDArray[np.float32],
    y_first: NDArray[np.int32],
    y_share: NDArray[np.float32],
    x_first: NDArray[np.int32],
    x_share: NDArray[np.float32],
    mask: NDArray[np.uint8],
) -> None:
    """Write the mask (h, w) of logits (classes, H', W'), as :func:`bitgear.tasks.segment.class_mask` does."""

def count_ids(mask: NDArray[np.uint8], counts: NDArray[np.int64]) -> None:
    """Add to ``counts`` (256,) how often each id stands in a mask (h, w)."""

class Output:
    """A reader of a value: a buffer, the first channel in it, and the codes; ``zero`` is the byte of code 0."""

    def __init__(self, *, buffer: int, channel: int, scale: float, low: int, high: int, zero: int) -> None: ...

class Residual:
    """Codes of a buffer that are added to a value; ``zero`` is the byte of code 0."""

    def __init__(self, *, buffer: int, scale: float, zero: int) -> None: ...

class Pooling:
    """Max pooling right behind a convolution, to a result of ``height`` and ``width``."""

    def __init__(self, *, kernel: int, stride: int, padding: int, height: int, width: int) -> None: ...

class Interpolation:
    """Two source positions; ``second_weight`` is in parts of :data:`INTERPOLATION_ONE`."""

    def __init__(self, *, first: int, second: int, second_weight: int) -> None: ...

class Model:
    """A flat list of steps over byte buffers; see model.h. Arguments are checked for memory safety, not for sense."""

    def __init__(self, instruction_set: str, rates: dict[str, float]) -> None:
        """Raise ValueError for a set that cannot be used, or unless ``rates`` has all its names and no others."""

    def add_buffer(
        self,
        *,
        height: int,
        width: int,
        channels: int,
        top: int,
        left: int,
        bottom: int,
        right: int,
        spare_bottom: int,
        spare_right: int,
        fill: int,
    ) -> int: ...
    def add_image(self, buffer: int) -> None: ...
    def add_conv(
        self,
        *,
        name: str,
        input: int,
        q8: NDArray[np.int8],
        channels: int,
        kernel: int,
        stride: int,
        dilation: int,
        groups: int,
        weight_bits: int,
        act_max: int,
        zero: int,
        multiplier: list[float],
        bias: list[float],
        relu: bool,
        clip: float,
        residual: Residual | None,
        outputs: list[Output],
        result: bool,
        pooling: Pooling | None,
        path: str,
    ) -> None: ...
    def add_window_sum(
        self,
        *,
        name: str,
        input: int,
        kernel: int,
        stride: int,
        zero: int,
        multiplier: list[float],
        outputs: list[Output],
        result: bool,
    ) -> None: ...
    def add_bilinear(
        self,
        *,
        name: str,
        input: int,
        rows: list[Interpolation],
        columns: list[Interpolation],
        zero: int,
        multiplier: list[float],
        outputs: list[Output],
        result: bool,
    ) -> None: ...
    def add_maximum(self, *, name: str, input: int, output: int, channel: int, kernel: int, stride: int) -> None: ...
    def add_copy(
        self,
        *,
        name: str,
        input: int,
        output: int,
        channel: int,
        source_y: list[int],
        source_x: list[int],
        pad_channels: int,
        pad_byte: int,
    ) -> None: ...
    def finish(self) -> None: ...
    def run(self, q_image: NDArray[np.int8], result: NDArray[np.float32], threads: int) -> None: ...
    def profile(self, q_image: NDArray[np.int8], threads: int, rounds: int) -> list[tuple[str, str, float, float]]:
        """Return name, path, multiply-accumulates and median seconds of every step."""

    @property
    def avoids_winograd(self) -> bool:
        """Whether no form of Winograd's is taken unless it is asked for."""

    @property
    def resident_bytes(self) -> int: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def allocations(self) -> int: ...
    @property
    def result_shape(self) -> tuple[int, int, int]: ...
    @property
    def paths(self) -> list[tuple[str, str]]:
        """Name and path of every step."""
