"""What each process of the distributed test runs: train, then save this process's network."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.trainer.tiny_runs import tiny_config, tiny_run
from trainer.loop import join_processes


def main() -> None:
    pictures, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    process = join_processes("cpu")
    run = tiny_run(pictures, out / "run", tiny_config(train={"epochs": 1, "widths": (8, 2)}), process=process)
    run.fit()
    seen = [labels.tolist() for _, labels in run.batches(0)]
    torch.save({"model": run.model.state_dict(), "seen": seen}, out / f"rank{process.rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
