"""Data sets of a few small synthetic pictures for segmentation and detection, and configurations of seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.config import DetectConfig, SegmentConfig

HEIGHT, WIDTH = 40, 56
PYRAMID = {"name": "tiny", "stem": 8, "channels": (8, 16), "blocks": (1, 1), "pyramid": 8}
TRAIN = {"widths": (8, 2), "epochs": 2, "batch_size": 4, "lr": 2e-3, "compile": False, "distill": 0.3}
FP32 = {"epochs": 2, "optimizer": "adamw", "lr": 5e-3, "weight_decay": 0.01, "warmup": 1}
CALIBRATE = {"images": 4, "batches": 1}


def write_maps(folder: Path, counts: tuple[int, int, int] = (8, 4, 4)) -> Path:
    """Splits train, val and test: a bright rectangle of class ``thing`` before dark ``ground``, and a void edge."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_text(json.dumps(["ground", "thing", "void"]))
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        (folder / split).mkdir()
        (folder / f"{split}annot").mkdir()
        for i in range(count):
            pixels = rng.integers(0, 90, (HEIGHT, WIDTH, 3))
            ids = np.zeros((HEIGHT, WIDTH), np.uint8)
            top, left = rng.integers(2, 16, 2)
            pixels[top : top + 18, left : left + 26] += 140
            ids[top : top + 18, left : left + 26] = 1
            ids[:2] = 2
            Image.fromarray(pixels.astype(np.uint8)).save(folder / split / f"{i:02d}.png")
            Image.fromarray(ids).save(folder / f"{split}annot" / f"{i:02d}.png")
    return folder


def write_boxes(folder: Path, counts: tuple[int, int, int] = (8, 4, 4)) -> Path:
    """Splits train, val and test in COCO's form: one or two bright squares; one picture of each split has none."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        (folder / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(0, 90, (HEIGHT, WIDTH, 3))
            for _ in range(i % 3):
                kind, side = int(rng.integers(2)), int(rng.integers(10, 18))
                y, x = int(rng.integers(HEIGHT - side)), int(rng.integers(WIDTH - side))
                pixels[y : y + side, x : x + side, 2 * kind] += 140
                box = {"id": len(annotations), "image_id": i, "category_id": kind + 1, "bbox": [x, y, side, side]}
                annotations.append(box | {"area": side * side, "iscrowd": 0})
            name = f"{split}/{i:02d}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
            images.append({"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT})
        categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
        listed = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(listed))
    return folder


def segment_config(**sections: Any) -> SegmentConfig:
    """Crops of 32 x 32 from pictures of 56 x 40."""
    values = {
        "task": {"kind": "segment", "class_balance": 0.5},
        "network": PYRAMID,
        "data": {"width_px": WIDTH, "height_px": HEIGHT, "crop_width_px": 32, "crop_height_px": 32},
        "fp32": FP32,
        "train": TRAIN,
        "calibrate": CALIBRATE,
        "hessian": {},
    }
    return SegmentConfig.model_validate({name: entries | sections.get(name, {}) for name, entries in values.items()})


def detect_config(**sections: Any) -> DetectConfig:
    """One map at stride 8 of an input of 48 x 40, into which pictures of 56 x 40 are letterboxed."""
    values = {
        "task": {"kind": "detect"},
        "network": PYRAMID | {"stride": 8, "head": 1},
        "data": {"width_px": 48, "height_px": 40, "views": {"turn": True, "mirror_vertical": True}},
        "fp32": FP32,
        "train": TRAIN,
        "calibrate": CALIBRATE,
        "hessian": {},
    }
    return DetectConfig.model_validate({name: entries | sections.get(name, {}) for name, entries in values.items()})
