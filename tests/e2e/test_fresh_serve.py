"""The command that people start first, in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.answers import check_answers

DEADLINE_S = 30.0
BITGEAR = (sys.executable, "-m", "bitgear.cli")


@contextmanager
def serving(bitgear: Sequence[str] = BITGEAR) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its address, once it says that it serves; killed at the end or after the deadline."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BITGEAR_")}
    with subprocess.Popen(
        [*bitgear, "serve", "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        alarm = threading.Timer(DEADLINE_S, process.kill)
        alarm.start()
        try:
            line = process.stdout.readline()
            assert " serves " in line, process.communicate()[1]
            yield process, line.split()[-1]
        finally:
            alarm.cancel()
            process.kill()


def test_shipped_model_is_served_at_every_width_without_torch():
    with serving() as (process, url):
        check_answers(url)
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists():
            assert "libtorch" not in maps.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
