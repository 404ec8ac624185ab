"""From a configuration to a master and its report: what ``bitgear train`` does."""

import json
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bitgear.bits import WIDTHS
from bitgear.checkpoint import Master
from bitgear.engines import create_engine
from bitgear.evaluate import evaluate_classifier
from bitgear.tasks.datasets import read_labelled_images, subset
from trainer import configs
from trainer.config import ConfigError, read_config
from trainer.export import build_master, export, versions
from trainer.loop import Run, join_processes
from trainer.report import write_report

COMPARED_IMAGES = 64


def shipped_config(name: str) -> Path:
    """Return the path of a shipped configuration such as ``cifar10_resnet20``; raise :class:`ConfigError`."""
    folder = Path(configs.__file__).parent
    path = folder / f"{name.removesuffix('.toml')}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise ConfigError(f"{name!r} is neither a file nor a shipped configuration; shipped are {known}")
    return path


def train_master(
    config_path: Path,
    data: Path,
    out: Path,
    *,
    weights: Path | None,
    teacher: Path | None,
    from_epoch: int | None = None,
) -> Path | None:
    """Train to the end (resuming what is in ``out``), export, measure, report; return the master's path.

    Under ``torchrun`` only the first process exports; the others return None.
    """
    config = read_config(config_path)
    process = join_processes(config.train.device)
    run = Run(config, data, out, weights=weights, teacher=teacher, process=process)
    run.fit(from_epoch)
    if not process.first:
        return None
    return finish(run, data, {"weights": _provenance(weights), "teacher": _provenance(teacher)})


def finish(run: Run, data: Path, sources: dict[str, Any]) -> Path:
    """Calibrate, export and prove the master, measure every width through the serving engine."""
    config = run.config
    run.calibrate()
    run.model.to("cpu").eval()
    engine = create_engine(threads=torch.get_num_threads())
    provenance = {
        "data": f"{len(run.data.train)} training images of {data.name}",
        "recipe": config.model_dump(mode="json"),
        "seed": config.train.seed,
        "versions": versions(),
        "training_seconds": round(run.history.seconds),
        "fp32_top1": run.history.fp32_top1,
        "teacher_top1": run.history.teacher_top1,
        **{name: source for name, source in sources.items() if source is not None},
    }

    def built(accuracy: dict[int, dict[str, float]]) -> Master:
        return build_master(
            run.model, run.record, config.network.name, run.data.classes, accuracy=accuracy, provenance=provenance
        )

    path = run.out / f"{config.network.name}.safetensors"
    q_images = run.data.test.codes[:COMPARED_IMAGES].cpu().contiguous().numpy()
    master = export(built({}), run.model, path, q_images, engine)
    images = read_labelled_images(data, "test", config.data.side_px)
    images = subset(images, range(min(config.data.test_images or len(images.labels), len(images.labels))))
    with tqdm(total=len(WIDTHS) * len(images.labels), unit="image", disable=not run.progress, leave=False) as bar:
        measured = evaluate_classifier(master, engine, images, WIDTHS, bar.update)
    accuracy = {bits: {"top1": row["top1"], "images": row["images"]} for bits, row in measured.items()}
    master = export(built(accuracy), run.model, path, q_images, engine)
    write_report(run.out, master, run.history, path.stat().st_size)
    return path


def _provenance(weights: Path | None) -> Any:
    """Return the metadata of a safetensors file of FP32 weights: where they come from."""
    if weights is None:
        return None
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(length)).get("__metadata__", {})
    return {"file": weights.name, **metadata}
