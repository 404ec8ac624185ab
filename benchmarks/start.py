"""From the start of the process to the first answer at each of several widths.

    python -m benchmarks.start [--rounds 5]

Every round starts a server of its own and asks it for the photograph in examples/ until it answers, then at the other
widths, each of which is derived for that request.
"""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.measure import command_line, summary, write_report

WIDTHS = (8, 4, 2)
PHOTO = Path(__file__).parent.parent / "examples" / "cat.jpg"
DEADLINE_S = 30


def main() -> None:
    """Run the measurement and print it."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="resnet20-cifar10")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    body = PHOTO.read_bytes()
    samples: dict[int, list[float]] = {bits: [] for bits in WIDTHS}
    answers: dict[int, dict[str, Any]] = {}
    for _ in range(arguments.rounds):
        started_s = time.perf_counter()
        with servers.started(servers.LOGS / "start.log") as server:
            for bits in WIDTHS:
                path = f"/v1/models/{arguments.model}/classify?top_k=2"
                answers[bits] = _first_answer(server, path, body, bits, started_s)
                samples[bits].append(1e3 * (time.perf_counter() - started_s))
    rows = {str(bits): {"first_answer": summary(samples[bits]), "answer": answers[bits]} for bits in WIDTHS}
    for bits in WIDTHS:
        best = answers[bits]["predictions"][0]["class"]
        print(f"{bits} bits  first answer after {summary(samples[bits])['p50_ms']:.0f} ms: {best}")
    print(f"wrote {write_report('start', {'model': arguments.model, 'precisions': rows})}")


def _first_answer(server: servers.Server, path: str, body: bytes, bits: int, started_s: float) -> dict[str, Any]:
    while time.perf_counter() - started_s < DEADLINE_S:
        connection = server.connect()
        try:
            connection.request("POST", path, body, {"Content-Type": "image/jpeg", "Precision": str(bits)})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
            if response.status == 200:
                return answer
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.005)
    raise SystemExit(f"no answer within {DEADLINE_S} s")


if __name__ == "__main__":
    main()
