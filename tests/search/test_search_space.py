"""What may be chosen, what is tied together, and what a choice takes."""

import pytest

from bitgear.bits import LayerBits, Plan
from bitgear.errors import PrecisionNotOffered, SearchError
from bitgear.graph import IMAGE, Conv, Graph, Linear, Pool
from bitgear.search.space import Space, tied
from tests.masters import tiny_master


def residual_graph(shortcut_bits: int | None = None) -> Graph:
    """Two blocks: one with a projection, one with an identity."""
    return Graph(
        (
            Conv("stem", IMAGE, 8, 3, padding=1, bits=8),
            Conv("a.shortcut", "stem", 16, 1, stride=2, relu=False, bits=shortcut_bits),
            Conv("a.conv1", "stem", 16, 3, stride=2, padding=1),
            Conv("a.conv2", "a.conv1", 16, 3, padding=1, residual="a.shortcut"),
            Conv("b.conv1", "a.conv2", 16, 3, padding=1),
            Conv("b.conv2", "b.conv1", 16, 3, padding=1, residual="a.conv2"),
            Pool("pool", "b.conv2"),
            Linear("head", "pool", 10),
        )
    )


def test_a_projection_is_tied_to_its_branch_and_an_identity_to_nothing() -> None:
    assert tied(residual_graph()) == [("a.conv1", "a.shortcut"), ("a.conv2",), ("b.conv1",), ("b.conv2",)]
    assert tied(residual_graph(8)) == [("a.conv1",), ("a.conv2",), ("b.conv1",), ("b.conv2",)]


def test_a_projection_without_a_branch_stands_alone() -> None:
    graph = Graph(
        (
            Conv("stem", IMAGE, 8, 3, padding=1, bits=8),
            Conv("side", "stem", 8, 1, relu=False),
            Conv("main", "stem", 8, 3, padding=1, bits=8),
            Conv("end", "main", 8, 3, padding=1, residual="side"),
        )
    )
    assert tied(graph) == [("side",), ("end",)]


def test_a_choice_becomes_a_plan_and_is_counted() -> None:
    space = Space(tiny_master(graph=residual_graph()), (8, 4, 2))
    choice = (4, 2, 8, 2)
    plan = space.plan(choice)
    assert plan.default == LayerBits(4, 4)  # the mean over five layers is 4
    assert {name: plan.of(name).weight_bits for name in space.names} == {
        "a.conv1": 4, "a.shortcut": 4, "a.conv2": 2, "b.conv1": 8, "b.conv2": 2,
    }  # fmt: skip
    assert space.mean_width(choice) == pytest.approx(4.0)
    weights = [16 * 8 * 9 + 16 * 8, 16 * 16 * 9, 16 * 16 * 9, 16 * 16 * 9]
    pixels = 8 * 8
    assert space.total(space.weight_bytes, choice) == sum(n * b for n, b in zip(weights, choice, strict=True)) / 8
    assert space.total(space.bit_operations, choice) == sum(
        pixels * n * b * b for n, b in zip(weights, choice, strict=True)
    )
    assert space.fixed_bytes == 8 * 3 * 9 + 16 * 10
    assert space.fixed_bit_operations == (16 * 16 * 8 * 3 * 9 + 16 * 10) * 64


def test_the_image_has_8_bits_whatever_reads_it() -> None:
    graph = Graph(
        (
            Conv("stem", IMAGE, 8, 3, padding=1),
            Conv("next", "stem", 8, 3, padding=1),
            Pool("pool", "next"),
            Linear("head", "pool", 10),
        )
    )
    space = Space(tiny_master(graph=graph), (8, 2))
    assert [unit.names for unit in space.units] == [("stem",), ("next",)]
    pixels = 16 * 16
    assert space.total(space.bit_operations, (2, 2)) == pixels * (8 * 3 * 9 * 2 * 8 + 8 * 8 * 9 * 2 * 2)
    assert space.total(space.bit_operations, (8, 8)) == pixels * (8 * 3 * 9 + 8 * 8 * 9) * 64


def test_one_width_everywhere_is_the_plan_of_that_width() -> None:
    space = Space(tiny_master(), (8, 4))
    assert space.plan(space.uniform(4)) == Plan.uniform(4)
    assert space.plan(space.uniform(5)) == Plan.uniform(5)  # not one of those to choose from


def test_a_search_needs_layers_and_widths() -> None:
    fixed = Graph((Conv("stem", IMAGE, 8, 3, bits=8), Pool("pool", "stem"), Linear("head", "pool", 10)))
    with pytest.raises(SearchError, match="nothing is to choose"):
        Space(tiny_master(graph=fixed), (8, 4))
    with pytest.raises(SearchError, match="two widths or more"):
        Space(tiny_master(), (4, 4))
    with pytest.raises(PrecisionNotOffered):
        Space(tiny_master(), (9, 4))
