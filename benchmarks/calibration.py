"""What calibration at export is worth: statistics kept from training against re-estimated ones, and two ways to scales.

    python -m benchmarks.calibration RUN --config CONFIG --data FOLDER --weights FILE

RUN is the folder of a finished training run; accuracy is the trainer's own, on the test images.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.measure import write_report
from bitgear.bits import WIDTHS
from trainer.config import read_config
from trainer.loop import Run


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    arguments = parser.parse_args()
    config = read_config(arguments.config)
    config = config.model_copy(update={"train": config.train.model_copy(update={"compile": False})})
    run = Run(config, arguments.data, arguments.run, weights=arguments.weights)
    run.fit()  # a finished run: loads its state and trains nothing
    trained, batches = config.train.widths, run.calibration_batches()
    plain = list(
        run.task.data.train.codes[: config.calibrate.images * config.calibrate.batches].split(config.calibrate.images)
    )
    rows: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for bits in WIDTHS:
            if bits in trained:
                row = {"kept": run.evaluate(run.model, bits)["top1"]}
                run.model.calibrate_width(bits, plain, scales=False)
                row["plain"] = run.evaluate(run.model, bits)["top1"]
                run.model.calibrate_width(bits, batches, scales=False)
                row["re_estimated"] = run.evaluate(run.model, bits)["top1"]
            else:
                source = min(b for b in trained if b > bits)
                run.model.add_width(bits, source)
                run.model.calibrate_width(bits, batches, scales=True)
                row = {"searched": run.evaluate(run.model, bits)["top1"]}
                run.model.add_width(bits, source)
                run.model.calibrate_width(bits, batches, scales=False)
                row["inherited"] = run.evaluate(run.model, bits)["top1"]
            rows[str(bits)] = row
            print(f"{bits} bits  " + "  ".join(f"{name} {value:.2%}" for name, value in row.items()))
    print(f"wrote {write_report('calibration', {'model': config.network.name, 'precisions': rows})}")


if __name__ == "__main__":
    main()
