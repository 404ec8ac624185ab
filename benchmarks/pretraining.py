"""What it is worth to pretrain a pyramid network's encoder: from scratch against from an encoder that knows CIFAR-10.

    python -m benchmarks.pretraining --config camvid_resnet_cpu --data camvid.tar --cifar FOLDER --out DIR

Pretraining classifies CIFAR-10, enlarged, by a linear layer on what the encoder gives, averaged. Then the float network
is trained twice by the configuration's recipe, cut to fewer epochs, with the same pictures in the same order: from
scratch, and with the encoder's convolutions and batch norm taken over. Every few epochs both are measured on the split
``val``. It may be stopped and given again: a finished pretraining is kept, and a run goes on from its last epoch.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.eight_bits import read_run
from benchmarks.measure import write_report
from bitgear.graph import Graph, Linear, Pool
from trainer.config import CONFIGS, Config, DetectConfig, PyramidConfig, RunConfig, SegmentConfig
from trainer.loop import Run, create_network
from trainer.model import Pass, QuantNet
from trainer.quantizers import Kernels, code_dtype
from trainer.tasks import create_task
from trainer.tasks.scratch import pyramid

SIDE_PX = 64
"""Of CIFAR-10's pictures, enlarged from 32: the encoder divides sides by 32."""

ENCODER = ("conv1", "layer")
"""How names of the encoder's layers begin."""

LR, WARMUP = 2e-3, 0.25
EVALUATIONS = 6

State = dict[str, Tensor]


def encoder_graph(network: PyramidConfig) -> Graph:
    """Return the encoder with a linear classifier of CIFAR-10 behind it."""
    nodes = pyramid(network).graph(SIDE_PX, SIDE_PX, 1).nodes
    encoder = [node for node in nodes if node.name.startswith(ENCODER)]
    return Graph((*encoder, Pool("pool", encoder[-1].name), Linear("linear", "pool", 10)))


def pretrain(network: PyramidConfig, cifar: Path, epochs: int, seed: int) -> tuple[State, dict[str, Any]]:
    """Return the state of an encoder that classifies CIFAR-10, and what it reached on the test split."""
    config = Config.model_validate(
        {
            "network": {"name": "encoder"},
            "data": {"side_px": SIDE_PX},
            "fp32": {"epochs": epochs},
            "train": {"seed": seed, "batch_size": 128},
        }
    )
    device = torch.device(config.train.device)
    dtype = code_dtype(device)
    torch.manual_seed(seed)
    task = create_task(config, cifar, device)
    model = create_network(encoder_graph(network), task, config, Kernels(dtype))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    started = time.perf_counter()
    for epoch in range(epochs):
        batches = task.batches(epoch)
        for step, (codes, targets) in enumerate(tqdm(batches, desc=f"encoder {epoch + 1}/{epochs}", leave=False)):
            passed = epoch + step / len(batches)
            rate = LR * min(1.0, (passed + 1 / len(batches)) / WARMUP) * 0.5 * (1 + math.cos(math.pi * passed / epochs))
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                output = model(codes, Pass(None, training=True, momentum=0.1))
            task.loss(output.float(), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        reached = task.evaluate(lambda codes: model(codes, Pass(None, training=False)))
    return model.state_dict(), {"epochs": epochs, "side_px": SIDE_PX, "top1": reached["top1"], "seconds": seconds}


def with_encoder(model: QuantNet, encoder: State) -> State:
    """Return the state of an untrained network with the layers of an encoder that are its own too."""
    own = model.state_dict()
    taken = {name: tensor for name, tensor in encoder.items() if name in own and own[name].shape == tensor.shape}
    return {**own, **taken}


def cut(config: RunConfig, epochs: int, seed: int) -> SegmentConfig | DetectConfig:
    """Return a run's configuration with few epochs of its float network and no joint training."""
    values = config.model_dump()
    values["fp32"]["epochs"] = epochs
    values["train"] |= {"epochs": 0, "seed": seed, "evaluate_every": max(epochs // EVALUATIONS, 1)}
    return CONFIGS[values["task"]["kind"]].model_validate(values)


def main() -> None:
    """Pretrain, train both networks and write the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True, help="a file, or a shipped configuration's name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cifar", type=Path, required=True, help="the folder of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    config = read_run(arguments.config)
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = arguments.out / "encoder.pt"
    if not kept.is_file():
        state, reached = pretrain(config.network, arguments.cifar, arguments.encoder_epochs, arguments.seed)
        torch.save({"state": state, "reached": reached}, kept)
    encoder = torch.load(kept, weights_only=True)
    print(f"encoder: top-1 of CIFAR-10 {encoder['reached']['top1']:.2%}", flush=True)
    rows = []
    for start in ("scratch", "cifar10"):
        short = cut(config, arguments.epochs, arguments.seed)
        run = Run(short, arguments.data, arguments.out / start, progress=False)
        if start == "cifar10":
            run.model.load_state_dict(with_encoder(run.model, encoder["state"]))
        run.fit()
        metric, history = run.task.metric, run.history
        curve = {row["epoch"]: row[metric] for row in history.fp32_epochs if metric in row}
        rows.append(
            {"start": start, "seed": arguments.seed, "epochs": arguments.epochs, "metric": metric,
             metric: history.fp32[metric], "curve": {**curve, arguments.epochs: history.fp32[metric]},
             "loss": history.fp32_epochs[-1]["loss"]}
        )  # fmt: skip
        print(f"{start}: {metric} {history.fp32[metric]:.2%}", flush=True)
    report = {"model": config.network.name, "encoder": encoder["reached"], "rows": rows}
    print(f"wrote {write_report('pretraining', report)}")


if __name__ == "__main__":
    main()
