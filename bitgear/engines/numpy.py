"""The reference executor as an engine: for comparison, and where nothing else can be installed. Slow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgear import reference
from bitgear.bits import Plan, Precision
from bitgear.checkpoint import Master
from bitgear.engines.base import out_of_memory
from bitgear.fold import check_plan


@dataclass(frozen=True, eq=False)
class NumpyModel:
    """A master and a plan; weights are derived anew in every call, so nothing is resident."""

    master: Master
    plan: Plan
    nbytes: int = 0

    def run(self, q_image: NDArray[np.int8]) -> NDArray[np.float32]:
        try:
            return reference.run(self.master, q_image, self.plan)
        except MemoryError as error:
            raise out_of_memory(NumpyEngine.name, self.master, self.plan) from error


class NumpyEngine:
    """Runs :mod:`bitgear.reference`."""

    name = "reference"

    def derive(self, master: Master, precision: Precision) -> NumpyModel:
        return NumpyModel(master, check_plan(master, precision))
