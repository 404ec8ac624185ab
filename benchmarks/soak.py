"""Mixed traffic for minutes: memory, descriptors and threads must stay flat, and counts agree in the end.

    python -m benchmarks.soak [--minutes 10] [--connections 16]

A server of its own gets requests for every model and precision, with deadlines that cannot be met, with bodies that
are no image, and from clients that leave. Its resident memory, descriptors and threads are read from the system. In the
first third all models are derived at all widths and buffers reach their sizes. Fails if memory or threads grow between
the second and the last third, if descriptors are left, or if counts do not agree.
"""

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from benchmarks.local_server import connect
from benchmarks.measure import write_report
from benchmarks.overhead import _png

PORT = 18124
SAMPLES = 30
GROWTH = 1.03
"""By what factor the median of the last third may exceed that of the second."""


def main() -> None:
    """Run the soak, print what was seen, and write the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    environment = {**os.environ, "BITGEAR_LOG_LEVEL": "error", "BITGEAR_MAX_REQUESTS": str(arguments.connections // 2)}
    command = [sys.executable, "-m", "bitgear.cli", "serve", "--port", str(PORT)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    seen: Counter[str] = Counter()
    samples: list[dict[str, int]] = []
    try:
        connection = connect(PORT)
        connection.request("GET", "/v1/models")
        paths = [f"/v1/models/{m['name']}/{m['task']}" for m in json.loads(connection.getresponse().read())["models"]]
        connection.close()
        before = _sample(server.pid)
        end_s = time.monotonic() + 60 * arguments.minutes
        threads = [
            threading.Thread(target=_client, args=(seed, paths, end_s, seen)) for seed in range(arguments.connections)
        ]
        for thread in threads:
            thread.start()
        pause = threading.Event()
        while time.monotonic() < end_s:
            pause.wait(60 * arguments.minutes / SAMPLES)
            samples.append(_sample(server.pid))
            print(samples[-1], flush=True)
        for thread in threads:
            thread.join()
        idle = _sample(server.pid)
        counted = _counted()
    finally:
        server.terminate()
        server.wait(30)
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


def _client(seed: int, paths: list[str], end_s: float, seen: Counter[str]) -> None:
    rng = random.Random(seed)
    images = [_png(32, 32), _png(320, 240), b"no image"]
    while time.monotonic() < end_s:
        body, query = (
            rng.choice(images),
            rng.choice(["", "deadline_ms=1", *(f"precision={bits}" for bits in range(2, 9))]),
        )
        fields = f"Host: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        head = f"POST {rng.choice(paths)}?{query} HTTP/1.1\r\n{fields}"
        try:
            with socket.create_connection(("127.0.0.1", PORT), 30) as connection:
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


def _counted() -> dict[str, float]:
    connection = connect(PORT)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return {
        name: sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"bitgear_{name}_total{{")
        )
        for name in ("requests", "served", "rejected")
    }


if __name__ == "__main__":
    main()
