"""Real pictures as the bodies of requests, and how right an answer about them is.

Read from the folder of data sets, made before a measurement starts: while it runs nothing is encoded or graded.
"""

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgear.tasks.segment import Confusion

EXAMPLES = Path(__file__).parent.parent / "examples"
JPEG_QUALITY = 95
VOID = 11
"""Of CamVid: pixels nobody labelled; the classes are those before it."""


@dataclass(frozen=True)
class Pictures:
    """``bodies``: JPEG files. ``truths``: a map of class ids for each, uint8 (height, width), or nothing known."""

    name: str
    bodies: tuple[bytes, ...]
    truths: tuple[NDArray[np.uint8], ...] = ()


def street_scenes(folder: Path) -> Pictures:
    """Return the official test split of CamVid, 480x360: ``camvid.tar`` in a folder."""
    files = _read(folder / "camvid.tar", ("test/", "testannot/"))
    names = sorted(name for name in files if name.startswith("test/"))
    truths = [np.asarray(Image.open(io.BytesIO(files[f"testannot/{Path(name).stem}.png"]))) for name in names]
    bodies = tuple(jpeg(Image.open(io.BytesIO(files[name]))) for name in names)
    return Pictures("CamVid test", bodies, tuple(truths))


def photographs(folder: Path, side_px: int = 224, count: int = 200) -> Pictures:
    """Return photographs of that side, of ``imagenet1000.tar`` in a folder: for networks that know none of them."""
    files = _read(folder / "imagenet1000.tar", ("",))
    names = sorted(name for name in files if name.endswith(".jpg"))[:count]
    bodies = tuple(jpeg(Image.open(io.BytesIO(files[name])).resize((side_px, side_px))) for name in names)
    return Pictures(f"photographs {side_px}x{side_px}", bodies)


def examples() -> Pictures:
    """Return the photographs that come with the project."""
    return Pictures("examples", tuple(path.read_bytes() for path in sorted(EXAMPLES.glob("*.jpg"))))


def _read(path: Path, prefixes: Sequence[str]) -> dict[str, bytes]:
    def members() -> Iterator[tuple[str, bytes]]:
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.name.startswith(tuple(prefixes)) else None
                if content is not None:
                    yield member.name, content.read()

    return dict(members())


def jpeg(image: Image.Image, quality: int = JPEG_QUALITY) -> bytes:
    """Return an image as a JPEG file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def noise(width_px: int, height_px: int) -> bytes:
    """Return a PNG file of random pixels, the same at every call."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height_px, width_px, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def message(path: str, body: bytes, content_type: str, headers: Mapping[str, str]) -> bytes:
    """Return a whole HTTP/1.1 request that posts a body."""
    fields = {"Host": "127.0.0.1", "Content-Type": content_type, "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body


@dataclass
class Grades:
    """How right the answers about pictures are: by picture and precision, for equal precisions must give equal answers.

    ``right``: the share of pixels whose class is right, 0..1. ``confusions``: by picture and precision.
    ``different``: answers that differ from an earlier one about the same picture at the same precision.
    """

    pictures: Pictures
    right: dict[tuple[int, str], float] = field(default_factory=dict)
    confusions: dict[tuple[int, str], NDArray[np.int64]] = field(default_factory=dict)
    different: int = 0
    _digests: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def grade(self, picture: int, precision: str, answer: Mapping[str, Any]) -> float:
        """Return how right an answer is; NaN where no truth is known."""
        said = answer.get("mask") or answer.get("predictions")
        digest = hashlib.blake2b(json.dumps(said).encode()).digest()
        key = (picture, precision)
        if key in self._digests:
            self.different += self._digests[key] != digest
        else:
            self._digests[key] = digest
            self._grade(key, said)
        return self.right[key]

    def _grade(self, key: tuple[int, str], said: Any) -> None:
        if not self.pictures.truths:
            self.right[key] = np.nan
            return
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(said["data"]))))
        confusion = Confusion(VOID)
        confusion.add(mask, self.pictures.truths[key[0]], VOID)
        self.right[key] = confusion.pixel_accuracy()
        self.confusions[key] = confusion.counts

    def confusion(self, pictures: Sequence[int], precisions: Sequence[str]) -> list[list[int]]:
        """Return the pixels of graded answers by true and by predicted class; nothing where no truth is known."""
        whole = Confusion(VOID)
        for key in zip(pictures, precisions, strict=True):
            whole.counts += self.confusions.get(key, 0)
        return whole.counts.tolist() if self.pictures.truths else []


def miou(confusions: Iterable[list[list[int]]]) -> float | None:
    """Return the mean IoU of the pixels of all these; None where no truth is known."""
    whole = Confusion(VOID)
    whole.counts = sum((np.array(counts, np.int64) for counts in confusions if counts), whole.counts)
    return whole.miou() if whole.counts.any() else None
