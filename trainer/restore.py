"""A master's weights, scales and batch norm back in a network that can be trained."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bitgear.bits import MASTER_BITS
from bitgear.checkpoint import Master
from bitgear.graph import IMAGE, Conv, Linear
from trainer.config import ConfigError
from trainer.model import EPS, BatchNorm, Pass, QuantNet, key, require


@torch.no_grad()
def load_master(model: QuantNet, master: Master) -> None:
    """Give a network what the master holds: weights as its 8-bit codes say, and every width of it.

    The float network takes the batch norm of 8 bits. A folded batch norm says nothing of the statistics behind it, so
    each one is as if they were 0 and 1; :func:`restore_statistics` finds them. Raises
    :class:`~trainer.config.ConfigError` for the master of another network.
    """
    if master.graph != model.graph:
        raise ConfigError(f"master {master.name!r} is of another network than the configuration says")
    for bits in master.widths:
        model.add_width(bits, None)
    for node, layer in model.quantised():
        tensors = {
            part: torch.from_numpy(master.tensors[f"{node.name}.{part}"].copy())
            for part in ("weight", "weight_scale", "act_scale", "residual_scale", "gain", "bias")
            if f"{node.name}.{part}" in master.tensors
        }
        if layer.weight is not None:
            scale, held = tensors["weight_scale"], require(layer.weight_log_scale)
            if scale.shape != held.shape:
                raise ConfigError(
                    f"master {master.name!r} has {len(scale)} weight scales in {node.name!r}, the configuration "
                    f"{len(held)}; change network.per_channel"
                )
            layer.weight.copy_(tensors["weight"].float() * scale.view(-1, *[1] * (layer.weight.dim() - 1)))
            held.copy_(scale.log())
        if isinstance(node, Linear):
            require(layer.bias).copy_(tensors["bias"])
        for bits in master.widths:
            row = master.row(bits)
            if node.input != IMAGE:
                layer.act_log_scale[key(bits)].copy_(tensors["act_scale"][row].log())
            if isinstance(node, Conv):
                _set_folded(layer.batch_norm(bits), tensors["gain"][row], tensors["bias"][row])
                if node.residual is not None:
                    layer.residual_log_scale[key(bits)].copy_(tensors["residual_scale"][row].log())
        if isinstance(node, Conv):
            layer.batch_norm(None).load_state_dict(layer.batch_norm(MASTER_BITS).state_dict())


def _set_folded(bn: BatchNorm, gain: Tensor, bias: Tensor) -> None:
    bn.gamma.copy_(gain)
    bn.beta.copy_(bias)
    bn.mean.zero_()
    bn.var.fill_(1 - EPS)


@torch.no_grad()
def restore_statistics(model: QuantNet, bits: int, batches: Sequence[Tensor]) -> None:
    """Find the statistics behind a width's folded batch norm on batches of codes; what it computes stays the same.

    Training normalises by the statistics of each batch, so gains and biases must be told apart from them.
    """
    moments: dict[str, Tensor] = {}

    def add(name: str, what: str, integers: Tensor) -> None:
        if what == "accumulator":
            acc = integers.double()
            own = torch.stack([acc.mean((0, 2, 3)), acc.square().mean((0, 2, 3))])
            moments[name] = moments.get(name, torch.zeros_like(own)) + own / len(batches)

    for batch in batches:
        model(batch, Pass(bits, training=False, observe=add))
    for conv in model.graph.convs:
        bn, unit = model.layer(conv.name).batch_norm(bits), model.unit(conv, bits).double()
        mean, square = moments[conv.name][0] * unit, moments[conv.name][1] * unit.square()
        gain, bias = (part.double() for part in bn.folded())
        bn.mean.copy_(mean)
        bn.var.copy_((square - mean.square()).clamp_min(0))
        bn.gamma.copy_(gain * (bn.var.double() + EPS).sqrt())
        bn.beta.copy_(bias + mean * gain)
