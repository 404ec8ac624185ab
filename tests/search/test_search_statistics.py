"""Batch norm of plans: what it is moved onto, through the engine and by the definition."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bitgear import reference
from bitgear.bits import LayerBits, Plan
from bitgear.checkpoint import Master
from bitgear.engines import create_engine
from bitgear.graph import Graph
from bitgear.plans import NamedPlan, check_own
from bitgear.search.statistics import Statistics, up_to
from tests.masters import random_codes, tiny_master

PLAN = Plan(LayerBits(4, 4), (("a.conv1", LayerBits(2, 2)), ("a.conv2", LayerBits(8, 8)), ("b.conv1", LayerBits(3, 3))))


def sums_of(master: Master, name: str, plan: Plan, q_images: NDArray[np.int8]) -> NDArray[np.float64]:
    """What batch norm makes of a convolution's sums, (O, places), by the reference."""
    found: dict[str, NDArray[np.int32]] = {}

    def keep(node: str, what: str, integers: NDArray[np.int32]) -> None:
        if what == "accumulator":
            found[node] = integers

    reference.run(master, q_images, plan, keep)
    norm = (master.batch_norm(plan) or {}).get(name)
    row = master.row(plan.of(name).weight_bits)
    gain = (norm.gain if norm else master.tensors[f"{name}.gain"][row]).astype(np.float64)
    bias = (norm.bias if norm else master.tensors[f"{name}.bias"][row]).astype(np.float64)
    unit = master.tensors[f"{name}.act_scale"][master.row(plan.of(name).act_bits)].astype(np.float64)
    scale = unit * master.tensors[f"{name}.weight_scale"] * 2.0 ** (8 - plan.of(name).weight_bits)
    values = found[name].astype(np.float64) * (scale * gain)[:, None, None] + bias[:, None, None]
    return values.transpose(1, 0, 2, 3).reshape(len(gain), -1)


def test_each_layer_keeps_the_moments_of_its_own_width_everywhere() -> None:
    master = tiny_master()
    q_images = random_codes(master, 24)
    norms = Statistics(master, create_engine("auto"), q_images).fit(PLAN)
    named = NamedPlan("fitted", PLAN, batch_norm=norms)
    check_own(named, master.graph)
    fitted = master.with_plans([named])
    for conv in master.graph.searchable:
        made = sums_of(fitted, conv.name, PLAN, q_images)
        wanted = sums_of(master, conv.name, Plan.uniform(PLAN.of(conv.name).weight_bits), q_images)
        spread = wanted.std(axis=1)
        np.testing.assert_allclose(made.mean(axis=1), wanted.mean(axis=1), atol=0.02 * float(spread.max()))
        np.testing.assert_allclose(made.std(axis=1), spread, rtol=0.02)


def test_a_uniform_width_keeps_its_rows() -> None:
    master = tiny_master()
    norms = Statistics(master, create_engine("auto"), random_codes(master, 8)).fit(Plan.uniform(3))
    for conv in master.graph.convs:
        for part in ("gain", "bias"):
            row = master.tensors[f"{conv.name}.{part}"][master.row(3)]
            np.testing.assert_array_equal(getattr(norms[conv.name], part), row)


def test_plans_of_the_master_change_nothing() -> None:
    master = tiny_master()
    q_images = random_codes(master, 8)
    plain = Statistics(master, create_engine("auto"), q_images).fit(PLAN)
    zeros = {name: replace(norm, gain=np.zeros_like(norm.gain)) for name, norm in plain.items()}
    owning = master.with_plans([NamedPlan("there", PLAN, batch_norm=zeros)])
    again = Statistics(owning, create_engine("auto"), q_images).fit(PLAN)
    for name, norm in plain.items():
        np.testing.assert_array_equal(norm.gain, again[name].gain)
        np.testing.assert_array_equal(norm.bias, again[name].bias)


def test_a_channel_that_is_constant_changes_by_a_bounded_factor() -> None:
    master = tiny_master()
    flat = np.zeros((2, 3, 16, 16), np.int8)
    norms = Statistics(master, create_engine("auto"), flat).fit(PLAN)
    for conv in master.graph.convs:
        row = master.tensors[f"{conv.name}.gain"][master.row(PLAN.of(conv.name).weight_bits)].astype(np.float64)
        assert np.isfinite(norms[conv.name].bias).all()
        assert (np.abs(norms[conv.name].gain) <= 4.01 * np.abs(row) + 1e-6).all()


def test_the_network_up_to_a_layer_is_what_that_layer_needs() -> None:
    graph = tiny_master().graph
    conv = next(conv for conv in graph.convs if conv.name == "b.conv1")
    cut = up_to(graph, conv)
    assert [node.name for node in cut.nodes] == ["stem", "a.conv1", "a.conv2", "b.conv1"]
    assert cut.nodes[-1] == replace(conv, relu=False)
    assert [node.name for node in up_to(graph, graph.convs[0]).nodes] == ["stem"]
    assert isinstance(cut, Graph)
