"""Mixed traffic for minutes: memory, descriptors and threads must stay flat, and counts agree in the end.

    python -m benchmarks.soak [--minutes 10] [--connections 16]

A server of its own gets requests for every model and precision, with deadlines that cannot be met, with bodies that
are no image, and from clients that leave. Its resident memory, descriptors and threads are read from the system. In the
first third all models are derived at all widths and buffers reach their sizes. Fails if memory or threads grow between
the second and the last third, if descriptors are left, or if counts do not agree.
"""

import contextlib
import json
import random
import socket
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

from benchmarks import servers
from benchmarks.measure import command_line, write_report
from benchmarks.pictures import noise

SAMPLES = 30
GROWTH = 1.03
"""By what factor the median of the last third may exceed that of the second."""


def main() -> None:
    """Run the soak, print what was seen, and write the report."""
    parser = command_line(__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    seen: Counter[str] = Counter()
    samples: list[dict[str, int]] = []
    settings = {"max_requests": str(arguments.connections // 2)}
    with servers.bitgear(servers.LOGS / "soak.log", settings) as server:
        models = json.loads(_get(server, "/v1/models"))["models"]
        paths = [f"/v1/models/{model['name']}/{model['task']}" for model in models]
        before = _sample(server.process.pid)
        end_s = time.monotonic() + 60 * arguments.minutes
        threads = [
            threading.Thread(target=_client, args=(server.port, seed, paths, end_s, seen))
            for seed in range(arguments.connections)
        ]
        for thread in threads:
            thread.start()
        pause = threading.Event()
        while time.monotonic() < end_s:
            pause.wait(60 * arguments.minutes / SAMPLES)
            samples.append(_sample(server.process.pid))
            print(samples[-1], flush=True)
        for thread in threads:
            thread.join()
        idle = _sample(server.process.pid)
        counted = _counted(_get(server, "/metrics"))
    growth = {name: _growth([sample[name] for sample in samples]) for name in ("resident_kb", "threads")}
    leaked = idle["descriptors"] - before["descriptors"]
    report = {
        "descriptors_leaked": leaked,
        "minutes": arguments.minutes,
        "sent": sum(seen.values()),
        "seen": seen,
        "growth": growth,
        "samples": samples,
    }
    print(json.dumps({**report, "counted": counted}, indent=2))
    print(f"wrote {write_report('soak', report)}")
    if counted["requests"] != counted["served"] + counted["rejected"] or counted["served"] < seen["200"]:
        raise SystemExit(f"counts do not agree: {counted}, clients saw {dict(seen)}")
    if max(growth.values()) > GROWTH or leaked > 0:
        raise SystemExit(f"something grows: {growth}, {leaked} descriptors")


def _client(port: int, seed: int, paths: list[str], end_s: float, seen: Counter[str]) -> None:
    rng = random.Random(seed)
    images = [noise(32, 32), noise(320, 240), b"no image"]
    while time.monotonic() < end_s:
        body, query = (
            rng.choice(images),
            rng.choice(["", "deadline_ms=1", *(f"precision={bits}" for bits in range(2, 9))]),
        )
        fields = f"Host: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        head = f"POST {rng.choice(paths)}?{query} HTTP/1.1\r\n{fields}"
        try:
            with socket.create_connection(("127.0.0.1", port), 30) as connection:
                connection.sendall(head.encode() + body)
                if rng.random() < 0.1:
                    seen["left"] += 1
                    continue
                seen[connection.recv(1 << 16)[9:12].decode() or "closed"] += 1
                while connection.recv(1 << 16):
                    pass
        except OSError as error:
            seen[type(error).__name__] += 1


def _sample(pid: int) -> dict[str, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "resident_kb": int(status["VmRSS"].split()[0]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status["Threads"]),
    }


def _growth(values: list[int]) -> float:
    third = len(values) // 3
    return round(statistics.median(values[-third:]) / statistics.median(values[third:-third]), 4)


def _get(server: servers.Server, path: str) -> str:
    with contextlib.closing(server.connect()) as connection:
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def _counted(text: str) -> dict[str, float]:
    return {
        name: sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"bitgear_{name}_total{{")
        )
        for name in ("requests", "served", "rejected")
    }


if __name__ == "__main__":
    main()
