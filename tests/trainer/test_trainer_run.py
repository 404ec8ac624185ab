"""A whole run in seconds: it learns, resumes to the same bits, and stops when the loss does."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bitgear.bits import WIDTHS
from bitgear.errors import DataError
from tests.trainer.tiny_runs import (
    CLASSES,
    Interrupted,
    interrupt_after,
    state_of,
    tiny_config,
    tiny_run,
    write_pictures,
)
from trainer.alrs import eta
from trainer.config import ConfigError
from trainer.loop import NonFiniteLoss, Run
from trainer.model import Pass, key


def test_a_run_records_every_epoch_and_width(finished: Run) -> None:
    history = json.loads((finished.out / "history.json").read_text())
    assert [row["epoch"] for row in history["epochs"]] == [1, 2]
    for row in history["epochs"]:
        for entry in ("loss", "top1", "weight_scale_gradient", "act_scale_gradient"):
            assert set(row[entry]) == {"8", "4", "2"}
            assert all(math.isfinite(value) for value in row[entry].values())
        assert all(0 <= value <= 1 for value in row["top1"].values())
    assert 0 <= history["fp32"]["top1"] <= 1
    assert json.loads((finished.out / "config.json").read_text()) == json.loads(finished.config.model_dump_json())
    assert not list(finished.out.glob("*.partial"))


def test_training_lowers_the_loss_at_every_width(finished: Run) -> None:
    first, last = finished.history.epochs[0]["loss"], finished.history.epochs[-1]["loss"]
    assert all(last[bits] < first[bits] for bits in ("8", "4", "2"))


def test_an_interrupted_run_ends_with_the_same_bits(pictures: Path, tmp_path: Path, finished: Run) -> None:
    for _ in range(2):  # after the FP32 epoch and after the first joint one
        run = tiny_run(pictures, tmp_path)
        interrupt_after(1, run.task)
        with pytest.raises(Interrupted):
            run.fit()
    resumed = tiny_run(pictures, tmp_path)
    resumed.fit()
    assert [row["epoch"] for row in resumed.history.epochs] == [1, 2]
    expected, found = state_of(finished), state_of(resumed)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_run_goes_on_from_any_epoch(pictures: Path, finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.out, tmp_path / "copy")
    again = tiny_run(pictures, tmp_path / "copy")
    again.fit(from_epoch=1)
    assert [row["epoch"] for row in again.history.epochs] == [1, 2]
    assert all(torch.equal(state_of(again)[name], tensor) for name, tensor in state_of(finished).items())
    with pytest.raises(ConfigError, match=r"0007\.pt"):
        tiny_run(pictures, tmp_path / "copy").fit(from_epoch=7)


def test_where_epochs_become_fewer_the_last_one_is_evaluated(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = tiny_run(pictures, tmp_path, tiny_config(train={"epochs": 9, "evaluate_every": 5}))
    interrupt_after(2, longer.task)  # that of the FP32 start and the first joint one
    with pytest.raises(Interrupted):
        longer.fit()
    assert "top1" not in longer.history.epochs[-1]
    for _ in range(2):  # it is kept
        shorter = tiny_run(pictures, tmp_path, tiny_config(train={"epochs": 1, "evaluate_every": 5}))
        shorter.fit()
        assert json.loads((tmp_path / "history.json").read_text())["epochs"] == shorter.history.epochs
        assert set(shorter.history.epochs[-1]["top1"]) == {"8", "4", "2"}
        monkeypatch.setattr(Run, "evaluate_widths", None)


def test_a_finished_run_has_nothing_left_to_do(pictures: Path, finished: Run) -> None:
    before = (finished.out / "state.pt").read_bytes()
    again = tiny_run(pictures, finished.out)
    again.fit()
    assert (finished.out / "state.pt").read_bytes() == before
    assert all(torch.equal(state_of(again)[name], tensor) for name, tensor in state_of(finished).items())


def test_scale_rates_obey_alrs_and_are_never_negative(pictures: Path, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path, tiny_config(train={"epochs": 1, "alrs": "mult", "alrs_activations": "off"}))
    rates: list[tuple[int, float, float]] = []

    def record(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        scales = run.model.layer("layer1.0.conv1").act_log_scale
        *_, last = optimizer.param_groups
        found = (b for b in (8, 4, 2) if any(each is scales.get(key(b)) for each in last["params"]))
        rates.extend((bits, *(group["lr"] for group in optimizer.param_groups)) for bits in found)

    hook = register_optimizer_step_pre_hook(record)
    run.fit()
    hook.remove()
    assert {bits for bits, _, _ in rates} == {8, 4, 2}
    for bits, weight_rate, act_rate in rates:
        assert 0 <= weight_rate <= eta(bits) * act_rate <= act_rate <= run.config.train.lr
    assert max(rate for bits, rate, _ in rates if bits == 8) > 0


@pytest.mark.parametrize("alrs", ["off", "eta", "literal"])
def test_every_mode_of_alrs_trains(pictures: Path, tmp_path: Path, alrs: str) -> None:
    config = tiny_config(
        train={"epochs": 1, "widths": (8, 2), "alrs": alrs, "alrs_activations": alrs, "batch_size": 48},
        data={"shift_px": 0, "mirror": False},
    )
    run = tiny_run(pictures, tmp_path, config)
    run.fit()
    assert all(math.isfinite(value) for value in run.history.epochs[0]["loss"].values())


def test_2_bit_layers_use_all_four_codes(finished: Run) -> None:
    from trainer.quantizers import derive_codes

    for node, layer in finished.model.quantised():
        if layer.weight is None or getattr(node, "bits", 8) is not None:
            continue
        u = layer.weight / layer.weight_log_scale.exp().view(-1, 1, 1, 1)
        codes = derive_codes(u.detach(), 2)
        assert set(codes.unique().tolist()) == {-2, -1, 0, 1}, node.name
        assert (codes == 0).float().mean() < 0.6


def test_calibration_makes_the_untrained_widths_ready(pictures: Path, finished: Run) -> None:
    copy = tiny_run(pictures, finished.out)
    copy.fit()
    copy.calibrate()
    for _, layer in copy.model.quantised():
        if len(layer.bn):
            assert {key(bits) for bits in WIDTHS} <= set(layer.bn)
    codes = copy.task.data.test.codes[:4]
    for bits in WIDTHS:
        logits = copy.model(codes, Pass(bits, training=False))
        assert torch.isfinite(logits).all()
        assert logits.shape == (4, len(CLASSES))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_step_and_width(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    run = tiny_run(pictures, tmp_path)
    calls = 0
    loss = Run.loss

    def spoilt(self: Run, *args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss(self, *args) * (value if calls == 5 else 1)

    monkeypatch.setattr(Run, "loss", spoilt)
    with pytest.raises(NonFiniteLoss, match=r"epoch 1, step 2, 4 bits") as caught:
        run.fit()
    assert str(tmp_path / "state.pt") in str(caught.value)
    assert str(caught.value).endswith("lower train.lr")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert not state["joint"]
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


def test_a_diverging_fp32_start_stops_with_its_step(pictures: Path, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path, tiny_config(fp32={"lr": 1e30, "epochs": 3}))
    with pytest.raises(NonFiniteLoss, match=r"FP32 epoch \d, step \d.*; lower fp32\.lr$"):
        run.fit()


def test_a_state_that_was_never_written_is_not_spoken_of(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(pictures, tmp_path)
    monkeypatch.setattr(run.task, "loss", lambda output, targets: output.sum() * math.nan)
    with pytest.raises(NonFiniteLoss) as caught:
        run.fit()
    assert str(caught.value) == "loss is nan at FP32 epoch 1, step 1; lower fp32.lr"


def test_sgd_without_momentum_trains(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(fp32={"momentum": 0.0}, train={"epochs": 0})
    run = tiny_run(pictures, tmp_path, config)
    run.fit()
    assert len(run.history.fp32_epochs) == 1


def test_the_largest_seed_draws_an_order(pictures: Path, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path, tiny_config(train={"seed": 2**32 - 1}))
    assert len(run.calibration_batches()) == 2


def test_a_layer_of_one_weight_has_no_shape(pictures: Path, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path)
    before = run.shape_penalty()
    layer = run.model.layer("layer1.0.conv1")
    layer.weight = torch.nn.Parameter(layer.weight[:1, :1, :1, :1].detach().clone())
    assert 0 < run.shape_penalty() < before


def test_a_run_needs_a_start(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fp32\.epochs"):
        tiny_run(pictures, tmp_path, tiny_config(fp32={"epochs": 0}))


def test_splits_with_different_classes_are_refused(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "data", per_class=2)
    (folder / "test" / "red").rename(folder / "test" / "apple")
    with pytest.raises(DataError, match="apple"):
        tiny_run(folder, tmp_path / "out")


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "data", per_class=2)
    for split in ("train", "test"):
        for name in CLASSES[1:]:
            shutil.rmtree(folder / split / name)
    with pytest.raises(DataError, match=rf"one class only, '{CLASSES[0]}'"):
        tiny_run(folder, tmp_path / "out")


def test_fewer_images_can_be_configured(pictures: Path, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path, tiny_config(data={"train_images": 5, "test_images": 3}))
    assert (len(run.task.data.train), len(run.task.data.test)) == (5, 3)


def resnet_state(run: Run) -> dict[str, torch.Tensor]:
    """The FP32 network under the customary names, as if trained on x / 255 with mean 0 and deviation 1."""
    state = {}
    generator = torch.Generator().manual_seed(3)
    for node, layer in run.model.quantised():
        if layer.weight is None:  # a pool
            continue
        state[f"module.{node.name}.weight"] = layer.weight.detach().clone().contiguous()
        if len(layer.bn):
            name = f"module.{node.name.replace('conv', 'bn')}"
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{name}.{part}"] = torch.rand(layer.weight.shape[0], generator=generator) + 0.5
        else:
            state[f"module.{node.name}.bias"] = torch.rand(layer.weight.shape[0], generator=generator)
    return state


def plain_resnet(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """A ResNet-8 written out, on real input."""
    import torch.nn.functional as F

    def unit(x: torch.Tensor, conv: str, stride: int = 1) -> torch.Tensor:
        bn = f"module.{conv.replace('conv', 'bn')}"
        y = F.conv2d(x, state[f"module.{conv}.weight"], None, stride, 1)
        parts = (state[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(y, *parts, False, 0.0, 1e-5)

    x = torch.relu(unit(x, "conv1"))
    for stage in (1, 2, 3):
        stride = 1 if stage == 1 else 2
        y = torch.relu(unit(x, f"layer{stage}.0.conv1", stride))
        y = unit(y, f"layer{stage}.0.conv2")
        if stride == 2:
            extra = x.shape[1] // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))
        x = torch.relu(x + y)
    return F.linear(x.mean((2, 3)), state["module.linear.weight"], state["module.linear.bias"])


def test_imported_weights_compute_what_they_computed(pictures: Path, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path)
    state = resnet_state(run)
    save_file(state, tmp_path / "weights.safetensors")
    # with this mean, code 0 (pixel 128) is real 0, so that even the padding means the same
    start = {"mean": (128 / 255,) * 3, "std": (0.25, 0.2, 0.3)}
    config = tiny_config(start=start, fp32={"epochs": 0})
    run = tiny_run(pictures, tmp_path, config, weights=tmp_path / "weights.safetensors")
    pixels = run.task.data.test.codes[:5].float() + 128
    x = (pixels / 255 - 128 / 255) / torch.tensor(start["std"]).view(1, 3, 1, 1)
    with torch.no_grad():
        ours = run.model(run.task.data.test.codes[:5], Pass(None, training=False))
        torch.testing.assert_close(ours, plain_resnet(state, x), rtol=1e-3, atol=1e-3)


def test_another_mean_of_imported_weights_moves_into_the_first_layer(pictures: Path, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path)
    state = resnet_state(run)
    save_file(state, tmp_path / "weights.safetensors")
    start = {"mean": (0.4, 0.5, 0.6), "std": (0.25, 0.2, 0.3)}
    config = tiny_config(start=start, fp32={"epochs": 0})
    run = tiny_run(pictures, tmp_path, config, weights=tmp_path / "weights.safetensors")
    layer = run.model.layer("conv1")
    codes = run.task.data.test.codes[:5]
    mean, std = (torch.tensor(start[part]).view(1, 3, 1, 1) for part in ("mean", "std"))
    x = ((codes.float() + 128) / 255 - mean) / std

    def normalised(v: torch.Tensor, weight: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(v, weight) - centre.view(1, -1, 1, 1)  # unpadded: the border differs

    with torch.no_grad():
        ours = normalised(codes.float() / 128, layer.weight, layer.bn[key(None)].mean)
        theirs = normalised(x, state["module.conv1.weight"], state["module.bn1.running_mean"])
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_teacher_is_measured_and_not_trained(pictures: Path, tmp_path: Path) -> None:
    save_file(resnet_state(tiny_run(pictures, tmp_path)), tmp_path / "weights.safetensors")
    config = tiny_config(teacher={"depth": 8}, train={"epochs": 1, "widths": (8, 2), "batch_size": 48})
    run = tiny_run(pictures, tmp_path / "out", config, teacher=tmp_path / "weights.safetensors")
    assert run.teacher is not None
    before = {name: tensor.clone() for name, tensor in run.teacher.state_dict().items()}
    run.fit()
    assert 0 <= run.history.teacher["top1"] <= 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.teacher.state_dict().items())


def test_the_fp32_start_can_teach_the_highest_width(pictures: Path, tmp_path: Path, finished: Run) -> None:
    config = tiny_config(train={"epochs": 1, "widths": (8, 2), "batch_size": 48, "start_teaches": True})
    run = tiny_run(pictures, tmp_path / "out", config)
    run.fit()
    assert run.teacher is not None
    start = run.fp32_network().state_dict()
    assert all(torch.equal(tensor, start[name]) for name, tensor in run.teacher.state_dict().items())
    untaught = finished.history.epochs[0]["loss"]["8"]
    assert run.history.epochs[0]["loss"]["8"] != untaught


def test_two_teachers_are_refused(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(train={"epochs": 1, "start_teaches": True})
    with pytest.raises(ConfigError, match=r"start_teaches.*weights\.safetensors"):
        tiny_run(pictures, tmp_path, config, teacher=tmp_path / "weights.safetensors")


@pytest.mark.parametrize("use", ["weights", "teacher"])
@pytest.mark.parametrize(
    ("fault", "said"), [("none", "cannot be read"), ("cut", "no safetensors file"), ("text", "no safetensors file")]
)
def test_weights_that_are_no_whole_file_are_named(
    use: str, fault: str, said: str, pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "given.safetensors"
    if fault == "cut":
        save_file(resnet_state(tiny_run(pictures, tmp_path)), path)
        path.write_bytes(path.read_bytes()[:-40])
    elif fault == "text":
        path.write_text("these are no weights, whatever the name says\n")
    with pytest.raises(ConfigError, match=rf"given\.safetensors .*{said}|given\.safetensors are {said}"):
        tiny_run(pictures, tmp_path / "out", tiny_config(teacher={"depth": 8}), **{use: path})


@pytest.mark.parametrize("fault", ["missing", "deeper", "shape", "nan", "infinite", "integers"])
def test_weights_that_do_not_fit_are_refused_by_name(fault: str, pictures: Path, tmp_path: Path) -> None:
    state = resnet_state(tiny_run(pictures, tmp_path))
    name = next(name for name in state if name.endswith("layer2.0.conv1.weight"))
    if fault == "missing":
        del state[name]
    elif fault == "deeper":
        state[name.replace("2.0", "2.1")] = state[name].clone()
        state[name.replace("2.0.conv1.weight", "2.1.bn1.num_batches_tracked")] = torch.zeros((), dtype=torch.int64)
    elif fault == "integers":
        state[name] = state[name].to(torch.int8)
    elif fault == "shape":
        state[name] = state[name][:, :-1].contiguous()
    else:
        state[name][0, 0, 0, 0] = math.nan if fault == "nan" else math.inf
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match=r"layer2\.[01]\.conv1\.weight"):
        tiny_run(pictures, tmp_path, tiny_config(fp32={"epochs": 0}), weights=tmp_path / "weights.safetensors")
