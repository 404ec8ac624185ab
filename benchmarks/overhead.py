"""What HTTP adds to the engine: one connection, keep-alive, raw PNG of the input size; and where the time goes.

    python -m benchmarks.overhead [--requests 3000]

Starts a server of its own. "round trip" is measured by the client around the whole exchange; the phases are the
server's own, from the answer. Overhead is the median of (round trip - infer) over single requests, widths in turn.
"""

import http.client
from typing import Any

from benchmarks import servers
from benchmarks.measure import command_line, summary, write_report
from benchmarks.pictures import noise
from bitgear.checkpoint import read_master
from bitgear.models import find_master
from server.exchange import PHASES

TIMES = (*PHASES, "total")


def main() -> None:
    """Run the measurement and print a table."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="resnet20-cifar10")
    parser.add_argument("--requests", type=int, default=3000)
    arguments = parser.parse_args()
    master = read_master(find_master(arguments.model))
    body = noise(master.input.width_px, master.input.height_px)
    with servers.bitgear(servers.LOGS / "overhead.log") as server:
        connection = server.connect()
        samples: dict[int, list[dict[str, float]]] = {bits: [] for bits in master.widths}
        for i in range(arguments.requests + 20 * len(master.widths)):
            bits = master.widths[i % len(master.widths)]
            row = _request(connection, f"/v1/models/{master.name}/classify", body, bits)
            if i >= 20 * len(master.widths):  # the first ones derive and warm
                samples[bits].append(row)

    rows: dict[str, Any] = {}
    print("bits   round trip    infer   overhead   decode    queue     post    top-1")
    for bits, measured in samples.items():
        phases = {phase: summary([row[phase] for row in measured]) for phase in TIMES}
        overhead = summary([row["round_trip"] - row["infer"] for row in measured])
        round_trip = summary([row["round_trip"] for row in measured])
        top1 = master.accuracy[bits]["top1"]
        rows[str(bits)] = {"round_trip": round_trip, "overhead": overhead, "phases": phases, "top1": top1}
        print(
            f"   {bits}  {round_trip['p50_ms']:7.2f} ms  {phases['infer']['p50_ms']:7.2f}  {overhead['p50_ms']:9.2f} "
            f"{phases['decode']['p50_ms']:8.2f} {phases['queue']['p50_ms']:8.2f} "
            f"{phases['post']['p50_ms']:8.2f}  {top1:7.2%}"
        )
    report = {"model": master.name, "connections": 1, "image": "PNG of the input size", "precisions": rows}
    print(f"wrote {write_report('overhead', report)}")


def _request(connection: http.client.HTTPConnection, path: str, body: bytes, bits: int) -> dict[str, float]:
    round_trip_ms, answer = servers.ask(connection, path, body, {"Content-Type": "image/png", "Precision": str(bits)})
    if answer["precision"]["served"] != bits:
        raise SystemExit(f"asked {bits} bits, served {answer['precision']['served']}")
    return {"round_trip": round_trip_ms, **{phase: answer["timing_ms"][phase] for phase in TIMES}}


if __name__ == "__main__":
    main()
