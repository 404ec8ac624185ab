"""What it is worth to pretrain a pyramid network's encoder: from scratch against from an encoder that knows CIFAR-10.

    bitgear train cifar10_encoder --data FOLDER --out ENCODER
    python -m benchmarks.pretraining --config camvid_resnet_cpu --data camvid.tar --encoder ENCODER --out DIR

The float network is trained twice by the configuration's recipe, cut to fewer epochs, with the same pictures in the
same order: from scratch, and from the encoder. Every few epochs both are measured on the split ``val``. It may be
stopped and given again: a run goes on from its last epoch.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.eight_bits import read_run
from benchmarks.measure import command_line, write_report
from trainer.config import CONFIGS, DetectConfig, RunConfig, SegmentConfig
from trainer.loop import Run

EVALUATIONS = 6


def cut(config: RunConfig, epochs: int, seed: int) -> SegmentConfig | DetectConfig:
    """Return a run's configuration with few epochs of its float network and no joint training."""
    values = config.model_dump()
    values["fp32"]["epochs"] = epochs
    values["train"] |= {"epochs": 0, "seed": seed, "evaluate_every": max(epochs // EVALUATIONS, 1)}
    return CONFIGS[values["task"]["kind"]].model_validate(values)


def about(run: Path) -> dict[str, Any]:
    """Return what a report says of the run that made an encoder."""
    config, history = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "history"))
    epochs = history["fp32_epochs"]
    return {
        "epochs": len(epochs), "side_px": config["data"]["side_px"], "top1": history["fp32"]["top1"],
        "seconds": sum(row["seconds"] for row in epochs),
    }  # fmt: skip


def main() -> None:
    """Train both networks and write the report."""
    parser = command_line(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a file, or a shipped configuration's name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True, help="the folder of the run that trained it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    config = read_run(arguments.config)
    rows = []
    for start, weights in (("scratch", None), ("cifar10", arguments.encoder / "fp32.pt")):
        short = cut(config, arguments.epochs, arguments.seed)
        run = Run(short, arguments.data, arguments.out / start, weights=weights, progress=False)
        run.fit()
        metric, history = run.task.metric, run.history
        curve = {row["epoch"]: row[metric] for row in history.fp32_epochs if metric in row}
        rows.append(
            {"start": start, "seed": arguments.seed, "epochs": arguments.epochs, "metric": metric,
             metric: history.fp32[metric], "curve": {**curve, arguments.epochs: history.fp32[metric]},
             "loss": history.fp32_epochs[-1]["loss"]}
        )  # fmt: skip
        print(f"{start}: {metric} {history.fp32[metric]:.2%}", flush=True)
    report = {"model": config.network.name, "encoder": about(arguments.encoder), "rows": rows}
    print(f"wrote {write_report('pretraining', report)}")


if __name__ == "__main__":
    main()
