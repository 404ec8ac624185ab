"""The command ``bitgear``. Each verb imports what it needs, so that none waits for the others' libraries."""

import errno
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from bitgear import __version__
from bitgear.errors import (
    BitgearError,
    EngineUnavailable,
    ModelNotFound,
    ServerUnreachable,
    SystemRefused,
    of_extra,
)

if TYPE_CHECKING:  # each verb imports what it needs
    import numpy as np
    from numpy.typing import NDArray

    from bitgear.tasks.classify import Prediction
    from bitgear.tasks.detect import Detection
    from bitgear.tasks.members import Members
    from bitgear.tasks.pictures import Picture
    from bitgear.tasks.segment import Segmentation

app = typer.Typer(
    help="One INT8 master checkpoint, served at any width from 8 to 2 bits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEFAULT_MODEL = "resnet20-cifar10"
DEFAULT_TOP_K = 3
DEFAULT_CONFIDENCE = 0.25
STDOUT = Path("-")
"""What the hyphen names; ``./-`` is another path that equals this one, and a file."""
DRAWN_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Of pictures that are written, by suffix."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

WEBP_SIDE_PX = 16383
"""The longest that WebP holds; the others hold any side of a picture that can be read."""


def _in_a_folder(file: Path | None) -> Path | None:
    """Return a file to be written; refuse one that cannot be before anything is computed for it."""
    if file is None:
        return None
    folder = Path(os.path.realpath(file)).parent if file.is_symlink() else file.parent
    if not folder.is_dir():
        raise typer.BadParameter(f"{file}: the folder {folder} does not exist")
    if (file.exists() and not file.is_file()) or _is_open(file):
        raise typer.BadParameter(f"{file} is no regular file that may be replaced")
    if not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{file} cannot be written")
    return file


def _is_open(file: Path) -> bool:
    """Return whether a path names what is open here, such as /dev/stdout: whoever gave it wants what it holds kept."""
    if os.path.realpath(file.parent).startswith("/proc/"):
        return True
    with suppress(OSError):  # no such file, or a stream that is closed
        return any(os.path.samestat(file.stat(), os.fstat(stream)) for stream in (1, 2))
    return False


def _file_or_stdout(given: str) -> Path:
    return STDOUT if given == str(STDOUT) else Path(given)


def _in_a_folder_or_stdout(file: Path | None) -> Path | None:
    if file is not STDOUT:
        return _in_a_folder(file)
    _check_stdout()
    return file


def _check_stdout() -> None:
    """Refuse a standard output that is closed: Python has none then, and click says nothing of what it cannot print."""
    if sys.stdout is None:
        raise SystemRefused(OSError(errno.EBADF, "the standard output is closed"))


def _as_a_folder(folder: Path | None) -> Path | None:
    """Return a folder to write into, which need not exist; refuse one that cannot be, as :func:`_in_a_folder` does."""
    if folder is None:
        return None
    there = folder
    while not (there.exists() or there.is_symlink()) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise typer.BadParameter(f"{folder} cannot be made a folder: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"{folder} cannot be written: no permission in {there}")
    return folder


def _limits(values: list[float] | None) -> list[float] | None:
    """Return limits; refuse one that nothing keeps, or everything."""
    for value in values or ():
        if not (math.isfinite(value) and value > 0):
            raise typer.BadParameter(f"{value:g} is no limit; give a finite number above 0")
    return values


def _keep_apart(written: Mapping[str, Path | None], read: Mapping[str, Path | None]) -> None:
    """Refuse a file to be written that is another one to be written, or one that is read."""
    taken = {os.path.realpath(file): name for name, file in read.items() if file is not None}
    for option, file in written.items():
        if file is None or file is STDOUT:
            continue
        other = taken.setdefault(os.path.realpath(file), option)
        if other != option:
            raise typer.BadParameter(f"{file} is what {other} names; give another file", param_hint=option)


ModelArgument = Annotated[str, typer.Argument(help="A shipped master's name or the path of a master.", metavar="MODEL")]
EngineOption = Annotated[str, typer.Option(help="auto, native, onnxruntime or reference.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads of the engine for one call.")]
JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Write the results to this file; -: print them, and no table.",
        metavar="PATH",
        parser=_file_or_stdout,
        callback=_in_a_folder_or_stdout,
    ),
]

DataOption = Annotated[
    Path, typer.Option(help="The data set: a folder, or for boxes and label maps also a tar archive.")
]
SplitOption = Annotated[
    str | None, typer.Option(help="Pictures to choose by. Default: val; to classify, some of train held out.")
]
TestSplitOption = Annotated[str, typer.Option(help="Pictures to state the accuracy by.")]
ValidateOption = Annotated[int, typer.Option(min=1, help="Pictures to choose by, at most.")]
CalibrateOption = Annotated[
    int | None, typer.Option(min=1, help="Pictures to fit batch norm on. Default: by their size, 16 to 128.")
]
MasterOption = Annotated[
    Path | None, typer.Option(help="Write the master here. Default: in place.", callback=_in_a_folder)
]


def main() -> NoReturn:
    """Run the command line; what is raised on purpose or by the system becomes one line on stderr, exit status 1."""
    try:
        app()
    except BitgearError as error:
        _fail(error)
    except OSError as error:
        if error.errno is None:  # a library's own, of which the system knows nothing
            raise
        _fail(SystemRefused(error))
    sys.exit(0)


def _fail(error: BitgearError) -> NoReturn:
    typer.echo(_printable(f"error: {error} [{error.code}]"), err=True)
    sys.exit(1)


def _printable(text: str) -> str:
    """Return one line for a terminal: what would steer it, in a name that a file holds, is shown by its number."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _print(text: str) -> None:
    _check_stdout()
    typer.echo(text)


def _say(line: str) -> None:
    _print(_printable(line))


def _tell(lines: Iterable[str], json_file: Path | None, results: object) -> None:
    """Print a table, or with ``-`` its results as JSON. A file of them is whole before the first line is printed.

    Whoever reads the table may go away in the middle of it, which ends this process.
    """
    if json_file is STDOUT:
        _print(json.dumps(results, indent=2))
        return
    try:
        if json_file is not None:
            from bitgear.files import write_json

            write_json(json_file, results)
    finally:  # a file that cannot be written is no reason to say nothing
        for line in lines:
            _say(line)


def _version(wanted: bool) -> None:
    if wanted:
        _print(f"bitgear {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A master, by path or shipped name, or a folder of them. Repeatable. Default: all shipped ones."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. Default 8000.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Device profile: default, edge-small, edge, cloud-cpu, cloud-gpu.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="auto, native, onnxruntime or reference.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings; environment and options override it.")
    ] = None,
) -> None:
    """Serve masters over HTTP. All settings, also as environment variables and in a file: docs/settings.md."""
    # Before the slow imports: as a container's first process we have no default handler, and the signal would be lost.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from server.main import run
    from server.settings import load_settings

    given = {
        "models": model or None,
        "host": host,
        "port": port,
        "profile": profile,
        "engine": engine,
    }
    raise typer.Exit(run(load_settings(config=config, **given)))


@app.command()
def predict(
    image: Annotated[Path, typer.Argument(help="A JPEG, PNG or WebP file.", exists=True, dir_okay=False)],
    precision: Annotated[
        str, typer.Option(help="Width from 2 to 8, or the name of a plan; here also w8a7, with --url also auto.")
    ] = "8",
    model: Annotated[
        str,
        typer.Option(help="A shipped master's name or the path of a master; with --url, a model's name on the server."),
    ] = DEFAULT_MODEL,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="How many classes to show, of a model that classifies. Default: 3.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least confidence, of a model that detects. Default: 0.25."),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Paint the boxes, or the mask, onto the picture and write it to this file.", callback=_in_a_folder
        ),
    ] = None,
    json_file: JsonOption = None,
    url: Annotated[str | None, typer.Option(help="Ask the server at this address instead of running here.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="auto, native, onnxruntime or reference; not with --url. Default: auto.")
    ] = None,
) -> None:
    """Classify an image, detect what is in it, or segment it, as the model does: here or on a server."""
    from bitgear.tasks.pictures import decode_picture

    _keep_apart({"--draw": draw, "--json": json_file}, {"IMAGE": image})
    content = image.read_bytes()  # once: it may be a pipe
    decoded = cache(partial(decode_picture, content))
    if url is None:
        answer = _predict_here(decoded, precision, model, top_k, confidence, draw, engine or "auto")
    elif engine is not None:
        raise typer.BadParameter("the server at --url has an engine of its own", param_hint="--engine")
    elif "/" in model:  # no server has a model of such a name
        raise typer.BadParameter(f"with --url a name on the server, not the path {model}", param_hint="--model")
    else:
        answer = _predict_remotely(content, precision, model, top_k, confidence, draw, url)
    shown = answer.shown
    lines = [f"{image.name}  {answer.heading}", *shown.lines]
    if draw is not None and shown.paint is not None:
        _write_picture(shown.paint(decoded().pixels), draw)
        lines.append(f"drawn: {draw}")
    _tell(lines, json_file, answer.first | shown.members() | answer.last if json_file is not None else None)


@dataclass(frozen=True)
class _Shown:
    """What a task finds in a picture: as lines, as members of JSON, and painted onto its pixels, if it can be."""

    lines: list[str]
    members: "Callable[[], Members]"
    paint: "Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None" = None


@dataclass(frozen=True)
class _Answer:
    """What was found, what is said above it beside the file's name, and what JSON says before and after it."""

    shown: _Shown
    heading: str
    first: dict[str, Any]
    last: dict[str, Any]


def _predict_here(
    decoded: "Callable[[], Picture]",
    precision: str,
    model: str,
    top_k: int | None,
    confidence: float | None,
    draw: Path | None,
    engine: str,
) -> _Answer:
    from bitgear.predictor import load

    loaded, wish = load(model, engine=engine), precision.strip()
    master, least = loaded.master, DEFAULT_CONFIDENCE if confidence is None else confidence
    _check_options(master.task, top_k, confidence, draw)
    picture = decoded()
    match master.task:
        case "detect":
            shown = _shown_boxes(loaded.detect(picture, wish, confidence=least), least)
        case "segment":
            shown = _shown_mask(loaded.segment(picture, wish))
        case _:
            shown = _shown_classes(loaded.classify(picture, wish, top_k=top_k or DEFAULT_TOP_K))
    width_px, height_px, served = picture.width_px, picture.height_px, int(wish) if wish.isdecimal() else wish
    return _Answer(
        shown,
        f"{width_px}x{height_px}  {master.name} at {_spoken(wish)}",
        {"model": master.name, "version": master.version, "image": {"width": width_px, "height": height_px}},
        {"precision": {"requested": wish, "served": served, "source": "request", "reason": "asked"}},
    )


def _spoken(precision: int | str) -> str:
    """Return a precision as part of a sentence."""
    return f"{precision} bits" if str(precision).isdecimal() else str(precision)


def _check_options(task: str, top_k: int | None, confidence: float | None, draw: Path | None) -> None:
    """Refuse an option that the model's task has no use for, and a picture that cannot be written."""
    if top_k is not None and task != "classify":
        raise typer.BadParameter(f"it counts classes of a picture; this model's task is {task}", param_hint="--top-k")
    if confidence is not None and task != "detect":
        raise typer.BadParameter(f"it is of detections; this model's task is {task}", param_hint="--confidence")
    if draw is not None and task == "classify":
        raise typer.BadParameter("it paints boxes or a mask; this model classifies", param_hint="--draw")
    if draw is not None and draw.suffix.lower() not in DRAWN_FORMATS:
        raise typer.BadParameter(f"{draw.name} must end in {', '.join(DRAWN_FORMATS)}", param_hint="--draw")


def _shown_classes(found: "Sequence[Prediction]") -> _Shown:
    from bitgear.tasks.members import of_predictions

    return _Shown([f"{each.confidence:7.2%}  {each.class_name}" for each in found], partial(of_predictions, found))


def _shown_boxes(found: "Sequence[Detection]", least: float) -> _Shown:
    from bitgear.tasks.drawing import draw_boxes
    from bitgear.tasks.members import of_detections

    lines = [] if found else [f"nothing found with a confidence of {least:g} or more"]
    for each in found:
        x1, y1, x2, y2 = (round(side, 3) for side in each.box_xyxy)  # as a server's answer is
        lines.append(f"{each.confidence:7.2%}  {each.class_name:16}  ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})")
    return _Shown(lines, partial(of_detections, found), partial(draw_boxes, detections=found))


def _shown_mask(found: "Segmentation") -> _Shown:
    from bitgear.tasks.drawing import draw_mask
    from bitgear.tasks.members import of_segmentation

    present = sorted(found.present, key=lambda entry: -entry[2])
    lines = [f"{pixels / found.mask.size:7.2%}  {name}" for _, name, pixels in present]
    paint = partial(draw_mask, mask=found.mask, labels=found.labels)
    return _Shown(lines, partial(of_segmentation, found, "png"), paint)


def _write_picture(pixels: "NDArray[np.uint8]", file: Path) -> None:
    import io

    from PIL import Image

    from bitgear.files import write_atomically

    drawn_format, (height, width) = DRAWN_FORMATS[file.suffix.lower()], pixels.shape[:2]
    if drawn_format == "WEBP" and max(height, width) > WEBP_SIDE_PX:
        raise BitgearError(f"WebP holds {WEBP_SIDE_PX} pixels a side, the picture has {width}x{height}; draw a PNG")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, drawn_format)
    write_atomically(file, stream.getvalue())


def _predict_remotely(
    content: bytes, precision: str, model: str, top_k: int | None, confidence: float | None, draw: Path | None, url: str
) -> _Answer:
    try:
        from bitgear_client import BitgearClientError, Client, TransportError
        from bitgear_client import ModelNotFound as NotServed
        from bitgear_client.results import InferenceResult, PngMask
    except ImportError as error:
        raise EngineUnavailable(
            f"--url needs the client: pip install ./clients/python in the checkout of bitgear ({error})"
        ) from error
    from bitgear.tasks.classify import Prediction
    from bitgear.tasks.detect import Detection

    wish, least = precision.strip(), DEFAULT_CONFIDENCE if confidence is None else confidence
    try:
        with Client(url, retry_budget_s=0) as client:  # whoever sits there had rather try again than wait in silence
            answer: InferenceResult
            served_model = client.model(model)
            _check_options(served_model.task, top_k, confidence, draw)
            match served_model.task:
                case "detect":
                    answer = boxes = client.detect(content, model, precision=wish, confidence=least)
                    found = [Detection(d.class_name, d.class_id, d.confidence, d.box_xyxy) for d in boxes.detections]
                    shown = _shown_boxes(found, least)
                case "segment":
                    answer = areas = client.segment(content, model, precision=wish, mask_format="png")
                    if not isinstance(areas.mask, PngMask):
                        raise BitgearError("the server's mask is no PNG, which it was asked for")
                    shown = _shown_mask(_from_png(areas.mask.png, served_model.labels))
                case _:
                    answer = best = client.classify(content, model, precision=wish, top_k=top_k or DEFAULT_TOP_K)
                    shown = _shown_classes(
                        [Prediction(p.class_name, p.class_id, p.confidence) for p in best.predictions]
                    )
    except NotServed as error:
        raise ModelNotFound(f"{error}; with --url, --model is a model's name on the server") from error
    except TransportError as error:
        raise ServerUnreachable(str(error)) from error
    except BitgearClientError as error:
        raise BitgearError(str(error)) from error
    served = answer.precision
    return _Answer(
        shown,
        f"{answer.image_width_px}x{answer.image_height_px}  {answer.model} at {_spoken(served.served)} "
        f"({served.source}: {served.reason}), {answer.timing.total_ms:.1f} ms",
        {
            "id": answer.id, "model": answer.model, "version": answer.version,
            "image": {"width": answer.image_width_px, "height": answer.image_height_px},
        },
        {
            "precision": asdict(served),
            "timing_ms": {phase.removesuffix("_ms"): ms for phase, ms in asdict(answer.timing).items()},
        },
    )  # fmt: skip


def _from_png(png: bytes, labels: Sequence[str]) -> "Segmentation":
    """Return what a server found, of its mask as a PNG of class ids."""
    from bitgear.tasks.pictures import decode_picture
    from bitgear.tasks.segment import Segmentation

    return Segmentation(decode_picture(png).pixels[:, :, 0], tuple(labels))  # of grey, all channels are alike


@app.command()
def evaluate(
    model: ModelArgument,
    data: DataOption,
    precision: Annotated[
        str | None, typer.Option(help="Widths and plans, comma-separated. Default: all that the model offers.")
    ] = None,
    split: Annotated[str, typer.Option(help="Part of the data set.")] = "test",
    json_file: JsonOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = 2,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many images.")] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Write what was measured into the master, for those precisions it offers.")
    ] = False,
) -> None:
    """Measure accuracy per precision through the engine that serves: top-1, average precision, or mean overlap."""
    from tqdm import tqdm

    from bitgear.checkpoint import read_master, rewrite_master
    from bitgear.engines import create_engine
    from bitgear.evaluate import evaluate_master, read_data
    from bitgear.models import find_master

    if store and limit is not None:
        raise typer.BadParameter("a master states what all images give; leave out --limit", param_hint="--store")
    if store and split != "test":
        raise typer.BadParameter(f"a master states what the split 'test' gives, not {split!r}", param_hint="--store")
    path = find_master(model)
    _keep_apart({"--json": json_file}, {"MODEL": path, "--data": data})
    master = read_master(path)
    names = list(master.precisions) if precision is None else [name.strip() for name in precision.split(",")]
    plans = {name: master.plan(name) for name in names}
    images = read_data(master, data, split, limit)
    runner = create_engine(engine, threads)
    with tqdm(total=len(plans) * len(images), unit="image", leave=False) as bar:
        measured = evaluate_master(master, runner, images, tuple(plans.values()), bar.update)
    results = {name: measured[plan] for name, plan in plans.items()}
    metrics = next(iter(results.values())).metrics
    widest = max(4, *map(len, results))
    lines = [f"{'bits':<{widest}}" + "".join(f"{name:>16}" for name in metrics) + "    images/s"]
    for name, row in results.items():
        values = "".join(f"{value:16.2%}" for value in row.metrics.values())
        lines.append(f"{name:<{widest}}{values}  {row.images / row.seconds:10.1f}")
    found = {
        "model": master.name,
        "engine": runner.name,
        "threads": threads,
        "split": split,
        "precisions": {name: row.to_json() for name, row in results.items()},
    }
    try:
        if store:
            kept = {name: row.stored for name, row in results.items() if name in master.precisions}
            rewrite_master(path, lambda stored: stored.with_accuracy(kept), of=master)
    finally:  # what took so long is told, whatever becomes of the master
        _tell(lines, json_file, found)


@app.command()
def doctor(json_file: JsonOption = None) -> None:
    """Show what this installation can run: engines, instruction sets, and why something is missing."""
    from bitgear.doctor import diagnose, report

    found = diagnose()
    _tell(report(found).splitlines(), json_file, found)


@app.command()
def inspect(
    file: ModelArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a master holds."""
    from bitgear.checkpoint import read_master
    from bitgear.describe import as_lines, describe
    from bitgear.models import find_master

    path = find_master(file)
    description: dict[str, Any] = describe(read_master(path), path.stat().st_size)
    if as_json:
        _print(json.dumps(description, indent=2))
        return
    for line in as_lines(description):
        _say(line)


@app.command()
def profile(
    model: ModelArgument,
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure, about.")] = 5.0,
    threads: ThreadsOption = 1,
    json_file: JsonOption = None,
) -> None:
    """Measure what every layer takes on this device at each width, with single pictures: bitgear search reads it."""
    from tqdm import tqdm

    from bitgear.bits import Plan
    from bitgear.checkpoint import read_master
    from bitgear.engines.registry import create_native
    from bitgear.models import find_master
    from bitgear.search.timings import measure_timings

    path = find_master(model)
    _keep_apart({"--json": json_file}, {"MODEL": path})
    master, engine = read_master(path), create_native(threads)
    with tqdm(unit="pass", leave=False) as bar:
        timings = measure_timings(master, engine, seconds, bar.update)
    totals = [timings.predict_ms(Plan.uniform(bits)) for bits in master.widths]
    lines = [
        f"{timings.model}, {timings.instruction_set}, threads {timings.threads}; milliseconds by bits",
        f"{'layer':20}" + "".join(f"{bits:9}" for bits in master.widths),
        *(
            f"{name:20}" + "".join(f"{ms:9.4f}" for ms in by_width.values())
            for name, by_width in timings.layers.items()
        ),
        f"{'others':20}" + "".join(f"{timings.other_ms:9.4f}" for _ in master.widths),
        f"{'together':20}" + "".join(f"{ms:9.4f}" for ms in totals),
    ]
    _tell(lines, json_file, timings.to_json())


@contextmanager
def _own_stdout() -> Iterator[Callable[[str], object]]:
    """Give what writes to the standard output; to all others it is the standard error from now on.

    HiGHS, which solves the programme, prints remarks there past Python, some when the process ends.
    """
    _check_stdout()
    with os.fdopen(os.dup(1), "w") as stdout:
        os.dup2(2, 1)
        yield stdout.write


E = TypeVar("E", bound=StrEnum)


def _one_of(kind: type[E], text: str, option: str) -> E:
    try:
        return kind(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(kind)}", param_hint=option) from error


@app.command()
def search(
    model: ModelArgument,
    data: DataOption,
    latency_ms: Annotated[
        list[float] | None,
        typer.Option(help="Add the best plan whose picture takes at most so long here. Repeatable.", callback=_limits),
    ] = None,
    mean_width: Annotated[
        list[float] | None,
        typer.Option(
            help="Add the best plan of at most so many bits, the mean over layers. Repeatable.", callback=_limits
        ),
    ] = None,
    weight_bytes: Annotated[
        list[float] | None,
        typer.Option("--bytes", help="Likewise, for bytes of packed weights. Repeatable.", callback=_limits),
    ] = None,
    bit_operations: Annotated[
        list[float] | None,
        typer.Option(help="Likewise, for multiply-accumulates times both widths. Repeatable.", callback=_limits),
    ] = None,
    front: Annotated[
        int | None, typer.Option(min=0, help="Add so many plans that nothing dominates. Default: 4, with a limit none.")
    ] = None,
    method: Annotated[str, typer.Option(help="ilp or evolution, which begins with the programme's solutions.")] = "ilp",
    cost: Annotated[str, typer.Option(help="What the programme minimises: weights, hessian or measured.")] = "weights",
    widths: Annotated[
        str | None, typer.Option(help="Widths to choose from, comma-separated. Default: all of the model's.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Plans to try for each limit, and for the front.")] = 48,
    split: SplitOption = None,
    test_split: TestSplitOption = "test",
    validate: ValidateOption = 2500,
    calibrate: CalibrateOption = None,
    timings: Annotated[
        Path | None, typer.Option(help="What bitgear profile wrote, on this device. Default: measured first.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="To time layers, and again the best plans, about.")] = 15.0,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop the plans that the master has, if others are found.")
    ] = False,
    out: MasterOption = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a page, its plots and plans.json into this folder.", callback=_as_a_folder),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    threads: ThreadsOption = 1,
    seed: Annotated[int, typer.Option(min=0, help="Draws the pictures, and what evolves.")] = 0,
) -> None:
    """Add plans, which give every layer a width of its own, that are best for this device. Nothing is trained."""
    from bitgear.bits import parse_widths
    from bitgear.search.command import SearchRequest, search_and_write
    from bitgear.search.costs import Cost
    from bitgear.search.report import as_json as result_as_json
    from bitgear.search.run import Goal, Method, Quantity, SearchOptions

    limits = {
        Quantity.LATENCY_MS: latency_ms, Quantity.MEAN_WIDTH: mean_width, Quantity.BYTES: weight_bytes,
        Quantity.BIT_OPERATIONS: bit_operations,
    }  # fmt: skip
    _keep_apart({"--out": out}, {"--data": data, "--timings": timings})
    goals = tuple(Goal(quantity, most) for quantity, values in limits.items() for most in values or ())
    options = SearchOptions(
        goals=goals, front=(0 if goals else 4) if front is None else front,
        widths=() if widths is None else parse_widths(widths),
        method=_one_of(Method, method, "--method"), cost=_one_of(Cost, cost, "--cost"), trials=trials,
        seconds=seconds, seed=seed,
    )  # fmt: skip
    request = SearchRequest(
        model=model, data=data, options=options, split=split, test_split=test_split, validate=validate,
        calibrate=calibrate, timings=timings, replace=replace, out=out, report=report, threads=threads,
    )  # fmt: skip
    with _own_stdout() as write:
        result = search_and_write(request)
        if as_json:
            write(json.dumps(result_as_json(result), indent=2) + "\n")
            return
        for line in result.told:
            write(f"{line}\n")
        for each in result.found:
            write(f"{each.name:16}{each.trial.use:9.4g} ms  {_shares(each.test.metrics)}  ({each.reason})\n")
        if not result.found:
            write("no plan was added\n" if result.told else "nothing dominates the widths here; no plan was added\n")


def _shares(metrics: Mapping[str, float]) -> str:
    """Return the metrics of a measurement in per cent."""
    return ", ".join(f"{name} {value:.2%}" for name, value in metrics.items())


@app.command()
def refine(
    model: ModelArgument,
    data: DataOption,
    start: Annotated[str, typer.Option(help="Where to begin: a width, such as 3, or the name of a plan.")],
    name: Annotated[
        str | None, typer.Option(help="Of the plan that is written. Default: that of the start, or by its mean width.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Plans to try.")] = 400,
    split: SplitOption = None,
    test_split: TestSplitOption = "test",
    validate: ValidateOption = 2500,
    calibrate: CalibrateOption = None,
    out: MasterOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the pictures and the moves.")] = 0,
) -> None:
    """Move bits between weights and activations of layers, at the same mean width, to where they do most."""
    from bitgear.search.command import RefineRequest, refine_and_write

    _keep_apart({"--out": out}, {"--data": data})
    found = refine_and_write(
        RefineRequest(
            model=model, data=data, start=start, name=name, trials=trials, split=split, test_split=test_split,
            validate=validate, calibrate=calibrate, seed=seed, out=out,
        )
    )  # fmt: skip
    moved = f"{found.refined.start_distance:.4g} -> {found.refined.distance:.4g} after {found.refined.trials} trials"
    if found.held is not None:
        _print(f"nearer to 8 bits is {found.held}, which the master has: {moved}; nothing was written")
        return
    if found.refined.trials == 0:
        _print(f"no bits can move from {start} at the same mean width; nothing was written")
        return
    if found.plan is None or found.test is None:
        _print(f"nothing is nearer to 8 bits than {start}: {moved}; nothing was written")
        return
    test = _shares(found.test.metrics)
    _print(f"{found.plan.name:16} mean {found.mean_bits:.2f} bits  {test}  (from 8 bits: {moved})")


@app.command("import")
def import_(
    weights: Annotated[Path, typer.Argument(help="Float weights: a state dict in a safetensors file.")],
    images: Annotated[
        Path, typer.Option(help="Labelled pictures: a folder or tar, with classes.json or class folders.")
    ],
    out: Annotated[Path, typer.Option(help="The master to write.", callback=_in_a_folder)],
    architecture: Annotated[
        str | None, typer.Option(help="resnet18, mobilenet_v2, ...; default: recognised by the weights' names.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Class names: a line each, or a JSON list. Default: those of the pictures.")
    ] = None,
    calibrate: Annotated[int, typer.Option(min=1, help="Pictures to calibrate on; the others measure.")] = 200,
    name: Annotated[str | None, typer.Option(help="The model's name. Default: after the file.")] = None,
    widths: Annotated[str, typer.Option(help="Widths to offer, comma-separated, 8 among them.")] = "8,7,6,5,4,3,2",
    central_fraction: Annotated[
        float, typer.Option(min=0.1, max=1, help="Side of the crop, in parts of the shorter side.")
    ] = 1.0,
    side_px: Annotated[
        int | None, typer.Option(min=1, max=8192, help="Side of the input. Default: the architecture's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Use only this many pictures.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Picks the calibration pictures.")] = 0,
    json_file: JsonOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = 2,
) -> None:
    """Make a master of a trained float network, without training, and measure it at every width."""
    from bitgear.bits import parse_widths
    from bitgear.convert.importer import ImportOptions, import_model

    read = {"WEIGHTS": weights, "--images": images, "--labels": labels}
    _keep_apart({"--out": out, "--json": json_file}, read)
    options = ImportOptions(
        weights=weights, images=images, architecture=architecture, labels=labels, calibrate=calibrate, name=name,
        widths=parse_widths(widths), limit=limit, central_fraction=central_fraction, side_px=side_px, seed=seed,
        engine=engine, threads=threads,
    )  # fmt: skip
    report = import_model(options, out)
    lines = [
        f"{report['model']}: {report['images']['measured']} images, {report['calibration_seconds']:.0f} s",
        "bits   top-1    top-5    images/s",
        f"FP32  {report['fp32']['top1']:7.2%}  {report['fp32']['top5']:7.2%}",
    ]
    for bits, row in report["precisions"].items():
        lines.append(f"   {bits}  {row['top1']:7.2%}  {row['top5']:7.2%}  {row['images'] / row['seconds']:8.0f}")
    _tell(lines, json_file, report)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="TOML file of the run, or the name of a shipped configuration.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there is resumed.", callback=_as_a_folder)],
    weights: Annotated[
        Path | None, typer.Option(help="FP32 weights to start from: safetensors, or the fp32.pt of a run.")
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="FP32 weights of a teacher (safetensors).")] = None,
    master: Annotated[
        list[Path] | None,
        typer.Option(
            help="Master to go on from; without FP32 weights, its own as floats are the start. Repeatable: the mean of "
            "several masters of one network, which began alike."
        ),
    ] = None,
    from_epoch: Annotated[
        int | None, typer.Option(min=1, help="Go back to the state after this epoch; default: the newest.")
    ] = None,
) -> None:
    """Train, calibrate, export and report: from FP32 weights to a master. Starts under torchrun too."""
    with of_extra("training", "train"):
        from trainer.pipeline import find_config, train_master
    path = find_config(config)
    made = train_master(path, data, out, weights=weights, teacher=teacher, masters=master or (), from_epoch=from_epoch)
    if made is None:  # another process of torchrun has written it, and says so
        return
    from bitgear.checkpoint import read_master
    from bitgear.describe import describe, precision_lines

    size_bytes = made.stat().st_size
    _print(f"{made}  {size_bytes:,} bytes")
    for line in precision_lines(describe(read_master(made), size_bytes)):
        _print(line)


@app.command()
def hessian(
    config: Annotated[Path, typer.Argument(help="TOML file of the run, or the name of a shipped configuration.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the run; its FP32 network is taken, and traces are kept there.", callback=_as_a_folder
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option(help="FP32 weights instead of the run's, as bitgear train takes them; of all layers.")
    ] = None,
    master: Annotated[
        Path | None,
        typer.Option(help="Master to write the traces into; without FP32 weights, its own as floats are taken."),
    ] = None,
) -> None:
    """Measure how sensitive each layer is: the trace of the Hessian of the loss, for each weight of the layer."""
    with of_extra("training", "train"):
        from trainer.pipeline import find_config, measure_sensitivities
    path = find_config(config)
    traces = measure_sensitivities(path, data, out, weights=weights, master=master)
    average, error = traces.average(), traces.error()
    _print(f"{traces.network}: {traces.count} estimates, relative error {traces.relative_error():.1%}")
    for name, value in average.items():
        _print(f"{name:24} {value:12.4e} ± {error[name]:.1e}")


@app.command()
def tune(
    config: Annotated[Path, typer.Argument(help="TOML file of the run, or the name of a shipped configuration.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    out: Annotated[
        Path,
        typer.Option(help="Folder of the run; plans whose state is found there are resumed.", callback=_as_a_folder),
    ],
    master: Annotated[Path, typer.Option(help="Master whose plans are tuned; rewritten in place.")],
    plan: Annotated[list[str] | None, typer.Option(help="Name of a plan. Repeatable. Default: all of them.")] = None,
) -> None:
    """Train batch norm and scales of plans, which are theirs alone: every other precision stays the same to the bit."""
    with of_extra("training", "train"):
        from trainer.pipeline import find_config, tune_plans
    path = find_config(config)
    for tuned in tune_plans(path, data, out, master=master, names=plan or ()):
        reached = {metric: value for metric, value in tuned.after.items() if metric != "images"}
        told = ", ".join(f"{metric} {tuned.before[metric]:.2%} -> {value:.2%}" for metric, value in reached.items())
        _print(f"{tuned.name:16} {told}")


if __name__ == "__main__":
    main()
