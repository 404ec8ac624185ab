"""Time to be ready at a width never used before, beside loading a finished ONNX file of the same width.

    python -m benchmarks.switching [--model NAME] [--rounds 30]

"derive" is the engine's way from the master in memory to the first answer; "onnx file" reads the same network at the
same width from disk, makes a session with the default settings and answers once. Rounds alternate the two.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.measure import command_line, summary, write_report
from bitgear.checkpoint import read_master
from bitgear.engines import create_engine
from bitgear.engines.onnxruntime import build_onnx
from bitgear.models import find_master


def main() -> None:
    """Run the measurement and print a table."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="resnet20-cifar10")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    master = read_master(find_master(arguments.model))
    engine = create_engine("auto", 1)
    q_image = np.zeros((1, 3, master.input.height_px, master.input.width_px), np.int8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    samples: dict[int, dict[str, list[float]]] = {bits: {"derive": [], "onnx_file": []} for bits in master.widths}
    with tempfile.TemporaryDirectory() as folder:
        paths = {bits: Path(folder) / f"{bits}.onnx" for bits in master.widths}
        for bits, path in paths.items():
            path.write_bytes(build_onnx(master, bits).SerializeToString())
        for _ in range(arguments.rounds):
            for bits in master.widths:
                started = time.perf_counter()
                engine.derive(master, bits).run(q_image)
                samples[bits]["derive"].append(1e3 * (time.perf_counter() - started))
                started = time.perf_counter()
                session = onnxruntime.InferenceSession(paths[bits], options, providers=["CPUExecutionProvider"])
                session.run(None, {"image": q_image})
                samples[bits]["onnx_file"].append(1e3 * (time.perf_counter() - started))

    rows = {}
    print("bits   derive p50   onnx file p50   ratio    top-1")
    for bits in master.widths:
        derive, file = summary(samples[bits]["derive"]), summary(samples[bits]["onnx_file"])
        top1 = master.accuracy[bits]["top1"]
        ratio = file["p50_ms"] / derive["p50_ms"]
        rows[str(bits)] = {"derive": derive, "onnx_file": file, "ratio_of_medians": ratio, "top1": top1}
        print(f"   {bits}  {derive['p50_ms']:8.2f} ms  {file['p50_ms']:11.2f} ms  {ratio:6.2f}  {top1:7.2%}")
    path = write_report("switching", {"model": master.name, "engine": engine.name, "precisions": rows})
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
