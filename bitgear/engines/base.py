"""What an engine is: two small protocols, the seam at which engines are exchanged."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import Plan, Precision
from bitgear.checkpoint import Master
from bitgear.errors import EngineUnavailable


class DerivedModel(Protocol):
    """A master made ready at one plan. Immutable: any number of threads may run it at once."""

    @property
    def plan(self) -> Plan:
        """The widths of its layers."""

    @property
    def nbytes(self) -> int:
        """Bytes of weights and constants that this plan keeps beside the master.

        What runs work in is not counted: it depends on the picture's size and on how many run at the same time, and an
        engine may keep it for the next run.
        """

    def run(self, q_image: NDArray[np.int8]) -> NDArray[np.float32]:
        """Return the last node's output, float32 (N, classes), of int8 codes (N, 3, H, W), N at least 1.

        A row does not depend on the rest of the batch. Raises :class:`~bitgear.errors.InputError` for another
        shape or element type, and :class:`~bitgear.errors.EngineUnavailable` where memory does not suffice.
        """


class Engine(Protocol):
    """Derives runnable models from masters. Precision is an argument of every derivation, never a mode."""

    @property
    def name(self) -> str:
        """The name under which the engine is chosen: ``native``, ``onnxruntime`` or ``reference``."""

    def derive(self, master: Master, precision: Precision) -> DerivedModel:
        """Return the master at a width or plan; raise what :func:`~bitgear.fold.check_plan` raises if it has none.

        Raises :class:`~bitgear.errors.GraphError` for a graph that the engine cannot run, and
        :class:`~bitgear.errors.EngineUnavailable` where memory does not suffice.
        """


def out_of_memory(engine: str, master: Master, plan: Plan) -> EngineUnavailable:
    """Return the error of an engine that found no memory to derive or to run a master."""
    return EngineUnavailable(
        f"engine {engine!r} finds no memory for model {master.name!r} at precision {plan}; give it more memory, or a "
        "smaller network or picture"
    )
