"""The load: a process of its own that sends every request at its time, whether or not the server keeps up.

    python -m benchmarks.loadgen PLAN RECORD

Requests are whole HTTP messages, made before the run; answers are kept as they came and read after it. So while it
runs, the process does little more than move bytes: one thread, one epoll, connections kept alive. What it costs
nevertheless, and how late it sent, is part of the record, because on a machine shared with the server both matter.

A closed loop is the same one, all requests due at once and a few connections to send them: see :func:`closed`.
"""

import contextlib
import errno
import gc
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CONNECTIONS_MAX = 1000
_RECEIVE_BYTES = 1 << 18
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\ncontent-length:"
_IDLE = -1
_COLUMNS = ("which", "at_s", "sent_s", "done_s", "status")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What to send to a port of this machine.

    ``requests``: HTTP messages. ``which`` (N,): the message of each request. ``at_s`` (N,): when it is due, ascending,
    seconds from the start. ``connections``: at most so many at once; a request that finds none free waits, and counts
    as sent late. ``warm_connections`` are open when the run starts. Nothing is sent after ``stop_s``; answers are
    awaited ``grace_s`` longer.
    """

    port: int
    requests: Sequence[bytes]
    which: NDArray[np.int64]
    at_s: Floats
    stop_s: float
    connections: int = CONNECTIONS_MAX
    warm_connections: int = 16
    grace_s: float = 10.0

    def save(self, path: Path) -> None:
        """Write it as an npz file."""
        numbers = np.array([self.port, self.stop_s, self.connections, self.warm_connections, self.grace_s])
        content, ends = _pack(self.requests)
        np.savez(path, numbers=numbers, which=self.which, at_s=self.at_s, content=content, ends=ends)

    @staticmethod
    def load(path: Path) -> "Plan":
        """Read what :meth:`save` wrote."""
        with np.load(path) as f:
            port, stop_s, connections, warm, grace_s = f["numbers"]
            requests = _unpack(f["content"], f["ends"])
            return Plan(int(port), requests, f["which"], f["at_s"], stop_s, int(connections), int(warm), grace_s)


@dataclass(frozen=True)
class Record:
    """What became of the requests that were sent, in the order of the plan.

    ``at_s``, ``sent_s``, ``done_s`` (N,): due, sent, answered in full; seconds from the start, NaN for no answer.
    ``status`` (N,): of HTTP, 0 for no answer. ``answers``: head and body as they came. ``cpu_s``, ``wall_s``: what the
    loop took of one core, and how long it ran. ``opened``: connections made.
    """

    which: NDArray[np.int64]
    at_s: Floats
    sent_s: Floats
    done_s: Floats
    status: NDArray[np.int64]
    answers: Sequence[bytes]
    cpu_s: float
    wall_s: float
    opened: int

    @property
    def latency_ms(self) -> Floats:
        """From the time a request was due to its answer; NaN without one."""
        return 1e3 * (self.done_s - self.at_s)

    @property
    def lag_ms(self) -> Floats:
        """By how much each request was sent late: the client's own share of the latency."""
        return 1e3 * (self.sent_s - self.at_s)

    def whole(self, plan: Plan) -> "Record":
        """Return what became of all requests of the plan: those that were never sent have no answer, and count as late.

        They were due, and found no connection free before the plan's end, which is when they are said to be sent.
        """
        missing = len(plan.at_s) - len(self.status)
        return replace(
            self,
            which=plan.which,
            at_s=plan.at_s,
            sent_s=np.append(self.sent_s, np.full(missing, plan.stop_s)),
            done_s=np.append(self.done_s, np.full(missing, np.nan)),
            status=np.append(self.status, np.zeros(missing, np.int64)),
            answers=[*self.answers, *[b""] * missing],
        )

    def save(self, path: Path) -> None:
        """Write it as an npz file."""
        content, ends = _pack(self.answers)
        columns = {name: getattr(self, name) for name in _COLUMNS}
        np.savez(path, numbers=np.array([self.cpu_s, self.wall_s, self.opened]), content=content, ends=ends, **columns)

    @staticmethod
    def load(path: Path) -> "Record":
        """Read what :meth:`save` wrote."""
        with np.load(path) as f:
            cpu_s, wall_s, opened = (float(value) for value in f["numbers"])
            answers = _unpack(f["content"], f["ends"])
            which, at_s, sent_s, done_s, status = (f[name] for name in _COLUMNS)
            return Record(which, at_s, sent_s, done_s, status, answers, cpu_s, wall_s, int(opened))


def generate(plan: Plan) -> Record:
    """Run a plan in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "plan.npz", Path(folder) / "record.npz"
        plan.save(paths[0])
        subprocess.run([sys.executable, "-m", "benchmarks.loadgen", *map(str, paths)], check=True)
        return Record.load(paths[1])


def run(plan: Plan) -> Record:
    """Run a plan in this process."""
    loop = _Loop(plan)
    try:
        return loop.run()
    finally:
        loop.close()


def closed(port: int, requests: Sequence[bytes], callers: int, seconds: float, rate_max: float = 5000) -> Plan:
    """Return the plan of so many callers that send one request after the other, the messages in turn."""
    count = int(rate_max * seconds)
    return Plan(port, requests, np.arange(count) % len(requests), np.zeros(count), seconds, callers, callers)


def throughput(record: Record, skip_s: float = 1.0) -> float:
    """Return answers with status 200 per second, the first ``skip_s`` and what came after the last send left out."""
    end_s = float(record.sent_s.max())
    done_s = record.done_s[record.status == 200]
    return float(np.count_nonzero((done_s >= skip_s) & (done_s <= end_s)) / (end_s - skip_s))


def _pack(messages: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return np.frombuffer(b"".join(messages), np.uint8), np.cumsum([len(m) for m in messages], dtype=np.int64)


def _unpack(content: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[bytes]:
    whole, starts = content.tobytes(), [0, *ends[:-1].tolist()]
    return [whole[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    request: int = _IDLE  # its position in the plan
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)
    length: int | None = None  # of head and body together, once the head is there


class _Loop:
    """One run. Times are seconds of the monotonic clock."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        count = len(plan.at_s)
        self.sent_s: list[float] = []
        self.done_s = [np.nan] * count
        self.status = [0] * count
        self.answers = [b""] * count
        self.opened = 0
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._free: list[_Connection] = []  # the one used last is used first, so that few stay open
        self._busy = 0

    def run(self) -> Record:
        plan, clock = self.plan, time.monotonic
        self._free = [self._open() for _ in range(min(plan.warm_connections, plan.connections))]
        due_s, which = plan.at_s.tolist(), plan.which.tolist()
        cpu_s, start_s = time.process_time(), clock()
        last_s = start_s + plan.stop_s
        position = 0
        while True:
            now_s = clock()
            while position < len(due_s) and start_s + due_s[position] <= now_s < last_s and self._available():
                self._send(position, plan.requests[which[position]], now_s)
                position += 1
                now_s = clock()
            if now_s >= last_s or position == len(due_s):
                if self._busy == 0 or now_s >= last_s + plan.grace_s:
                    break
                wake_s = last_s + plan.grace_s
            elif self._available():
                wake_s = min(start_s + due_s[position], last_s)
            else:
                wake_s = last_s
            # select, because epoll counts its timeout in whole milliseconds
            if select.select([self._epoll], [], [], max(0.0, wake_s - now_s))[0]:
                for number, event in self._epoll.poll(0):
                    self._handle(self._connections[number], event)
        cpu_s, end_s = time.process_time() - cpu_s, clock()
        return Record(
            plan.which[:position],
            plan.at_s[:position],
            np.array(self.sent_s) - start_s,
            np.array(self.done_s[:position]) - start_s,
            np.array(self.status[:position], np.int64),
            self.answers[:position],
            cpu_s,
            end_s - start_s,
            self.opened,
        )

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()

    def _available(self) -> bool:
        return bool(self._free) or len(self._connections) < self.plan.connections

    def _open(self) -> _Connection:
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.setblocking(False)
        if (code := s.connect_ex(("127.0.0.1", self.plan.port))) not in (0, errno.EINPROGRESS):
            raise OSError(code, f"no connection to port {self.plan.port}: {os.strerror(code)}")
        connection = _Connection(s)
        self._connections[s.fileno()] = connection
        self._epoll.register(s, select.EPOLLIN)
        self.opened += 1
        return connection

    def _send(self, position: int, message: bytes, now_s: float) -> None:
        connection = self._free.pop() if self._free else self._open()
        connection.request, connection.length = position, None
        connection.unsent = memoryview(message)
        connection.received = bytearray()
        self._busy += 1
        self.sent_s.append(now_s)
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # the answer may be there all the same: reading tells
            sent = len(connection.unsent)
        was_waiting, connection.unsent = sent < len(connection.unsent), connection.unsent[sent:]
        events = select.EPOLLIN | (select.EPOLLOUT if was_waiting else 0)
        self._epoll.modify(connection.socket, events)

    def _handle(self, connection: _Connection, event: int) -> None:
        if event & select.EPOLLOUT and connection.unsent:
            self._flush(connection)
        if not event & ~select.EPOLLOUT:
            return
        try:
            content = connection.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        if connection.request == _IDLE or not content:
            self._close(connection)
            return
        received = connection.received
        received += content
        if connection.length is None and (end := received.find(_HEAD_END)) >= 0:
            connection.length = end + len(_HEAD_END) + _content_length(received[:end])
        if connection.length is not None and len(received) >= connection.length:
            self._finish(connection, time.monotonic())

    def _finish(self, connection: _Connection, now_s: float) -> None:
        position, received = connection.request, connection.received
        self.done_s[position] = now_s
        self.status[position] = int(received[9:12])
        self.answers[position] = bytes(received)
        connection.request = _IDLE
        self._busy -= 1
        if connection.unsent or b"\nconnection: close" in received[: received.find(_HEAD_END)].lower():
            self._close(connection)
        else:
            self._free.append(connection)

    def _close(self, connection: _Connection) -> None:
        if connection.request != _IDLE:  # without a whole answer
            self._busy -= 1
        elif connection in self._free:
            self._free.remove(connection)
        del self._connections[connection.socket.fileno()]
        self._epoll.unregister(connection.socket)
        connection.socket.close()


def _content_length(head: bytes | bytearray) -> int:
    lower = bytes(head).lower()
    start = lower.find(_LENGTH)
    if start < 0:
        raise SystemExit(f"an answer without Content-Length, which this client does not read: {bytes(head[:200])!r}")
    end = lower.find(b"\r", start)
    return int(lower[start + len(_LENGTH) : end if end >= 0 else None])


def main() -> None:
    """Run the plan in the first file, write the record to the second."""
    plan, out = Plan.load(Path(sys.argv[1])), Path(sys.argv[2])
    with contextlib.suppress(AttributeError, PermissionError):
        # On a machine of its own the client would not wait for the server's threads: real time, where we may.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    gc.disable()
    run(plan).save(out)


if __name__ == "__main__":
    main()
