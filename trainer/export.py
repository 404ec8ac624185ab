"""From a trained network to the master checkpoint, proven equal to it before anyone gets to see it."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import bitgear
from bitgear import reference
from bitgear.bits import MASTER_BITS, WIDTHS, Precision
from bitgear.checkpoint import Master, read_master, write_master
from bitgear.engines import Engine
from bitgear.errors import BitgearError
from bitgear.graph import IMAGE, Conv, Linear
from bitgear.inputs import InputRecord
from bitgear.plans import BatchNorm, NamedPlan, scale_names
from trainer.model import OWN, Norms, Pass, QuantNet, key, require
from trainer.quantizers import derive_codes


class ExportMismatch(BitgearError):
    """The written master does not compute what the trained network computes."""

    code = "export-mismatch"


def build_master(
    model: QuantNet, record: InputRecord, name: str, labels: tuple[str, ...], *, task: str,
    accuracy: Mapping[int, Mapping[str, float]], provenance: Mapping[str, Any], sensitivities: Mapping[str, float],
) -> Master:  # fmt: skip
    """Return the master of a network that has scales and batch norm for every width."""
    tensors: dict[str, NDArray[Any]] = {}
    with torch.no_grad():
        for node, layer in model.quantised():
            if node.input != IMAGE:
                tensors[f"{node.name}.act_scale"] = _rows([layer.act_log_scale[key(b)].exp() for b in WIDTHS])
            if layer.weight is not None:
                scale = require(layer.weight_log_scale).exp()
                u = layer.weight / scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
                tensors[f"{node.name}.weight"] = derive_codes(u, MASTER_BITS).to(torch.int8).contiguous().numpy()
                tensors[f"{node.name}.weight_scale"] = scale.numpy()
            if isinstance(node, Linear):
                tensors[f"{node.name}.bias"] = require(layer.bias).detach().clone().numpy()
            if isinstance(node, Conv):
                folded = [layer.batch_norm(b).folded() for b in WIDTHS]
                tensors[f"{node.name}.gain"] = _rows([gain for gain, _ in folded])
                tensors[f"{node.name}.bias"] = _rows([bias for _, bias in folded])
                if node.residual is not None:
                    scales = [layer.residual_log_scale[key(b)].exp() for b in WIDTHS]
                    tensors[f"{node.name}.residual_scale"] = _rows(scales)
    return Master(
        name=name, task=task, graph=model.graph, input=record, labels=labels, widths=WIDTHS, tensors=tensors,
        accuracy=accuracy, provenance=provenance, sensitivities=sensitivities,
    )  # fmt: skip


def _rows(tensors: list[torch.Tensor]) -> NDArray[Any]:
    rows: NDArray[Any] = torch.stack(tensors).numpy()
    return rows


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    return {"bitgear": bitgear.__version__, "torch": torch.__version__, "python": platform.python_version()}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path in the same folder; the file there replaces ``path`` at the end, or goes if anything fails."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def export(master: Master, model: QuantNet, path: Path, q_images: NDArray[np.int8], engine: Engine) -> Master:
    """Write the master beside ``path``, read it back, compare it with the network on ``q_images``, move it there.

    Compared at every width: the integers that enter every layer and every residual sum, the accumulators, and the
    logits, of the network's evaluation form, the reference and ``engine``. All must be equal, bit for bit; on a
    mismatch :class:`ExportMismatch` names the first place, and what was at ``path`` stays, as it does whatever fails.
    Returns what was read.
    """
    with replacing(path) as unproven:
        write_master(master, unproven)
        stored = read_master(unproven)
        for bits in stored.widths:
            compare(stored, model, q_images, bits, engine)
    return stored


def export_plan(
    path: Path, model: QuantNet, plan: NamedPlan, batches: Sequence[torch.Tensor], norms: Norms,
    q_images: NDArray[np.int8], engine: Engine,
) -> Master:  # fmt: skip
    """Add a plan to the master of a network, with a batch norm of its own; return the master as it is read back.

    The statistics are those of ``batches`` at the plan's widths; gain and bias begin as ``norms`` says. Else as
    :func:`export_own`.
    """
    model.calibrate_plan(plan.plan, batches, norms)
    return export_own(path, model, plan, q_images, engine)


def export_own(path: Path, model: QuantNet, plan: NamedPlan, q_images: NDArray[np.int8], engine: Engine) -> Master:
    """Add a plan to the master of a network, or replace it, as :func:`with_own` does; return it as it is read back."""
    write_master(with_own(read_master(path), model, plan, q_images, engine), path)
    return read_master(path)


def with_own(
    master: Master, model: QuantNet, plan: NamedPlan, q_images: NDArray[np.int8], engine: Engine
) -> Master:  # fmt: skip
    """Return the master of a network with a plan, and what the network has of the plan's own, in place of its name's.

    The plan is compared as :func:`export` compares widths. Raises :class:`ExportMismatch` and what
    :meth:`~bitgear.checkpoint.Master.with_plans` raises.
    """
    folded = {conv.name: model.layer(conv.name).norm(OWN).folded() for conv in model.graph.convs}
    own = {name: BatchNorm(gain.detach().numpy(), bias.detach().numpy()) for name, (gain, bias) in folded.items()}
    held = model.own_tensors()
    scales = {name: np.float32(held[name].detach().exp().item()) for name in scale_names(model.graph) if name in held}
    master = master.with_plans([replace(plan, batch_norm=own, scales=scales or None)])
    compare(master, model, q_images, plan.plan, engine, OWN)
    return master


def compare(
    master: Master, model: QuantNet, q_images: NDArray[np.int8], precision: Precision, engine: Engine,
    norms: Norms = "width",
) -> int:  # fmt: skip
    """Return how many integers were compared and found equal; raise :class:`ExportMismatch` otherwise."""
    ours: dict[tuple[str, str], NDArray[Any]] = {}
    theirs: dict[tuple[str, str], NDArray[Any]] = {}

    def keep(name: str, what: str, integers: torch.Tensor) -> None:
        ours[name, what] = integers.double().numpy()

    with torch.no_grad():
        how = Pass(precision, training=False, exact=True, norms=norms, observe=keep)
        trained = model(torch.from_numpy(q_images), how).numpy()
    logits = reference.run(
        master, q_images, precision, lambda name, what, integers: theirs.update({(name, what): integers})
    )
    compared = 0
    for place, integers in ours.items():
        wrong = int((integers != theirs[place]).sum())
        if wrong:
            raise ExportMismatch(
                f"{wrong} of {integers.size} integers differ at precision {precision} in the {place[1]} of node "
                f"{place[0]!r}"
            )
        compared += integers.size
    for who, other in (
        ("the trained network", trained),
        (f"engine {engine.name}", engine.derive(master, precision).run(q_images)),
    ):
        if not np.array_equal(logits, other):
            worst = float(np.abs(logits - other).max())
            raise ExportMismatch(
                f"logits of {who} differ from the reference at precision {precision} by up to {worst:.3g}"
            )
    return compared
