"""Widths and how they are written."""

import pytest

from bitgear.bits import WIDTHS, activation_range, check_bits, descending, parse_bits, parse_widths, weight_range
from bitgear.errors import PrecisionError, PrecisionNotOffered


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


@pytest.mark.parametrize("bits", [1, 9, -4, 0, True, False, 4.0, "4", None, [4], float("nan")])
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


def test_a_width_not_offered_says_what_is() -> None:
    error = PrecisionNotOffered(3, (2, 8, 4), "tiny")
    assert (error.bits, error.offered) == (3, (2, 8, 4))
    assert str(error) == "model 'tiny' does not offer 3 bits; it offers 8, 4, 2"
    assert isinstance(error, PrecisionError)
