"""The examples in the docstrings are what the code prints."""

import doctest
import importlib
import pkgutil

import pytest

import bitgear

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(bitgear.__path__, "bitgear.")
    if not info.ispkg and not info.name.endswith("__main__")
)


@pytest.mark.parametrize("module", [*MODULES, "trainer.alrs"])
def test_examples_in_docstrings_hold(module: str) -> None:
    failures, _ = doctest.testmod(importlib.import_module(module))
    assert failures == 0


@pytest.mark.parametrize("module", ["bitgear.bits", "bitgear.rounding", "trainer.alrs"])
def test_modules_of_arithmetic_have_an_example(module: str) -> None:
    _, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
