"""The server's errors are drawn in the docstring of their module."""

from collections.abc import Iterator

import server.app
from bitgear.errors import BitgearError
from server import errors
from tests.drawn import drawn_tree


def below(cls: type[BitgearError]) -> Iterator[type[BitgearError]]:
    for child in cls.__subclasses__():
        yield from (child, *below(child))


def test_the_drawn_tree_has_all_errors_and_their_real_parents() -> None:
    own = [cls for cls in below(BitgearError) if cls.__module__.split(".")[0] == server.__name__]
    real = {cls.__name__: cls.__base__.__name__ for cls in own if cls.__base__ is not None}
    assert drawn_tree(errors.__doc__) == real
