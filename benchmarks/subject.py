"""A bitgear server that is measured: what is asked of it, and what is known of it at rest."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import loadgen, servers
from benchmarks.loadgen import Plan, Record
from benchmarks.pictures import Pictures, message
from benchmarks.servers import Server
from bitgear.bits import MASTER_BITS
from bitgear.checkpoint import Master, read_master
from bitgear.tasks.metrics import MAIN_METRIC

WARM_REQUESTS, REST_REQUESTS = 5, 100
CAPACITY_SECONDS, CAPACITY_ROUNDS, CAPACITY_CALLERS = 5.0, 3, 12


class Subject:
    """One model of a running server, and pictures to ask it about."""

    def __init__(self, server: Server, master: Master, pictures: Pictures) -> None:
        self.server = server
        self.master = master
        self.pictures = pictures
        self._path = f"/v1/models/{master.name}"
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30)

    def ladder(self) -> dict[str, Any]:
        """Return the ladder as the server tells it."""
        answer: dict[str, Any] = self._client.get(f"{self._path}/ladder").raise_for_status().json()
        return answer

    def accuracy(self) -> dict[str, float]:
        """Return what each precision has by its profile, 0..1: the main metric of the task; 0 where none is known."""
        metric = MAIN_METRIC[self.master.task]
        return {str(rung["precision"]): rung["accuracy"].get(metric) or 0.0 for rung in self.ladder()["rungs"]}

    def set_policy(self, name: str) -> None:
        """Have the server decide by another policy."""
        headers = {"Authorization": f"Bearer {servers.ADMIN_KEY}"}
        self._client.put("/v1/policy", json={"policy": name}, headers=headers).raise_for_status()

    def metrics(self) -> str:
        """Return what the server counts."""
        return self._client.get("/metrics").raise_for_status().text

    def messages(self, headers: Mapping[str, str]) -> list[bytes]:
        """Return one request about each picture."""
        path = f"{self._path}/{self.master.task}"
        return [message(path, body, "image/jpeg", headers) for body in self.pictures.bodies]

    def warm(self) -> None:
        """Have every width derived and run."""
        for bits in self.master.widths:
            self._one_caller(bits, WARM_REQUESTS)

    def at_rest(self) -> dict[str, dict[str, float]]:
        """Return what one caller's requests at 8 bits take, in ms: the whole round trip, and the server's phases."""
        record = self._one_caller(MASTER_BITS, REST_REQUESTS)
        timings = [body_of(answer)["timing_ms"] for answer in record.answers]
        phases = {phase: [timing[phase] for timing in timings] for phase in timings[0]}
        phases["round_trip"] = list(1e3 * (record.done_s - record.sent_s))
        return {
            name: {"p50_ms": float(np.median(values)), "p90_ms": float(np.percentile(values, 90))}
            for name, values in phases.items()
        }

    def capacity_per_s(self, bits: int) -> list[float]:
        """Return answers per second of a few callers that never pause, of several rounds."""
        requests = self.messages({"Precision": str(bits)})
        plan = loadgen.closed(self.server.port, requests, CAPACITY_CALLERS, CAPACITY_SECONDS)
        return [loadgen.throughput(loadgen.generate(plan)) for _ in range(CAPACITY_ROUNDS)]

    def _one_caller(self, bits: int, count: int) -> Record:
        requests = self.messages({"Precision": str(bits)})
        which = np.arange(count) % len(requests)
        record = loadgen.generate(Plan(self.server.port, requests, which, np.zeros(count), stop_s=60, connections=1))
        if (record.status != 200).any():
            raise RuntimeError(f"{bits} bits: {record.answers[int(np.argmax(record.status != 200))][:500]!r}")
        return record


@contextlib.contextmanager
def subject(path: Path, pictures: Pictures, log: Path, settings: Mapping[str, str] | None = None) -> Iterator[Subject]:
    """Serve the master in a file for the duration of a block."""
    master = read_master(path)
    with servers.bitgear(log, {"models": str(path), **(settings or {})}) as server:
        yield Subject(server, master, pictures)


def body_of(answer: bytes) -> dict[str, Any]:
    """Return the JSON object that an answer of HTTP carries."""
    body: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return body
