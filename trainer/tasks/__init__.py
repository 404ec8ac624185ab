"""The tasks that a network can be trained for."""

from pathlib import Path

import torch

from trainer.config import Config, DetectConfig, RunConfig, SegmentConfig
from trainer.tasks.base import Task


def create_task(config: RunConfig, folder: Path, device: torch.device) -> Task:
    """Return the task of a configuration with its training data on ``device``; its modules are imported here."""
    match config:
        case SegmentConfig():
            from trainer.tasks.segment import Segment

            return Segment(config, folder, device)
        case DetectConfig():
            from trainer.tasks.detect import Detect

            return Detect(config, folder, device)
        case Config():
            from trainer.tasks.classify import Classify

            return Classify(config, folder, device)
        case _:  # pragma: no cover - read_config makes no others
            raise TypeError(type(config).__name__)


__all__ = ["Task", "create_task"]
