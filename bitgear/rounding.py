"""Double Rounding on integers (arXiv 2502.01199, Eq. 1-3): the definition that everything else is tested against."""

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import MASTER_BITS, check_bits, weight_range


def derive(q8: NDArray[np.int8], bits: int) -> NDArray[np.int8]:
    """Return the ``bits``-wide codes of INT8 master codes: ``clip(round_half_even(q8 / 2**(8 - bits)))``.

    ``q8`` is int8 of any shape, the *master's* codes: deriving from codes of another width gives other results
    (8 -> 6 -> 4 -> 2 differs from 8 -> 2 on 30 of the 256 codes), so int8 is required and nothing records a width.
    The clip comes after the second rounding; it saturates only upwards (2 bit: 96..127 round to +2 and become +1).

    A width's weight is ``code * scale * 2**(8 - bits)``.

    >>> derive(np.array([32, 33, 96, 127, -32, -97], np.int8), 2)
    array([ 0,  1,  1,  1,  0, -2], dtype=int8)

    Raises ``TypeError`` if ``q8`` is not int8 and :class:`~bitgear.errors.PrecisionError` if ``bits`` is not 2..8.
    """
    if q8.dtype != np.int8:
        raise TypeError(f"derive needs the master's int8 codes, got {q8.dtype}")
    distance = MASTER_BITS - check_bits(bits)
    if distance == 0:
        return q8
    # Half to even with shifts: half minus one rounds ties down, the floor's lowest bit then lifts odd ones to even.
    # int16, because 127 + 32 does not fit int8.
    wide = q8.astype(np.int16)
    rounded = (wide + ((1 << (distance - 1)) - 1) + ((wide >> distance) & 1)) >> distance
    low, high = weight_range(bits)
    codes: NDArray[np.int8] = np.clip(rounded, low, high).astype(np.int8)
    return codes
