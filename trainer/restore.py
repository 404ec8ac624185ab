"""What files hold, a master, a run's float network or customary weights, in a network that can be trained."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bitgear.bits import MASTER_BITS, Plan, Precision
from bitgear.checkpoint import Master
from bitgear.convert.float_model import torch_hint
from bitgear.errors import DataError
from bitgear.fold import batch_norm
from bitgear.graph import IMAGE, Conv, Graph, Linear
from bitgear.inputs import InputRecord
from bitgear.plans import BatchNorm as FoldedBatchNorm
from trainer.config import ConfigError
from trainer.model import EPS, OWN, BatchNorm, Norms, Pass, QuantNet, key, require, slug
from trainer.networks.pyramid import CLASSIFIER
from trainer.networks.resnet_cifar import batch_norm_name, strip_prefix


def load_trained(model: QuantNet, path: Path, encoder: Collection[str] = ()) -> bool:
    """Give a network what is in the ``fp32.pt`` of a run of the same network.

    ``encoder``: names of layers that are enough where the file has none of the others, being the classifier that the
    encoder was pretrained as; the others stay as they are. Returns whether all layers were found.

    Scales of weights are none of it: training finds them anew, for each channel or each layer. Raises
    :class:`~trainer.config.ConfigError` for a file that cannot be read, is no state, or is that of another network.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise ConfigError(f"weights {path} cannot be read: {error.strerror}; give the fp32.pt of a run") from error
    except Exception as error:  # of bytes that are no state, torch lets through whatever they make it stumble over
        raise ConfigError(f"weights {path} are no state of a network; give the fp32.pt of a run") from error
    if isinstance(state, dict) and "model" in state:
        raise ConfigError(f"weights {path} are the whole state of a run; give the fp32.pt beside it")
    try:
        own = model.state_dict()
        scales = {name: values for name, values in own.items() if name.endswith("weight_log_scale")}
        others = {name: values for name, values in own.items() if _layer(name) not in map(slug, encoder)}
        whole = not encoder or not others.keys().isdisjoint(state)
        if not whole:
            state = others | {name: values for name, values in state.items() if _layer(name) != CLASSIFIER}
        model.load_state_dict({**state, **scales})
    except (RuntimeError, TypeError, AttributeError) as error:
        fault = shorten(str(error).splitlines()[-1], 200, placeholder=" ...")
        raise ConfigError(
            f"weights {path} are not of the network that the configuration describes: {fault}; give the fp32.pt of a "
            "run with the same network"
        ) from error
    return whole


def _layer(name: str) -> str:
    """Return the layer that a tensor of a state belongs to; empty if none."""
    return name.partition(".")[2].partition(".")[0]


@torch.no_grad()
def import_resnet(model: QuantNet, path: Path, mean: Sequence[float], std: Sequence[float], offset: float) -> None:
    """Give a float network customary ResNet weights that were trained on ``(x / 255 - mean) / std``.

    Our input is ``code * image_scale`` with ``code = pixel - offset``; both are the same up to a factor and a shift for
    each channel, which go into the stem's weights and its batch-norm mean (exact except at the border, where zero
    padding now means ``offset`` and not ``mean``).

    Raises :class:`~trainer.config.ConfigError` for a file that cannot be read or is not safetensors, and
    :class:`~bitgear.errors.DataError` naming a tensor that is missing, does not fit, or is not of finite floats.
    """
    state, named = strip_prefix(_read_weights(path)), _customary_names(model)
    _check_weights(state, named, path)
    for conv in model.graph.convs:
        if conv.input == IMAGE:
            weight, at_mean = state[f"{conv.name}.weight"], f"{batch_norm_name(conv.name)}.running_mean"
            shift = (offset / 255 - torch.tensor(mean)) / torch.tensor(std)
            state[at_mean] = state[at_mean].float() - (weight.sum((2, 3)) * shift).sum(1)
            weight *= (1 / (255 * model.image_scale * torch.tensor(std))).view(1, -1, 1, 1)
    for name, tensor in named.items():
        tensor.copy_(state[name])


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except OSError as error:
        raise ConfigError(
            f"weights {path} cannot be read: {error.strerror or error}; give a safetensors file"
        ) from error
    except (SafetensorError, KeyError, TypeError) as error:
        hint = torch_hint(path) or "; give one that is complete"
        raise ConfigError(f"weights {path} are no safetensors file: {error}{hint}") from error
    return state


def _customary_names(model: QuantNet) -> dict[str, Tensor]:
    """Return the tensors of a float network by their customary names."""
    named: dict[str, Tensor] = {}
    for node, layer in model.quantised():
        if layer.weight is not None:
            named[f"{node.name}.weight"] = layer.weight
        if layer.bias is not None:
            named[f"{node.name}.bias"] = layer.bias
        if isinstance(node, Conv):
            bn = layer.batch_norm(None)
            parts = {"weight": bn.gamma, "bias": bn.beta, "running_mean": bn.mean, "running_var": bn.var}
            named |= {f"{batch_norm_name(node.name)}.{part}": tensor for part, tensor in parts.items()}
    return named


def _check_weights(state: Mapping[str, Tensor], named: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in named.items():
        if name not in state:
            raise DataError(f"{path} has no tensor {name!r}; is it of another depth?")
        if state[name].shape != tensor.shape:
            raise DataError(
                f"{path}: tensor {name!r} has shape {tuple(state[name].shape)}; expected {tuple(tensor.shape)}"
            )
        if not state[name].is_floating_point():
            raise DataError(f"{path}: tensor {name!r} is of {state[name].dtype}; expected floats")
        if not torch.isfinite(state[name].float()).all():
            raise DataError(
                f"{path}: tensor {name!r} holds a NaN or an infinite value; give weights of a training that ended well"
            )
    others = sorted(name for name in state.keys() - named.keys() if not name.endswith("num_batches_tracked"))
    if others:
        raise DataError(f"{path} has a tensor {others[0]!r}, which the network has not; is it of another depth?")


def check_data(master: Master, labels: Sequence[str], record: InputRecord) -> None:
    """Raise :class:`~trainer.config.ConfigError` for a master of other classes, or that reads pictures otherwise."""
    if (master.labels, master.input) != (tuple(labels), record):
        raise ConfigError(
            f"master {master.name!r} has other classes or another input than the data and the configuration make: "
            f"{', '.join(master.labels)[:120]}; give a master of this data"
        )


def check_network(master: Master, graph: Graph) -> None:
    """Raise :class:`~trainer.config.ConfigError` for a master of another network."""
    if master.graph != graph:
        raise ConfigError(f"master {master.name!r} is of another network than the configuration says")


@torch.no_grad()
def load_floats(model: QuantNet, master: Master) -> None:
    """Give the float network a master's 8-bit weights and, as :func:`load_master` does, the batch norm of 8 bits.

    Raises :class:`~trainer.config.ConfigError` for the master of another network.
    """
    check_network(master, model.graph)
    for node, layer in model.quantised():
        if layer.weight is not None:
            weight = torch.from_numpy(master.tensors[f"{node.name}.weight"].astype(np.float32))
            scale = torch.from_numpy(master.tensors[f"{node.name}.weight_scale"].copy())
            layer.weight.copy_(weight * scale.view(-1, *[1] * (weight.dim() - 1)))
        if isinstance(node, Linear):
            require(layer.bias).copy_(torch.from_numpy(master.tensors[f"{node.name}.bias"].copy()))
        if isinstance(node, Conv):
            _set_folded(layer.batch_norm(None), batch_norm(master, node, Plan.uniform(MASTER_BITS)))


@torch.no_grad()
def load_master(model: QuantNet, master: Master, widths: Sequence[int]) -> None:
    """Give a network what a master holds for some of its widths.

    A folded batch norm says nothing of the statistics behind it, so each one is as if they were 0 and 1;
    :func:`restore_statistics` finds them. Raises :class:`~trainer.config.ConfigError` for the master of another
    network or without a width.
    """
    load_floats(model, master)
    missing = [bits for bits in widths if bits not in master.widths]
    if missing:
        raise ConfigError(f"master {master.name!r} has no {missing[0]} bits; leave it out of train.widths")
    for bits in widths:
        model.add_width(bits, None)
    for node, layer in model.quantised():
        if layer.weight_log_scale is not None:
            scale = torch.from_numpy(master.tensors[f"{node.name}.weight_scale"].copy())
            if scale.shape != layer.weight_log_scale.shape:
                raise ConfigError(
                    f"master {master.name!r} has {len(scale)} weight scales in {node.name!r}, the configuration "
                    f"{len(layer.weight_log_scale)}; change network.per_channel"
                )
            layer.weight_log_scale.copy_(scale.log())
        for bits in widths:
            for part, scales in layer.read_scales.items():
                if key(bits) in scales:
                    scales[key(bits)].fill_(math.log(master.tensors[f"{node.name}.{part}"][master.row(bits)]))
            if isinstance(node, Conv):
                _set_folded(layer.batch_norm(bits), batch_norm(master, node, Plan.uniform(bits)))


@torch.no_grad()
def load_plan(model: QuantNet, master: Master, plan: Plan) -> None:
    """Give every layer what the master folds for a plan, batch norm and scales, as the plan's own.

    The network holds the widths of the master. Of statistics holds what :func:`load_master` says.
    """
    for node, layer in model.quantised():
        bits = plan.of(node.name).act_bits
        layer.own(bits)
        for part, scales in layer.read_scales.items():
            if OWN in scales:
                scales[OWN].fill_(math.log(master.scale(f"{node.name}.{part}", bits, plan)))
        if isinstance(node, Conv):
            layer.copy_norm(key(plan.of(node.name).weight_bits), OWN)
            _set_folded(layer.norm(OWN), batch_norm(master, node, plan))


def _set_folded(bn: BatchNorm, folded: FoldedBatchNorm) -> None:
    for parameter, values in ((bn.gamma, folded.gain), (bn.beta, folded.bias)):
        parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    bn.mean.zero_()
    bn.var.fill_(1 - EPS)


@torch.no_grad()
def restore_statistics(
    model: QuantNet, precision: Precision, batches: Sequence[Tensor], norms: Norms = "width"
) -> None:  # fmt: skip
    """Find the statistics behind a folded batch norm on batches of codes; what it computes stays the same.

    Training normalises by the statistics of each batch, so gains and biases must be told apart from them.
    """
    moments: dict[str, Tensor] = {}

    def add(name: str, what: str, integers: Tensor) -> None:
        if what == "accumulator":
            var, mean = (part.double() for part in torch.var_mean(integers.float(), (0, 2, 3), correction=0))
            own = torch.stack([mean, var + mean.square()])
            moments[name] = moments.get(name, torch.zeros_like(own)) + own / len(batches)

    how = Pass(precision, training=False, norms=norms, observe=add)
    for batch in batches:
        model(batch, how)
    for conv in model.graph.convs:
        bn, unit = model.norm(conv, how), model.unit(conv, precision, norms).double()
        mean, square = moments[conv.name][0] * unit, moments[conv.name][1] * unit.square()
        gain, bias = (part.double() for part in bn.folded())
        bn.mean.copy_(mean)
        bn.var.copy_((square - mean.square()).clamp_min(0))
        bn.gamma.copy_(gain * (bn.var.double() + EPS).sqrt())
        bn.beta.copy_(bias + mean * gain)


@torch.no_grad()
def load_masters(model: QuantNet, masters: Sequence[Master], widths: Sequence[int], batches: Sequence[Tensor]) -> None:
    """Give a network what a master holds for some widths, ready to be trained; of several masters, the mean.

    Weights of runs that began alike lie in one valley, and their mean often computes better than any of them ("Model
    soups", arXiv 2203.05482). Scales are trained as logarithms, so theirs is the geometric mean. Gains have a mean once
    they are told apart from statistics; the statistics of what the mean computes are found anew.

    Raises what :func:`load_master` raises.
    """

    def load(master: Master) -> None:
        load_master(model, master, widths)
        for bits in widths:
            restore_statistics(model, bits, batches)

    _load_mean(masters, load, model.state_dict)
    if len(masters) > 1:
        for bits in widths:
            model.calibrate_width(bits, batches, scales=False)


@torch.no_grad()
def load_plans(
    model: QuantNet, masters: Sequence[Master], plan: Plan, widths: Sequence[int], batches: Sequence[Tensor]
) -> None:  # fmt: skip
    """Give a network what a plan owns in a master, as :func:`load_masters` does; all else stays as it is."""
    held = {name: values.clone() for name, values in model.state_dict().items()}

    def load(master: Master) -> None:
        load_master(model, master, widths)
        load_plan(model, master, plan)
        restore_statistics(model, plan, batches, OWN)

    _load_mean(masters, load, model.own_tensors)
    model.load_state_dict(held, strict=False)
    if len(masters) > 1:
        model.calibrate_own(plan, batches)


def _load_mean(
    masters: Sequence[Master], load: Callable[[Master], None], tensors: Callable[[], Mapping[str, Tensor]]
) -> None:  # fmt: skip
    """Give ``tensors`` the mean of what they are after each master was loaded."""
    total: dict[str, Tensor] = {}
    for master in masters:
        load(master)
        for name, values in tensors().items():
            total[name] = total.get(name, 0) + values.detach().double()
    for name, values in tensors().items():
        values.copy_(total[name] / len(masters))
