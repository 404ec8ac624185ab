"""Rewrites leave what a network computes as it is."""

import numpy as np
import pytest

from bitgear.convert.architectures import ARCHITECTURES
from bitgear.convert.calibrate import largest_values
from bitgear.convert.float_model import FloatModel, Floats
from bitgear.convert.rewrite import HEADROOM, equalisable, equalise, fit_input
from bitgear.graph import IMAGE
from tests.convert.networks import pictures, tiny_model


def logits(model: FloatModel) -> Floats:
    result: Floats = model.session().run(None, {IMAGE: model.normalise(pictures(4, model.input.height_px))})[0]
    return result


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_fitted_input_changes_no_output(name: str) -> None:
    model = tiny_model(name)
    fitted = fit_input(model)
    np.testing.assert_allclose(logits(fitted), logits(model), rtol=1e-3, atol=1e-3 * np.abs(logits(model)).max())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_fitted_input_uses_all_codes_and_pads_with_the_mean(name: str) -> None:
    record = fit_input(tiny_model(name)).input
    table = record.table()
    assert (np.abs(table).max(axis=1) == 127).all()
    assert (np.abs(np.diff(table.astype(int), axis=1)) <= 1).all()
    means = np.asarray(record.mean) * 255
    for channel in range(3):
        np.testing.assert_allclose(np.interp(means[channel], np.arange(256), table[channel]), 0, atol=0.5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equalised_channels_change_no_output(name: str) -> None:
    model = tiny_model(name)
    equal = equalise(model, largest_values(model, pictures(4, 33)))
    assert name in ("resnet20", "resnet56") or any((equal.weights[k] != model.weights[k]).any() for k in model.weights)
    np.testing.assert_allclose(logits(equal), logits(model), rtol=1e-3, atol=1e-3 * np.abs(logits(model)).max())


def test_equalised_channels_have_one_range() -> None:
    model = tiny_model("mobilenet_v1")
    before = largest_values(model, pictures(4, 33))
    equal = equalise(model, before)
    after = largest_values(equal, pictures(4, 33))
    assert list(after) == [f"dw{i}" for i in range(1, 14)]
    for name, values in after.items():
        loud = before[name] > 6 / 1000
        np.testing.assert_allclose(values[loud], np.maximum(before[name][loud], 6 / HEADROOM), rtol=1e-3)
        np.testing.assert_allclose(values[~loud], before[name][~loud], rtol=1e-3, atol=1e-5)


def test_only_what_nothing_else_reads_is_scaled() -> None:
    assert set(equalisable(tiny_model("resnet18"))) == {
        f"layer{stage}.{block}.conv1" for stage in range(1, 5) for block in range(2)
    }
    found = equalisable(tiny_model("mobilenet_v2"))
    assert "features.2.conv.1.0" in found  # depthwise, read by the projection alone
    assert "features.2.conv.0.0" not in found  # its reader stays at 8 bits
    assert "features.2.conv.2" not in found  # a residual too
    assert "features.18.0" not in found  # the pool reads it


def test_a_network_without_any_values_stays_as_it_is() -> None:
    model = tiny_model("resnet18")
    equal = equalise(model, {name: np.zeros_like(model.biases[name]) for name in equalisable(model)})
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(equal.weights[name], weight)
