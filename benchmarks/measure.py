"""What all measurements share: the command line, order statistics, the machine, and the report file."""

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import bitgear
from bitgear.files import write_json
from bitgear.machine import processor

RESULTS = Path(__file__).parent / "results"


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser without arguments yet, whose help begins with the docstring of a script."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def summary(samples_ms: Sequence[float]) -> dict[str, float]:
    """Return median, quartiles, 99th percentile and count of durations in milliseconds."""
    p25, p50, p75, p99 = (float(v) for v in np.percentile(np.asarray(samples_ms), [25, 50, 75, 99]))
    return {"p50_ms": p50, "p25_ms": p25, "p75_ms": p75, "p99_ms": p99, "count": len(samples_ms)}


def machine() -> dict[str, str]:
    """Return the processor's name and the versions that matter."""
    return {
        "cpu": processor() or platform.machine(),
        "python": platform.python_version(),
        "bitgear": bitgear.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def write_report(name: str, report: dict[str, Any], path: Path | None = None) -> Path:
    """Write ``results/NAME.json``, or another file, with the machine added; return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = path or RESULTS / f"{name}.json"
    write_json(path, {"machine": machine(), **report})
    return path
