"""Widths and how they are written."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitgear.bits import (
    WIDTHS,
    LayerBits,
    Plan,
    activation_range,
    as_plan,
    check_bits,
    descending,
    is_plan_name,
    parse_bits,
    parse_widths,
    plan_name,
    weight_range,
)
from bitgear.errors import PrecisionError, PrecisionNotOffered
from tests.masters import tiny_master


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("form", ["{}", " {}", "{} ", "\t{}\t", "  {} "])
def test_a_width_is_one_digit_with_blanks_around_it(bits: int, form: str) -> None:
    assert parse_bits(form.format(bits)) == bits


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "0", "1", "9", "10", "88", "4.0", "+4", "-4", "0x4", "04", "4 4", "4,2", "int4", "four", "4\n", "\n4",
        "\u00a04", "٤", "４", "²", "4\x00", "true", "None", "8" * 10_000,
    ],
)  # fmt: skip
def test_anything_else_is_no_width(text: str) -> None:
    with pytest.raises(PrecisionError) as caught:
        parse_bits(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "widths"), [("8", (8,)), ("8,4,2", (8, 4, 2)), ("2, 8", (2, 8)), ("4,4,4", (4,)), ("2,8,2", (2, 8))]
)
def test_a_list_keeps_its_order_and_drops_repeats(text: str, widths: tuple[int, ...]) -> None:
    assert parse_widths(text) == widths


@pytest.mark.parametrize("text", ["", ",", "8,", ",8", "8,,4", "8;4", "8 4", "8,16"])
def test_a_malformed_list_is_refused(text: str) -> None:
    with pytest.raises(PrecisionError):
        parse_widths(text)


@pytest.mark.parametrize("bits", WIDTHS)
def test_known_widths_pass_the_check(bits: int) -> None:
    assert check_bits(bits) == bits


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array])
def test_widths_of_numpy_are_whole_numbers_too(kind: Callable[[int], Any]) -> None:
    assert type(check_bits(kind(4))) is int
    bits = Plan.uniform(kind(4)).default
    assert (bits, type(bits.weight_bits), type(bits.act_bits)) == (LayerBits(4, 4), int, int)
    assert tiny_master().plan(kind(4)) == Plan.uniform(4)


@pytest.mark.parametrize("bits", [1, 9, -4, 0, True, False, 4.0, "4", None, [4], float("nan"), np.True_, np.float64(4)])
def test_other_values_fail_the_check(bits: object) -> None:
    with pytest.raises(PrecisionError, match="from 2 to 8"):
        check_bits(bits)  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "expected"), [(8, (-128, 127)), (4, (-8, 7)), (3, (-4, 3)), (2, (-2, 1))])
def test_weights_use_the_full_range_of_twos_complement(bits: int, expected: tuple[int, int]) -> None:
    assert weight_range(bits) == expected
    assert activation_range(bits, signed=True) == expected


@pytest.mark.parametrize(("bits", "high"), [(8, 255), (4, 15), (3, 7), (2, 3)])
def test_unsigned_activations_begin_at_zero(bits: int, high: int) -> None:
    assert activation_range(bits, signed=False) == (0, high)


def test_descending_sorts_and_drops_repeats() -> None:
    assert descending([2, 8, 4, 8, 2]) == (8, 4, 2)
    assert descending([]) == ()


def test_a_precision_not_offered_says_what_is() -> None:
    error = PrecisionNotOffered("3", ("8", "4", "mixed-3.2"), "tiny")
    assert (error.asked, error.offered) == ("3", ("8", "4", "mixed-3.2"))
    assert str(error) == "model 'tiny' does not offer precision 3; it offers 8, 4, mixed-3.2"
    assert isinstance(error, PrecisionError)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_width_is_the_plan_of_that_width_everywhere(bits: int) -> None:
    plan = Plan.uniform(bits)
    assert plan == as_plan(bits) == as_plan(plan) == Plan.parse(f" {bits}\t") == Plan.parse(f"w{bits}a{bits}")
    assert plan.of("any") == LayerBits(bits, bits)
    assert plan.widths == {bits}
    assert str(plan) == str(bits)


def test_weights_and_activations_may_have_widths_of_their_own() -> None:
    plan = Plan.parse(" w8a7 ")
    assert plan == Plan(LayerBits(8, 7)) != Plan.parse("w7a8")
    assert plan.of("any") == LayerBits(8, 7)
    assert plan.widths == {7, 8}
    assert str(plan) == "w8a7"
    assert Plan.parse(str(plan)) == plan


def test_layers_may_have_widths_of_their_own() -> None:
    plan = Plan(LayerBits(4, 4), (("b", LayerBits(8, 4)), ("a", LayerBits(2, 6))))
    assert [plan.of(name) for name in "abc"] == [LayerBits(2, 6), LayerBits(8, 4), LayerBits(4, 4)]
    assert plan.widths == {2, 4, 6, 8}
    assert str(plan) == "w4a4+2"


def test_plans_of_the_same_widths_are_the_same_key() -> None:
    layers = (("b", LayerBits(8, 4)), ("a", LayerBits(2, 6)))
    one, other = Plan(LayerBits(4, 4), layers), Plan(LayerBits(4, 4), layers[::-1])
    assert one == other
    assert {one: 1}[other] == 1
    assert one != Plan(LayerBits(4, 4), layers[:1]) != Plan.uniform(4)


def test_layers_that_the_default_serves_do_not_make_another_plan() -> None:
    layers = (("a", LayerBits(4, 4)), ("b", LayerBits(8, 4)))
    assert Plan(LayerBits(4, 4), layers) == Plan(LayerBits(4, 4), layers[1:])
    assert Plan(LayerBits(4, 4), layers[:1]) == Plan.uniform(4)
    with pytest.raises(PrecisionError, match="twice"):
        Plan(LayerBits(4, 4), (*layers, layers[0]))


@pytest.mark.parametrize("name", ["mixed-3.2", "mixed-3.2-a", "a", "fast", "w8a9", "w8", "none-3", "a" * 32, "a..b"])
def test_names_of_plans(name: str) -> None:
    assert is_plan_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", "4", "8a", "w8a7", "w2a2", "auto", "none", "Mixed", "mixed_3", "-a", ".a", "a b", "a/b", "a,b", "a\n",
        "\na", "ä", "a" * 33, "a\x00", "mixed-\u0663",
    ],
)  # fmt: skip
def test_what_names_no_plan(name: str) -> None:
    assert not is_plan_name(name)


def test_a_plan_is_called_after_its_mean_width() -> None:
    taken: list[str] = []
    for _ in range(27):
        taken.append(plan_name(3.16, taken))
    assert taken[:3] == ["mixed-3.2", "mixed-3.2-a", "mixed-3.2-b"]
    assert taken[-1] == "mixed-3.2-z"
    assert all(map(is_plan_name, taken))
    with pytest.raises(PrecisionError, match="taken"):
        plan_name(3.2, taken)


def test_a_plan_names_each_layer_once() -> None:
    with pytest.raises(PrecisionError, match="twice"):
        Plan(LayerBits(4, 4), (("a", LayerBits(8, 4)), ("a", LayerBits(8, 8))))


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1", "9", "44", "w4", "a4", "w4a", "wa", "w4a9", "w1a4", "w4a4a4", "W4A4", "w4 a4", "a4w4", "w4a4+1",
        "w4,a4", "4.0", "٤", "w4a٤", "w4a4\n", "\u00a04", "auto", "w" * 10_000,
    ],
)  # fmt: skip
def test_other_text_is_no_plan(text: str) -> None:
    with pytest.raises(PrecisionError, match="neither a width") as caught:
        Plan.parse(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("bits", [1, 9, True, 4.0, "4", None])
def test_what_is_no_width_is_in_no_plan(bits: object) -> None:
    for make in (as_plan, Plan.uniform, lambda b: LayerBits(b, 4), lambda b: LayerBits(4, b)):
        with pytest.raises(PrecisionError, match="from 2 to 8"):
            make(bits)  # type: ignore[arg-type,operator]


def test_text_is_no_precision_and_the_refusal_says_what_reads_it() -> None:
    with pytest.raises(PrecisionError, match=r"'mixed-3.0' is text: .*plan\(\) makes one of text"):
        as_plan("mixed-3.0")  # type: ignore[arg-type]
