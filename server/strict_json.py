"""JSON from outside, read strictly: UTF-8, no key twice, no number that JSON does not have, no half characters."""

import json
import re
from typing import Any

from server.errors import BadRequest

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(data: bytes) -> Any:
    """Return what a JSON text says; raise :class:`~server.errors.BadRequest` for what is not JSON, or nested deeply.

    Numbers too large for a float become infinite: whoever takes floats has to look.
    """
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        if _SURROGATE.search(data):
            # Of half a character no text can be made, nor an error that names it.
            json.dumps(document, ensure_ascii=False).encode()
        return document
    except UnicodeEncodeError as error:
        raise BadRequest("the JSON holds half a character: a surrogate without the other one of its pair") from error
    except UnicodeDecodeError as error:
        raise BadRequest("the JSON is not UTF-8") from error
    except RecursionError as error:
        raise BadRequest("the JSON is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise BadRequest(f"the JSON is malformed: {error.msg} at character {error.pos}") from error
    except ValueError as error:
        raise BadRequest("the JSON holds a key twice, or a number that JSON does not have") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError
    return result


def _no_constant(name: str) -> None:
    raise ValueError(name)
