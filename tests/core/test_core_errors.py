"""The error tree: a stable code each, drawn in the docstring of its module."""

import copy
import inspect
import pickle
import re

import pytest

from bitgear import errors
from tests.drawn import drawn_tree

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]


def test_there_are_errors_and_all_are_bitgears() -> None:
    assert len(CLASSES) > 20
    assert all(issubclass(cls, errors.BitgearError) for cls in CLASSES)


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_states_its_code_and_is_drawn(cls: type[errors.BitgearError]) -> None:
    assert "code" in vars(cls), "the code is inherited: it would change with the tree"
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cls.code)
    assert re.search(rf"\b{cls.__name__}\b", errors.__doc__ or "")
    assert cls.__doc__


def test_the_drawn_tree_has_the_real_parents() -> None:
    assert drawn_tree(errors.__doc__) == {
        cls.__name__: cls.__base__.__name__ for cls in CLASSES if cls is not errors.BitgearError
    }


@pytest.mark.parametrize(
    "error",
    [
        errors.InputError("three words here"),
        errors.PrecisionNotOffered("mixed-1.0", ["8", "4"], "m"),
        errors.ImageTooLarge(9, 9, 64, 8),
        errors.SystemRefused(FileNotFoundError(2, "No such file", "x.jpg")),
    ],
)
def test_an_error_comes_back_from_another_process_as_it_was(error: errors.BitgearError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


@pytest.mark.parametrize(
    "raised", [ImportError("no module"), OSError("libcudart.so: cannot open"), TypeError("protobuf")]
)
def test_whatever_the_import_of_an_extra_raises_says_what_it_was_for(raised: Exception) -> None:
    said = f"training needs bitgear's extra 'train': pip install -e '.[train]' in its checkout ({errors.named(raised)})"
    with (
        pytest.raises(errors.EngineUnavailable, match=f"^{re.escape(said)}$") as caught,
        errors.of_extra("training", "train"),
    ):
        raise raised
    assert caught.value.__cause__ is raised
