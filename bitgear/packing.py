"""b-bit integers <-> bytes.

Codes are packed little-endian: code i occupies bits ``i * b`` to ``i * b + b - 1`` of the stream, lowest bit first, in
two's complement. The last byte is filled up with zero bits. Four 2-bit codes c0..c3 in a byte::

    bit  7 6 | 5 4 | 3 2 | 1 0
         c3  | c2  | c1  | c0
"""

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import check_bits, weight_range


def packed_size_bytes(count: int, bits: int) -> int:
    """Return how many bytes ``count`` codes of ``bits`` bits take."""
    return (count * check_bits(bits) + 7) // 8


def pack(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Return int8 ``codes`` of any shape as packed bytes, uint8 (packed_size_bytes,).

    Raises ``ValueError`` if a code is outside the signed range of ``bits``.

    >>> pack(np.array([1, -1, 0, -2], np.int8), 2)
    array([141], dtype=uint8)
    """
    low, high = weight_range(check_bits(bits))
    flat = codes.reshape(-1)
    if flat.size and (flat.min() < low or flat.max() > high):
        raise ValueError(f"codes run from {flat.min()} to {flat.max()}; {bits} bits hold {low} to {high}")
    planes = (flat[:, None].view(np.uint8) >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes.reshape(-1), bitorder="little")


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int8]:
    """Return the first ``count`` codes of a packed stream, int8 (count,).

    Raises ``ValueError`` if the stream has another length than ``count`` codes need.
    """
    if packed.size != packed_size_bytes(count, bits):
        raise ValueError(
            f"{packed.size} bytes given; {count} codes of {bits} bits take {packed_size_bytes(count, bits)}"
        )
    planes = np.unpackbits(packed, bitorder="little", count=count * bits).reshape(count, bits)
    unsigned = (planes.astype(np.int16) << np.arange(bits, dtype=np.int16)).sum(1, dtype=np.int16)
    half = 1 << (bits - 1)
    codes: NDArray[np.int8] = ((unsigned ^ half) - half).astype(np.int8)
    return codes
