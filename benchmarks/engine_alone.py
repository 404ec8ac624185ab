"""Pictures a second of the engine alone: no HTTP, no JPEG, codes made before.

    python -m benchmarks.engine_alone MASTER BITS THREADS CALLS SECONDS

So many calls at the same time, each of so many threads. Prints the rate.
"""

import sys
import threading
import time
from pathlib import Path

import numpy as np

from bitgear.checkpoint import read_master
from bitgear.engines import create_engine


def main() -> None:
    """Run as the arguments say."""
    bits, threads, calls = map(int, sys.argv[2:5])
    seconds = float(sys.argv[5])
    master = read_master(Path(sys.argv[1]))
    model = create_engine("native", threads).derive(master, bits)
    shape = (1, 3, master.input.height_px, master.input.width_px)
    q_image = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    counts = [0] * calls

    def work(slot: int, until_s: float) -> None:
        while time.monotonic() < until_s:
            model.run(q_image)
            counts[slot] += 1

    model.run(q_image)
    started_s = time.monotonic()
    workers = [threading.Thread(target=work, args=(slot, started_s + seconds)) for slot in range(calls)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(sum(counts) / (time.monotonic() - started_s))


if __name__ == "__main__":
    main()
