"""Every error that bitgear raises on purpose. Each class has a stable ``code`` that clients and scripts may rely on.

::

    BitgearError
    ├── PrecisionError            a width or plan that does not exist or is not written as one
    │   └── PrecisionNotOffered   a width or plan that could exist, but does not in this master
    ├── GraphError                a network description that contradicts itself
    │   └── UnknownNode           a node type this version does not know
    ├── CheckpointError           a master that cannot be used
    │   ├── CheckpointNotFound
    │   ├── CheckpointTruncated   the file ends before its content does
    │   ├── CheckpointCorrupt     its tensors are not those that were written
    │   ├── HeaderTooLarge        the declared header exceeds the limit
    │   ├── HeaderInvalid         the header is not what safetensors prescribes
    │   ├── NotAMaster            a safetensors file, but not one of ours
    │   ├── VersionUnsupported    written by a newer bitgear
    │   ├── MetadataInvalid       a metadata entry is missing or malformed
    │   ├── TensorMissing / TensorUnexpected / TensorDtype / TensorShape
    │   ├── PrecisionMissing      no row of scales and statistics for a declared width
    │   ├── PlanInvalid           a named plan that contradicts itself, the master or another plan
    │   ├── MasterChanged         the file holds other weights than those that what is written belongs to
    │   └── ValueInvalid          NaN, infinite or non-positive where that has no meaning
    ├── ImageError                bytes that are not a usable picture
    │   ├── ImageEmpty
    │   ├── ImageFormatUnsupported
    │   ├── ImageCorrupt          truncated or damaged
    │   ├── ImageTooLarge         more pixels than allowed, judged before decoding
    │   └── ImageAnimated
    ├── InputError                a tensor, a picture in memory or an option that is not as expected
    ├── ModelNotFound
    ├── EngineUnavailable         the engine's library is not installed, or it finds no memory
    ├── DataError                 a data set that cannot be read
    ├── ServerUnreachable         a server that was asked, and of which no answer came
    ├── SystemRefused             no space left, no permission: what the operating system said no to
    └── SearchError               a search for plans that cannot give any
"""

import copyreg
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxstring = _REPR.maxother = 128
_REPR.maxlist = _REPR.maxtuple = 8


def quoted(value: object) -> str:
    """Return ``repr(value)``, cut to a line or two: a message may quote what stands in a hostile file.

    >>> quoted([7] * 1000)
    '[7, 7, 7, 7, 7, 7, 7, 7, ...]'
    """
    text = _REPR.repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


class BitgearError(Exception):
    """Base of all errors raised on purpose. ``str(error)`` says what was given, what was expected and what to do."""

    code = "bitgear"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it as what it says, whatever it was made of: a pool of processes waits for ever for an error else."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # not typed


class PrecisionError(BitgearError):
    """A precision that is neither a width from 2 to 8 nor a plan of widths."""

    code = "precision-invalid"


class PrecisionNotOffered(PrecisionError):
    """A precision that this model does not offer: ``asked``, and those that are ``offered``, as they are written."""

    code = "precision-not-offered"

    def __init__(self, asked: str, offered: Iterable[str], model: str) -> None:
        self.asked = asked
        self.offered = tuple(offered)
        super().__init__(f"model {model!r} does not offer precision {asked}; it offers {', '.join(self.offered)}")


class GraphError(BitgearError):
    """A network description that contradicts itself."""

    code = "graph-invalid"


class UnknownNode(GraphError):
    """A node type that this version of bitgear does not know."""

    code = "graph-unknown-node"


class CheckpointError(BitgearError):
    """A master checkpoint that cannot be used."""

    code = "checkpoint-invalid"


class CheckpointNotFound(CheckpointError):
    """No readable file at the path given."""

    code = "checkpoint-not-found"


class CheckpointTruncated(CheckpointError):
    """The file ends before the content its header declares."""

    code = "checkpoint-truncated"


class CheckpointCorrupt(CheckpointError):
    """The tensors are not those that were written."""

    code = "checkpoint-corrupt"


class HeaderTooLarge(CheckpointError):
    """The header declares more bytes than a master may have."""

    code = "checkpoint-header-too-large"


class HeaderInvalid(CheckpointError):
    """The header is not the JSON object that safetensors prescribes."""

    code = "checkpoint-header-invalid"


class NotAMaster(CheckpointError):
    """A safetensors file without bitgear's metadata."""

    code = "checkpoint-not-a-master"


class VersionUnsupported(CheckpointError):
    """A master written in a format newer than this version reads."""

    code = "checkpoint-version-unsupported"


class MetadataInvalid(CheckpointError):
    """A metadata entry is missing or malformed."""

    code = "checkpoint-metadata-invalid"


class TensorMissing(CheckpointError):
    """The graph needs a tensor that the file does not hold."""

    code = "checkpoint-tensor-missing"


class TensorUnexpected(CheckpointError):
    """The file holds a tensor that the graph does not use."""

    code = "checkpoint-tensor-unexpected"


class TensorDtype(CheckpointError):
    """A tensor has another element type than the format prescribes."""

    code = "checkpoint-tensor-dtype"


class TensorShape(CheckpointError):
    """A tensor has another shape than the graph prescribes."""

    code = "checkpoint-tensor-shape"


class PrecisionMissing(CheckpointError):
    """A declared width has no row of scales or batch-norm parameters."""

    code = "checkpoint-precision-missing"


class PlanInvalid(CheckpointError):
    """A named plan that contradicts itself, the master that holds it, or another plan."""

    code = "checkpoint-plan-invalid"


class MasterChanged(CheckpointError):
    """A file that holds other weights, or plans of other widths, than those that what is to be written belongs to."""

    code = "checkpoint-changed"


class ValueInvalid(CheckpointError):
    """A scale is NaN, infinite or not positive, or a parameter is not finite."""

    code = "checkpoint-value-invalid"


class ImageError(BitgearError):
    """Bytes that are not a usable picture."""

    code = "image-invalid"


class ImageEmpty(ImageError):
    """No bytes at all."""

    code = "image-empty"


class ImageFormatUnsupported(ImageError):
    """Not a JPEG, PNG or WebP image."""

    code = "image-format-unsupported"


class ImageCorrupt(ImageError):
    """A truncated or damaged image."""

    code = "image-corrupt"


class ImageTooLarge(ImageError):
    """More pixels than the limit, in all or along a side, judged from the header before decoding."""

    code = "image-too-large"

    def __init__(self, width_px: int, height_px: int, limit_pixels: int, limit_side_px: int) -> None:
        self.limit_pixels = limit_pixels
        super().__init__(
            f"image of {width_px} x {height_px} = {width_px * height_px} pixels exceeds the limit of {limit_pixels} "
            f"pixels, {limit_side_px} along a side; send a smaller image"
        )


class ImageAnimated(ImageError):
    """An image of several frames."""

    code = "image-animated"


class InputError(BitgearError):
    """A tensor or a picture in memory of the wrong shape or type, an option out of range, or another task's call."""

    code = "input-invalid"


class ModelNotFound(BitgearError):
    """No model of that name."""

    code = "model-not-found"


class EngineUnavailable(BitgearError):
    """The engine's library is not installed or cannot be loaded, or the engine finds no memory for a model."""

    code = "engine-unavailable"


@contextmanager
def of_extra(purpose: str, extra: str) -> Iterator[None]:
    """Import within it what bitgear installs only with an extra, for ``purpose``.

    Raises :class:`EngineUnavailable` for whatever the import raises: a library that does not fit another one, or lacks
    one of the system's, has errors of its own.
    """
    try:
        yield
    except Exception as error:
        raise EngineUnavailable(
            f"{purpose} needs bitgear's extra {extra!r}: pip install -e '.[{extra}]' in its checkout ({named(error)})"
        ) from error


def named(error: Exception) -> str:
    """Return what an error says, after its class."""
    return f"{type(error).__name__}: {error}"


class DataError(BitgearError):
    """A data set that cannot be read."""

    code = "data-invalid"


class ServerUnreachable(BitgearError):
    """No answer came from the server that was asked."""

    code = "server-unreachable"


class SystemRefused(BitgearError):
    """What the operating system said no to: no space left, no permission, a file that went away."""

    code = "system-refused"

    def __init__(self, error: OSError) -> None:
        file = "" if error.filename is None else f"{error.filename}: "
        super().__init__(
            f"{file}{error.strerror or error}; check that what is read exists, and that there is room and permission "
            "for what is written"
        )


class SearchError(BitgearError):
    """A search for plans that cannot give any: nothing to choose, or limits that no plan keeps."""

    code = "search-impossible"
