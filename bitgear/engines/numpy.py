"""The reference executor as an engine: for comparison, and where nothing else can be installed. Slow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgear import reference
from bitgear.checkpoint import Master
from bitgear.errors import PrecisionNotOffered


@dataclass(frozen=True, eq=False)
class NumpyModel:
    """A master and a width; weights are derived anew in every call, so nothing is resident."""

    master: Master
    bits: int
    nbytes: int = 0

    def run(self, q_image: NDArray[np.int8]) -> NDArray[np.float32]:
        return reference.run(self.master, q_image, self.bits)


class NumpyEngine:
    """Runs :mod:`bitgear.reference`."""

    name = "reference"

    def derive(self, master: Master, bits: int) -> NumpyModel:
        if bits not in master.widths:
            raise PrecisionNotOffered(bits, master.widths, master.name)
        return NumpyModel(master, bits)
