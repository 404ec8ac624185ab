"""Where the time of a whole request goes: pictures of 640 x 480, one connection, keep-alive, widths in turn.

    python -m benchmarks.phases --data camvid-resnet=camvid.tar --data bccd-resnet=bccd.tar [--rounds 4] [--json FILE]

The pictures are the first ones of a data set's split ``test``, as JPEG. Phases are the server's own, from the answer;
"before and after" is what surrounds the network: decoding and placing the picture, and making the answer of the
network's output. Its share is that of the whole, single requests compared.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import servers
from benchmarks.measure import command_line, summary, write_report
from benchmarks.pictures import jpeg
from bitgear.checkpoint import Master, read_master
from bitgear.evaluate import read_data
from bitgear.models import find_master
from bitgear.tasks.annotations import BoxedPictures
from server.exchange import PHASES

WIDTH_PX, HEIGHT_PX, QUALITY = 640, 480, 90
TIMES = (*PHASES, "total")
AROUND = ("decode", "post")
WARM_ROUNDS = 1


def main() -> None:
    """Run the measurement and print a table."""
    parser = command_line(__doc__)
    parser.add_argument("--data", action="append", required=True, metavar="MODEL=PATH", help="a shipped model's data")
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4, help="over all pictures and widths")
    parser.add_argument("--threads", type=int, default=1, help="of the engine for one call")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 6, 4, 2])
    parser.add_argument("--json", type=Path, help="the report, instead of benchmarks/results/phases.json")
    arguments = parser.parse_args()
    subjects: list[tuple[Master, list[bytes]]] = []
    for given in arguments.data:
        name, _, path = given.partition("=")
        master = read_master(find_master(name))
        first = pictures(master, Path(path), arguments.pictures)
        images = (Image.fromarray(pixels).resize((WIDTH_PX, HEIGHT_PX)) for pixels in first)
        subjects.append((master, [jpeg(image, QUALITY) for image in images]))
    settings = {"threads": str(arguments.threads)}
    with servers.bitgear(servers.LOGS / "phases.log", settings) as server:
        models = {
            master.name: _measured(server.connect(), master, bodies, arguments.widths, arguments.rounds)
            for master, bodies in subjects
        }
    report = {
        "picture": f"JPEG {WIDTH_PX}x{HEIGHT_PX}, quality {QUALITY}",
        "connections": 1,
        "threads": arguments.threads,
        "models": models,
    }
    print(f"wrote {write_report('phases', report, arguments.json)}")


def pictures(master: Master, source: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    """Give the first pictures of a split ``test``, uint8 (H, W, 3)."""
    data = read_data(master, source, "test", count)
    if isinstance(data, BoxedPictures):
        yield from (data.read(item).pixels for item in data.items)
    else:
        yield from data.images


def _measured(
    connection: Any, master: Master, bodies: Sequence[bytes], widths: Sequence[int], rounds: int
) -> dict[str, Any]:
    samples: dict[int, list[dict[str, float]]] = {bits: [] for bits in widths}
    path = f"/v1/models/{master.name}/{master.task}"
    for i in range(WARM_ROUNDS + rounds):
        for body in bodies:
            for bits in widths:
                headers = {"Content-Type": "image/jpeg", "Precision": str(bits)}
                round_trip_ms, answer = servers.ask(connection, path, body, headers)
                if i >= WARM_ROUNDS:
                    samples[bits].append({**answer["timing_ms"], "round_trip": round_trip_ms})
    rows: dict[str, Any] = {}
    print(f"{master.name}\nbits   whole   decode    infer     post   before and after")
    for bits, taken in samples.items():
        phases = {phase: summary([row[phase] for row in taken]) for phase in (*TIMES, "round_trip")}
        share = [sum(row[phase] for phase in AROUND) / row["total"] for row in taken]
        low, middle, high = (float(v) for v in np.percentile(share, [10, 50, 90]))
        rows[str(bits)] = {
            "phases": phases,
            "around_share": {"p10": low, "p50": middle, "p90": high},
            "accuracy": dict(master.accuracy[bits]),
        }
        p50 = [phases[phase]["p50_ms"] for phase in ("total", "decode", "infer", "post")]
        print(f"   {bits} {' '.join(f'{ms:8.2f}' for ms in p50)}   {middle:6.1%} ({low:.1%}-{high:.1%})")
    return {
        "task": master.task,
        "pictures": len(bodies),
        "median_picture_bytes": int(np.median([len(body) for body in bodies])),
        "precisions": rows,
    }


if __name__ == "__main__":
    main()
