"""What calibration at export is worth: statistics as they are against re-estimated ones, and three ways to scales.

    python -m benchmarks.calibration --config CONFIG --data FOLDER [--master FILE]

FILE is a master, of which the trained widths are taken; accuracy is the trainer's own, on the test images.
"""

import tempfile
from pathlib import Path

import torch

from benchmarks.measure import command_line, write_report
from bitgear.bits import WIDTHS
from bitgear.models import find_master
from trainer.config import read_config
from trainer.loop import Run


def main() -> None:
    """Run the comparison and print a table."""
    parser = command_line(__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--master", default="resnet20-cifar10")
    arguments = parser.parse_args()
    config = read_config(arguments.config)
    train = config.train.model_copy(update={"compile": False, "epochs": 0})
    config = config.model_copy(update={"train": train})
    with tempfile.TemporaryDirectory() as out:
        run = Run(config, arguments.data, Path(out), masters=[find_master(arguments.master)])
        run.fit()
        rows = _rows(run)
    print(f"wrote {write_report('calibration', {'model': config.network.name, 'precisions': rows})}")


@torch.no_grad()
def _rows(run: Run) -> dict[str, dict[str, float]]:
    trained, batches, settings = run.config.train.widths, run.calibration_batches(), run.config.calibrate
    plain = list(run.task.data.train.codes[: settings.images * settings.batches].split(settings.images))
    rows: dict[str, dict[str, float]] = {}

    def measured(bits: int, *, scales: bool = False, images: list[torch.Tensor] = batches) -> float:
        run.model.calibrate_width(bits, images, scales=scales)
        return run.evaluate(run.model, bits)["top1"]

    for bits in WIDTHS:
        if bits in trained:
            row = {"kept": run.evaluate(run.model, bits)["top1"]}
            row["plain"] = measured(bits, images=plain)
            row["re_estimated"] = measured(bits)
        else:
            row = {}
            higher, lower = run.neighbours(bits)
            for name, towards in (("inherited", None), ("between", lower)):
                run.model.add_width(bits, higher, towards)
                row[name] = measured(bits)
            row["searched"] = measured(bits, scales=True)
        rows[str(bits)] = row
        print(f"{bits} bits  " + "  ".join(f"{name} {value:.2%}" for name, value in row.items()), flush=True)
    return rows


if __name__ == "__main__":
    main()
