"""Traces of the Hessian: against the exact one, whatever the interruptions, for every task, into the master."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from bitgear.checkpoint import read_master, write_master
from bitgear.cli import app
from bitgear.graph import IMAGE, Conv, Graph, Linear, Pool
from tests.trainer.dense_data import detect_config, segment_config, write_boxes, write_maps
from tests.trainer.test_trainer_export import ENGINE, images_of, master_of
from tests.trainer.tiny_runs import tiny_config, tiny_run
from trainer import hessian
from trainer.config import Config, ConfigError, HessianConfig
from trainer.export import export
from trainer.hessian import Traces, TracesInvalid, estimate, hessian_products, measure_traces, searchable_weights
from trainer.loop import Run, create_network
from trainer.model import Pass, QuantNet
from trainer.pipeline import _traces, measure_sensitivities, tune_plans
from trainer.quantizers import Kernels
from trainer.tasks import create_task

TINY = Graph(
    (
        Conv("a", IMAGE, 2, 3, padding=1, relu=False),
        Conv("b", "a", 2, 3, padding=1, residual="a", relu=False),
        Pool("pool", "b"),
        Linear("linear", "pool", 3),
    )
)
"""Smooth: differences of a gradient see the kinks of ReLUs, which have no second derivative."""


def tiny_network(seed: int = 0) -> QuantNet:
    torch.manual_seed(seed)
    model = QuantNet(TINY, (3, 5, 5), 1 / 128, per_channel=True, kernels=Kernels())
    with torch.no_grad():
        for _, layer in model.quantised():
            if len(layer.bn):
                bn = layer.batch_norm(None)
                for tensor in (bn.gamma, bn.beta, bn.mean, bn.var):
                    tensor.copy_(torch.rand(2) + 0.5)
    return model


def tiny_batch(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-128, 128, (count, 3, 5, 5), generator=generator).to(torch.int8)
    return codes, torch.randint(0, 3, (count,), generator=generator)


def exact_hessian(model: QuantNet, batch: tuple[Tensor, Tensor]) -> tuple[np.ndarray, list[int]]:
    """The whole matrix over all weights, by differences of the gradient, and the number of weights of each layer."""
    weights = list(searchable_weights(model).values())

    def gradient() -> np.ndarray:
        loss = F.cross_entropy(model(batch[0], Pass(None, training=False)), batch[1])
        return np.concatenate([g.double().numpy().ravel() for g in torch.autograd.grad(loss, weights)])

    columns = []
    for weight in weights:
        flat = weight.data.contiguous().view(-1)
        for i in range(flat.numel()):
            ends = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[i] += sign * 1e-3
                weight.data = moved.view_as(weight)
                ends.append(gradient())
            weight.data = flat.view_as(weight)
            columns.append((ends[0] - ends[1]) / 2e-3)
    return np.stack(columns, 1), [weight.numel() for weight in weights]


def test_products_are_those_of_the_exact_hessian() -> None:
    model, batch = tiny_network(), tiny_batch()
    matrix, sizes = exact_hessian(model, batch)
    assert np.abs(matrix - matrix.T).max() < 0.02 * np.abs(matrix).max()
    generator = torch.Generator().manual_seed(1)
    signs = [
        torch.randint(0, 2, w.shape, generator=generator).float() * 2 - 1 for w in searchable_weights(model).values()
    ]
    found = hessian_products(model, F.cross_entropy, *batch, signs)
    expected = matrix @ np.concatenate([sign.numpy().ravel() for sign in signs])
    np.testing.assert_allclose(
        np.concatenate([part.numpy().ravel() for part in found]), expected, atol=0.02 * np.abs(expected).max()
    )
    assert len(sizes) == len(found)


def test_traces_converge_to_the_exact_ones(tmp_path: Path) -> None:
    model = tiny_network()
    batches = [tiny_batch(seed=seed) for seed in range(3)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):  # towards a minimum, where traces are positive
        sum(F.cross_entropy(model(codes, Pass(None, training=False)), labels) for codes, labels in batches).backward()
        optimizer.step()
        optimizer.zero_grad()
    exact = []
    for batch in batches:
        matrix, sizes = exact_hessian(model, batch)
        diagonals = np.split(np.diag(matrix), np.cumsum(sizes)[:-1])
        exact.append([float(d.mean()) for d in diagonals])
    names = list(searchable_weights(model))
    traces = Traces("tiny", {}, 18, 3, {name: weight.numel() for name, weight in searchable_weights(model).items()})
    settings = HessianConfig(rounds=100, tolerance=0.01)
    estimate(
        model,
        F.cross_entropy,
        lambda: iter(batches),
        traces,
        settings,
        path=tmp_path / "t.json",
        seed=1,
        progress=False,
    )
    error = traces.error()
    for name, expected in zip(names, np.mean(exact, 0), strict=True):
        assert abs(traces.average()[name] - expected) < 4 * error[name] + 0.01 * abs(expected), name
    assert traces.relative_error() < 0.2


def test_an_error_is_unknown_before_the_second_estimate_and_shrinks_with_their_number() -> None:
    traces = Traces("n", {}, 4, 2, {"a": 4, "b": 2}, {"a": [7.0, 9.0], "b": [2.0, 2.0]})
    assert traces.average() == {"a": 2.0, "b": 1.0}
    assert traces.relative_error() == float("inf")
    few = Traces("n", {}, 4, 1, {"a": 4}, {"a": [7.0, 9.0] * 2})
    many = Traces("n", {}, 4, 1, {"a": 4}, {"a": [7.0, 9.0] * 50})
    assert many.relative_error() < few.relative_error() / 4


def test_what_differs_between_batches_is_no_error_and_an_incomplete_round_does_not_count() -> None:
    traces = Traces("n", {}, 4, 2, {"a": 1}, {"a": [1.0, 100.0, 1.0, 100.0, 50.0]})
    assert traces.average() == {"a": 50.5}
    assert traces.error() == {"a": 0.0}
    assert (traces.count, traces.rounds) == (5, 2)
    assert np.isnan(Traces("n", {}, 4, 2, {"a": 1}, {"a": [1.0]}).average()["a"])


def fast(**changes: Any) -> Config:
    return tiny_config(hessian={"images": 24, "batch_size": 8, "rounds": 2, **changes})


def test_an_interrupted_measurement_ends_with_the_same_numbers(
    pictures: Path, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(pictures, finished.out, fast())
    network = run.fp32_network()
    whole = measure_traces(network, run.task, run.config, tmp_path / "whole.json", network="n", progress=False)
    products, calls = hessian.hessian_products, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return products(*arguments)

    monkeypatch.setattr(hessian, "hessian_products", interrupted)
    path = tmp_path / "parts.json"
    with pytest.raises(KeyboardInterrupt):
        measure_traces(network, run.task, run.config, path, network="n", progress=False)
    assert Traces.read(path).count == 3
    assert measure_traces(network, run.task, run.config, path, network="n", progress=False) == whole
    assert whole.count == 6
    assert Traces.read(path) == whole


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"network": "n", "images": 1, "batches": 1, "weights": 3}'])
def test_a_file_without_traces_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    path.write_text(content)
    with pytest.raises(TracesInvalid, match=r"traces\.json"):
        Traces.read(path)


def test_traces_of_another_network_seed_or_data_are_not_gone_on_with(
    pictures: Path, finished: Run, tmp_path: Path
) -> None:
    run = tiny_run(pictures, finished.out, fast(rounds=1))
    path = tmp_path / "traces.json"

    def measure(config: Config, network: QuantNet) -> Traces:
        return measure_traces(network, run.task, config, path, network="n", progress=False)

    first = measure(run.config, run.fp32_network())
    assert measure(run.config, run.fp32_network()) == first
    other = run.fp32_network()
    with torch.no_grad():
        other.layer("layer1.0.conv1").weight[0, 0, 0, 0] += 1
    with pytest.raises(ConfigError, match="begun with another float network: "):
        measure(run.config, other)
    for sections, named in (({"train": {"seed": 7}}, "train.seed"), ({"data": {"shift_px": 0}}, "data.shift_px")):
        changed = tiny_config(**{"hessian": run.config.hessian.model_dump(), **sections})
        with pytest.raises(ConfigError, match=f"begun with another {named}: "):
            measure(changed, run.fp32_network())


def test_only_whole_rounds_of_its_own_float_network_go_into_a_master(
    pictures: Path, finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(pictures, finished.out, fast(rounds=1))
    network = run.fp32_network()
    run.out = tmp_path
    assert _traces(run, network) is None
    traces = measure_traces(network, run.task, run.config, tmp_path / "traces.json", network="n", progress=False)
    assert _traces(run, network) == traces
    with torch.no_grad():
        network.layer("linear").bias += 1
    assert _traces(run, network) is None
    assert "another float network" in capsys.readouterr().err
    for samples in traces.samples.values():
        del samples[1:]  # interrupted in the first round
    traces.save(tmp_path / "traces.json")
    assert _traces(run, tiny_run(pictures, finished.out).fp32_network()) is None
    (tmp_path / "traces.json").write_text('{"network": "n", "images": 24, "batches": 3, "weights": {}}')  # of before
    assert _traces(run, network) is None
    assert "delete it and they are computed anew" in capsys.readouterr().err


@pytest.mark.parametrize("command", [measure_sensitivities, partial(tune_plans, progress=False)])
def test_a_missing_gpu_is_named(command: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = tmp_path / "tiny.toml"
    config.write_text('[network]\nname = "tiny"\n[train]\ndevice = "cuda"\n')
    options = {"weights": None} if command is measure_sensitivities else {}
    with pytest.raises(ConfigError, match="finds no CUDA device"):
        command(config, pictures, tmp_path / "run", master=tmp_path / "none.safetensors", **options)


@pytest.mark.parametrize(("make", "write"), [(segment_config, write_maps), (detect_config, write_boxes)])
def test_every_task_has_traces(make: Any, write: Any, tmp_path: Path) -> None:
    settings = {"images": 2, "batch_size": 2, "rounds": 2}
    config = make(hessian=settings)
    task = create_task(config, write(tmp_path / "set"), torch.device("cpu"))
    model = create_network(task.graph, task, config, Kernels())
    traces = measure_traces(model, task, config, tmp_path / "t.json", network="n", progress=False)
    assert set(traces.average()) == {conv.name for conv in task.graph.searchable}
    assert all(np.isfinite(value) for value in traces.average().values())
    assert any(value != 0 for value in traces.average().values())


def test_traces_go_into_a_master_and_change_nothing_else(pictures: Path, finished: Run, tmp_path: Path) -> None:
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.calibrate()
    path = tmp_path / "tiny.safetensors"
    before = export(master_of(run), run.model, path, images_of(run), ENGINE)
    config = tmp_path / "tiny.toml"
    config.write_text(
        '[network]\nname = "tiny"\ndepth = 8\n[data]\nside_px = 8\n[hessian]\nimages = 16\nbatch_size = 8\nrounds = 1\n'
    )
    out = tmp_path / "run"
    arguments = ["hessian", config, "--data", pictures, "--out", out, "--master", path]
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert "tiny as floats" in done.output
    after = read_master(path)
    assert set(after.sensitivities) == {conv.name for conv in after.graph.searchable}
    assert after.sensitivities == Traces.read(out / "traces.json").average()
    assert all(np.array_equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())
    assert after.digest != before.digest
    assert (out / "traces.png").stat().st_size > 1000


def test_fewer_images_than_a_batch_are_one_batch(pictures: Path, finished: Run, tmp_path: Path) -> None:
    run = tiny_run(pictures, finished.out, fast(images=4, rounds=1))
    traces = measure_traces(run.fp32_network(), run.task, run.config, tmp_path / "t.json", network="n", progress=False)
    assert (traces.images, traces.batches) == (4, 1)


def test_traces_of_another_network_than_the_masters_are_not_measured(
    pictures: Path, finished: Run, tmp_path: Path
) -> None:
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.calibrate()
    path, config = tmp_path / "tiny.safetensors", tmp_path / "tiny.toml"
    write_master(master_of(run), path)
    config.write_text('[network]\nname = "tiny"\ndepth = 14\n[data]\nside_px = 8\n')
    deeper = tiny_run(pictures, tmp_path / "run", tiny_config(network={"depth": 14}, train={"epochs": 0}))
    deeper.fit()
    with pytest.raises(ConfigError, match="another network than the configuration says"):
        measure_sensitivities(config, pictures, deeper.out, weights=None, master=path)
    assert not (deeper.out / "traces.json").exists()


def test_a_float_network_must_come_from_somewhere(pictures: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text('[network]\nname = "tiny"\ndepth = 8\n[data]\nside_px = 8\n')
    with pytest.raises(ConfigError, match="--weights or --master"):
        measure_sensitivities(config, pictures, tmp_path / "out", weights=None, master=None)
