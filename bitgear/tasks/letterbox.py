"""A picture of any shape inside an input of fixed shape, and the way back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgear.engines.registry import native_instruction_set
from bitgear.inputs import InputRecord
from bitgear.tasks.pictures import Picture
from bitgear.tasks.resize import reduce, resize


@dataclass(frozen=True)
class Letterbox:
    """Where a picture of ``width_px`` x ``height_px`` lies in an input: centred, its shape kept, bars around it.

    ``scale_x``, ``scale_y``: input pixels for each picture pixel; content has whole pixels, so they differ a little.
    ``bar``: RGB of the bars, the pixel whose codes are nearest to 0.
    """

    width_px: int
    height_px: int
    input_width_px: int
    input_height_px: int
    left_px: int
    top_px: int
    content_width_px: int
    content_height_px: int
    bar: tuple[int, int, int]

    @classmethod
    def of(cls, width_px: int, height_px: int, record: InputRecord) -> "Letterbox":
        """Return where a picture lies in the input of a record; at least a pixel of it is always seen."""
        scale = min(record.width_px / width_px, record.height_px / height_px)
        width = min(max(round(width_px * scale), 1), record.width_px)
        height = min(max(round(height_px * scale), 1), record.height_px)
        red, green, blue = (min(max(round(mean * 255), 0), 255) for mean in record.mean)
        return cls(
            width_px=width_px,
            height_px=height_px,
            input_width_px=record.width_px,
            input_height_px=record.height_px,
            left_px=(record.width_px - width) // 2,
            top_px=(record.height_px - height) // 2,
            content_width_px=width,
            content_height_px=height,
            bar=(red, green, blue),
        )

    @property
    def scale_x(self) -> float:
        """Input pixels for each column of the picture."""
        return self.content_width_px / self.width_px

    @property
    def scale_y(self) -> float:
        """Input pixels for each row of the picture."""
        return self.content_height_px / self.height_px

    def place(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the input, uint8 (H, W, 3), of the picture's ``pixels``, uint8 (height_px, width_px, 3).

        Resized as :func:`~bitgear.tasks.resize.resize` does. A picture of the input's size comes back as it is.
        """
        content = resize(pixels, self.content_width_px, self.content_height_px)
        if content.shape[:2] == (self.input_height_px, self.input_width_px):
            return content
        placed = np.empty((self.input_height_px, self.input_width_px, 3), np.uint8)
        placed[:] = np.tile(np.asarray(self.bar, np.uint8), (self.input_width_px, 1))  # whole rows are copied fast
        bottom, right = self.top_px + self.content_height_px, self.left_px + self.content_width_px
        placed[self.top_px : bottom, self.left_px : right] = content
        return placed

    def codes(self, pixels: NDArray[np.uint8], record: InputRecord) -> NDArray[np.int8]:
        """Return ``record.encode`` of the input that :meth:`place` makes, int8 (1, 3, H, W).

        In one go through the native extension, where there is one; the bytes are the same.
        """
        instruction_set = native_instruction_set()
        if instruction_set is None:
            return record.encode(self.place(pixels)[None])
        from bitgear import _native

        reduced, shown = reduce(pixels, self.content_width_px, self.content_height_px)
        codes = np.empty((1, 3, self.input_height_px, self.input_width_px), np.int8)
        _native.place_picture(
            instruction_set,
            np.ascontiguousarray(reduced),
            box=shown,
            content=(self.content_width_px, self.content_height_px),
            corner=(self.left_px, self.top_px),
            table=record.table(),
            bar=self.bar,
            codes=codes[0],
        )
        return codes

    def to_input(self, boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return boxes, float32 (K, 4), in input pixels, of boxes in picture pixels."""
        moved: NDArray[np.float32] = (boxes_xyxy * self._scales + self._corner).astype(np.float32)
        return moved

    def to_picture(self, boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return boxes, float32 (K, 4), in picture pixels and cut to the picture, of boxes in input pixels."""
        moved = (boxes_xyxy - self._corner) / self._scales
        ends = np.array([self.width_px, self.height_px] * 2)
        cut: NDArray[np.float32] = np.clip(moved, 0, ends).astype(np.float32)
        return cut

    @property
    def _scales(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2)

    @property
    def _corner(self) -> NDArray[np.float64]:
        return np.array([self.left_px, self.top_px] * 2, np.float64)


def place_picture(picture: Picture, record: InputRecord) -> tuple[NDArray[np.int8], Letterbox]:
    """Return the codes, int8 (1, 3, H, W), of the picture in a letterbox, and the letterbox."""
    letterbox = Letterbox.of(picture.width_px, picture.height_px, record)
    return letterbox.codes(picture.pixels, record), letterbox
