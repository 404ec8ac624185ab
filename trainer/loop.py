"""A training run: FP32 start, joint training over widths, calibration of the rest. Resumable after every epoch."""

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from bitgear.bits import WIDTHS, Precision
from bitgear.checkpoint import read_master
from bitgear.errors import BitgearError
from bitgear.files import write_atomically
from bitgear.graph import Graph, Linear
from trainer.alrs import mean_clipped_gradient, scale_lr
from trainer.config import ConfigError, Fp32Config, RunConfig, TrainConfig
from trainer.freezing import Freezing
from trainer.model import Norms, Pass, QuantNet, key, require
from trainer.quantizers import Kernels, code_dtype, distance_from_codes
from trainer.restore import check_data, load_floats, load_masters
from trainer.schedule import SCHEDULE, schedule_of, told, told_metric, warn_of_past
from trainer.state import History, read_state, save_state, save_tensors
from trainer.subject import subject_of
from trainer.tasks import create_task
from trainer.tasks.base import EpochBatches, Task

KEYS = ("model", "history", "epoch", "joint", "weight_optimizer", "scale_optimizers")
"""What a state has."""


class NonFiniteLoss(BitgearError):
    """The loss became NaN or infinite; training stopped before the step was taken."""

    code = "training-non-finite-loss"


@dataclass(frozen=True)
class Process:
    """One process among those of a ``torchrun`` launch."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process reports and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.count > 1:
            dist.barrier()

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all processes."""
        if self.count > 1 and tensors:
            flat = torch.cat([t.detach().reshape(-1) for t in tensors])
            dist.all_reduce(flat)
            flat /= self.count
            for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                t.detach().copy_(part.view_as(t))


def usable_device(name: str) -> torch.device:
    """Return a device; raise :class:`~trainer.config.ConfigError` for ``cuda`` where torch finds none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device is 'cuda', but torch finds no CUDA device; use 'cpu'")
    return torch.device(name)


def prepare(train: TrainConfig) -> torch.device:
    """Return the device that trains, with torch's threads and seed as configured; raises :func:`usable_device`'s."""
    device = usable_device(train.device)
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    torch.manual_seed(train.seed)
    return device


def kernels_of(train: TrainConfig, device: torch.device) -> Kernels:
    """Return the functions that train on a device, compiled if configured."""
    dtype = code_dtype(device)
    return Kernels.compiled(dtype) if train.compile else Kernels(dtype)


def join_processes(device: str) -> Process:
    """Return this process's place, joining the group if ``torchrun`` started it; on ``cuda`` each takes its own GPU.

    Raises what :func:`usable_device` raises.
    """
    usable_device(device)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Process()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The others wait while the first process measures traces or evaluates, which may take hours.
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(days=1))
    return Process(dist.get_rank(), count)


def create_network(graph: Graph, task: Task, config: RunConfig, kernels: Kernels) -> QuantNet:
    """Return an untrained network of a graph for the images of a task; of its own graph, for all sizes of them."""
    shape = (3, task.record.height_px, task.record.width_px)
    model = QuantNet(graph, shape, task.record.scale, per_channel=config.network.per_channel, kernels=kernels)
    if graph == task.graph:
        for other, height_px, width_px in task.other_sizes():
            model.add_size(other, height_px, width_px)
    return model


class Run:
    """One training run in the folder ``out``.

    It holds ``state.pt``, the newest state, copies of it after epochs of joint training in ``epochs/NNNN.pt``,
    ``fp32.pt``, the network that joint training started from, ``history.json`` and the configuration.

    With ``masters`` joint training goes on from what these hold, of several from the mean, so no float network is
    trained before it; without ``weights`` that is the first one's 8-bit weights.
    """

    def __init__(
        self,
        config: RunConfig,
        data_folder: Path,
        out: Path,
        *,
        weights: Path | None = None,
        teacher: Path | None = None,
        masters: Sequence[Path] = (),
        process: Process | None = None,
        progress: bool = True,
    ) -> None:
        self.config = config
        self.out = out
        self.process = process or Process()
        self.progress = progress and self.process.first
        train = config.train
        self.device = prepare(train)
        self.task = create_task(config, data_folder, self.device)
        self.record = self.task.record
        self.kernels = kernels_of(train, self.device)
        self.model = self._network(self.task.graph)
        self.history = History()
        self.masters = [read_master(path) for path in masters]
        for each in self.masters:
            check_data(each, self.task.labels, self.record)
        self._start(weights)
        self.freezing: Freezing | None = None
        self.teacher: QuantNet | None = None
        if teacher is not None:
            if train.start_teaches:
                raise ConfigError(f"train.start_teaches leaves no room for a teacher; {teacher} cannot be used")
            self.teacher = self.task.teacher(teacher, self._network).requires_grad_(False)
        self.subject = subject_of(config, self.task, weights, teacher, self.masters)
        self.next_epoch = 0
        self.fp32_next_epoch = 0

    def _start(self, weights: Path | None) -> None:
        """Give the float network its first parameters: those of a file, of the first master, or the task's."""
        if weights is None and self.masters:
            load_floats(self.model, self.masters[0])
            return
        whole = self.task.start(self.model, weights)
        if self.masters and not whole:
            raise ConfigError(
                f"{weights} is of the encoder alone, and with --master nothing trains the rest; give the fp32.pt "
                "of a whole run, or none"
            )

    def _network(self, graph: Graph) -> QuantNet:
        return create_network(graph, self.task, self.config, self.kernels).to(self.device)

    # -- the run --------------------------------------------------------------------------------------------------

    def fit(self, from_epoch: int | None = None, stage: Path | None = None) -> None:
        """Train from where the folder's state stands, or stood after ``from_epoch`` (from 1), to the last epoch.

        ``stage``: the state of the stage that follows. It goes once epochs after ``from_epoch`` are trained again.
        Raises :class:`~trainer.config.ConfigError` if there is no state of that epoch, what the folder holds is of
        another subject, or the stage was begun and joint training would go on before it.
        """
        state = self._stored(from_epoch, stage)
        self.tell(f"{self.task.training_images:,} training images, {len(self.task.labels)} classes")
        self.out.mkdir(parents=True, exist_ok=True)
        if self.process.first:
            write_atomically(self.out / "config.json", self.config.model_dump_json(indent=2).encode())
        joint = state if state is not None and state["joint"] else None
        if joint is None:
            self._begin(state)
        else:
            for bits in self.config.train.widths:
                self.model.add_width(bits, None)
        optimizers = self._optimizers()
        if self.config.train.freeze:
            self.freezing = Freezing(self.model, min(self.config.train.widths), self.config.train.freeze)
        if joint is not None:
            self._restore(joint, *optimizers)
        if self.process.first:
            warn_of_past("fp32", self.config.fp32, self.history.fp32_epochs)
        if self.teacher is not None and self.history.teacher is None:
            self.history.teacher = self.evaluate(self.teacher, None)
        if self.config.train.start_teaches:
            self.teacher = self.fp32_network().requires_grad_(False)
        self._fit_joint(*optimizers, overtaken=None if from_epoch is None else stage)

    def _stored(self, from_epoch: int | None, stage: Path | None) -> dict[str, Any] | None:
        """Return the state that :meth:`fit` goes on from, None if there is none; raise what it raises."""
        path = self.out / "state.pt" if from_epoch is None else self._epoch_path(from_epoch)
        if from_epoch is not None and not path.is_file():
            raise ConfigError(f"{path} does not exist; this run has no state after epoch {from_epoch}")
        state = read_state(path, self.subject, self.device, KEYS)
        done = state["epoch"] if state is not None and state["joint"] else 0
        if from_epoch is None and stage is not None and stage.is_file() and done < self.config.train.epochs:
            raise ConfigError(
                f"{stage} was begun when joint training had ended, which now has {done} of {self.config.train.epochs} "
                "epochs; give it as many as it had, delete the file to begin that stage anew, or choose another --out"
            )
        return state

    def _begin(self, state: dict[str, Any] | None) -> None:
        """Train the FP32 start, from ``state`` if there is one, and give the network its widths."""
        if not self.masters:
            self._fit_fp32(state)
        self.history.fp32 = self.evaluate(self.model, None)
        self.tell(f"FP32 start: {told_metric(self.task.metric, self.history.fp32[self.task.metric])}")
        if self.process.first:
            save_tensors(self.out / "fp32.pt", self.model.state_dict())
        self.process.wait()  # all may read it as their teacher
        self._start_widths()

    def _restore(
        self, state: dict[str, Any], weight_optimizer: torch.optim.Adam, scale_optimizers: dict[int, torch.optim.Adam]
    ) -> None:
        """Make everything what it was after an epoch of joint training."""
        self.model.load_state_dict(state["model"])
        weight_optimizer.load_state_dict(state["weight_optimizer"])
        for bits, optimizer in scale_optimizers.items():
            optimizer.load_state_dict(state["scale_optimizers"][bits])
        if self.freezing is not None:
            self.freezing.load_state_dict(state["freezing"])
        self.history, self.next_epoch = History.parse(state["history"]), state["epoch"]

    def _fit_joint(
        self, weight_optimizer: torch.optim.Adam, scale_optimizers: dict[int, torch.optim.Adam], overtaken: Path | None
    ) -> None:
        """Train the epochs of joint training that are left. ``overtaken``: the state of a stage that they undo."""
        for epoch in range(self.next_epoch, self.config.train.epochs):
            started = time.perf_counter()
            row = self._epoch(epoch, weight_optimizer, scale_optimizers)
            self.average_statistics()
            if self.evaluates(epoch, self.config.train.epochs):
                row[self.task.metric] = self.evaluate_widths()
            row |= {"seconds": time.perf_counter() - started, SCHEDULE: schedule_of(self.config.train)}
            self.history.epochs.append(row)
            self.history.seconds += row["seconds"]
            self.next_epoch = epoch + 1
            if overtaken is not None and self.process.first:
                overtaken.unlink(missing_ok=True)  # before the state: stopped in between, the stage alone is repeated
            self._save_joint(weight_optimizer, scale_optimizers)
            self.tell(told(f"epoch {epoch + 1}/{self.config.train.epochs}", row, self.task.metric))
        if self.process.first:
            warn_of_past("train", self.config.train, self.history.epochs)
        if self.history.epochs and self.task.metric not in self.history.epochs[-1]:  # epochs were fewer in the end
            self.history.epochs[-1][self.task.metric] = self.evaluate_widths()
            self._save_joint(weight_optimizer, scale_optimizers)

    def tell(self, line: str) -> None:
        """Write a line above the progress bar, to standard error, where progress is shown."""
        if self.progress:
            tqdm.write(line, file=sys.stderr)

    def evaluate_widths(self) -> dict[str, float]:
        """Return the task's metric of every trained width on the images watched."""
        return {str(bits): self.evaluate(self.model, bits)[self.task.metric] for bits in self.config.train.widths}

    def _start_widths(self) -> None:
        train, batches = self.config.train, self.calibration_batches()
        if self.masters:
            load_masters(self.model, self.masters, train.widths, batches)
            return
        for bits in train.widths:
            self.model.add_width(bits, None)
        self.model.start_weight_scales(train.scale_start_widths)
        for bits in train.widths:
            self.model.calibrate_width(bits, batches, scales=True)

    def calibrate(self) -> None:
        """Make every width ready for export: batch-norm statistics of the final weights, from training images.

        Widths that were not trained take the batch norm of the next higher trained one, and clipping ranges between its
        own and those of the next lower one, which costs no search and measured best at 3 bits (docs/training.md); above
        the highest trained one, its own.
        """
        self.add_untrained_widths()
        for bits in WIDTHS:
            self.model.calibrate_width(bits, self.calibration_batches(), scales=False)

    def add_untrained_widths(self) -> None:
        """Give the network the widths that are not trained, as :meth:`calibrate` says, or give it them anew."""
        for bits in WIDTHS:
            if bits not in self.config.train.widths:
                self.model.add_width(bits, *self.neighbours(bits))

    def neighbours(self, bits: int) -> tuple[int, int | None]:
        """Return the next higher trained width, else the highest one, and the next lower one if ``bits`` is between."""
        trained = self.config.train.widths
        higher = min((b for b in trained if b > bits), default=max(trained))
        return higher, max((b for b in trained if b < bits < higher), default=None)

    def calibration_batches(self) -> list[Tensor]:
        """Return the configured number of batches of training images, augmented as in training, always the same."""
        settings = self.config.calibrate
        return [codes for codes, _ in self.task.sample(settings.images, settings.batches)]

    def batches(self, epoch: int) -> EpochBatches:
        """Return this process's batches of an epoch."""
        return self.task.batches(epoch, self.process.rank, self.process.count, self.config.train.epoch_images)

    def evaluates(self, epoch: int, epochs: int) -> bool:
        """Return whether the epoch (from 0) ends with an evaluation: every so many, and the last."""
        return (epoch + 1) % self.config.train.evaluate_every == 0 or epoch + 1 == epochs

    def _fit_fp32(self, state: dict[str, Any] | None) -> None:
        settings = self.config.fp32
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = fp32_optimizer(parameters, settings)
        if state is not None:
            self.model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["weight_optimizer"])
            self.history, self.fp32_next_epoch = History.parse(state["history"]), state["epoch"]
        for epoch in range(self.fp32_next_epoch, settings.epochs):
            started, total = time.perf_counter(), 0.0
            batches = self.batches(epoch)
            bar = tqdm(batches, desc=f"fp32 {epoch + 1}/{settings.epochs}", disable=not self.progress, leave=False)
            for step, (codes, targets) in enumerate(bar):
                passed = epoch + step / len(batches)
                lr = settings.lr * cosine(math.pi * passed / settings.epochs)
                if passed < settings.warmup:
                    lr *= (passed + 1 / len(batches)) / settings.warmup
                set_rate(optimizer, lr)
                output = self.model(codes, Pass(None, training=True, momentum=0.1, fast=True))
                loss = self.task.loss(output, targets)
                self.check_finite(loss, f"FP32 epoch {epoch + 1}, step {step + 1}", "fp32.lr")
                loss.backward()
                self.process.average([p.grad for p in parameters if p.grad is not None])
                optimizer.step()
                optimizer.zero_grad()
                total += loss.item()
            self.average_statistics()
            row: dict[str, Any] = {"epoch": epoch + 1, "lr": lr, "loss": total / len(batches)}
            if epoch + 1 < settings.epochs and self.evaluates(epoch, settings.epochs):
                row |= self.evaluate(self.model, None)
            row |= {"seconds": time.perf_counter() - started, SCHEDULE: schedule_of(settings)}
            self.history.fp32_epochs.append(row)
            self._save(joint=False, epoch=epoch + 1, weight_optimizer=optimizer.state_dict(), scale_optimizers={})
            self.tell(told(f"fp32 {epoch + 1}/{settings.epochs}", row, self.task.metric))

    def _optimizers(self) -> tuple[torch.optim.Adam, dict[int, torch.optim.Adam]]:
        """Return the optimiser of weights and batch norm, and one for the scales of each width.

        A width's optimiser holds the shared weight scales too, with moments of its own: gradients of a scale differ
        tenfold between widths.
        """
        train = self.config.train
        decayed, plain = [], []
        for _, layer in self.model.quantised():
            decayed += [] if layer.weight is None else [layer.weight]
            plain += [] if layer.bias is None else [layer.bias]
            for bits in train.widths:
                if key(bits) in layer.bn:
                    plain += list(layer.batch_norm(bits).parameters())
            if key(None) in layer.bn:
                layer.batch_norm(None).requires_grad_(False)
        groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        scales = {}
        for bits in train.widths:
            weight_scales, act_scales = self._scales(bits)
            scales[bits] = torch.optim.Adam([{"params": weight_scales}, {"params": act_scales}], lr=train.lr)
        return torch.optim.Adam(groups, lr=train.lr), scales

    def _scales(self, bits: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        weight_scales, act_scales = [], []
        for _, layer in self.model.quantised():
            weight_scales += [] if layer.weight_log_scale is None else [layer.weight_log_scale]
            for scales in layer.read_scales.values():
                act_scales += [scales[key(bits)]] if key(bits) in scales else []
        return weight_scales, act_scales

    def _epoch(
        self, epoch: int, weight_optimizer: torch.optim.Adam, scale_optimizers: dict[int, torch.optim.Adam]
    ) -> dict[str, Any]:
        train = self.config.train
        batches = self.batches(epoch)
        losses = dict.fromkeys(train.widths, 0.0)
        gradients: dict[int, list[tuple[float, float]]] = {bits: [] for bits in train.widths}
        weights = [p for group in weight_optimizer.param_groups for p in group["params"]]
        bar = tqdm(batches, desc=f"epoch {epoch + 1}/{train.epochs}", disable=not self.progress, leave=False)
        for step, (codes, targets) in enumerate(bar):
            done = (epoch + step / len(batches)) / train.epochs
            lr = train.lr * cosine(math.pi * done)
            taught = self.teacher_output(codes)
            for bits in train.widths:  # the highest first: each width teaches the next lower one
                output = self.model(codes, Pass(bits, training=True, momentum=train.bn_momentum))
                loss = self.loss(output, targets, taught)
                self.check_finite(loss, f"epoch {epoch + 1}, step {step + 1}, {bits} bits")
                (loss + self.shape_penalty() + self.damping_penalty(bits, done)).backward()
                taught = output.detach()
                weight_scales, act_scales = self._scales(bits)
                self.process.average([p.grad for p in (*weights, *weight_scales, *act_scales) if p.grad is not None])
                set_rate(weight_optimizer, lr)
                weight_optimizer.step()
                measured = (_raw_gradient(weight_scales), _raw_gradient(act_scales))
                optimizer = scale_optimizers[bits]
                scoped = train.alrs_scope != "network"
                optimizer.param_groups[0]["lr"] = scale_lr(lr, 0.0 if scoped else measured[0], bits, train.alrs)
                optimizer.param_groups[1]["lr"] = scale_lr(lr, measured[1], bits, train.alrs_activations)
                if scoped:
                    step_by_own_gradients(optimizer, weight_scales, by_channel=train.alrs_scope == "channel")
                else:
                    optimizer.step()
                if self.freezing is not None:
                    self.freezing.hold()
                weight_optimizer.zero_grad()
                optimizer.zero_grad()
                gradients[bits].append(measured)
                losses[bits] += loss.item()
            if self.freezing is not None:
                self.freezing.watch()
            if self.progress and step % 20 == 0:
                bar.set_postfix({f"loss{bits}": f"{losses[bits] / (step + 1):.3f}" for bits in train.widths})
        return {
            "epoch": epoch + 1,
            "lr": lr,
            "loss": {str(bits): losses[bits] / len(batches) for bits in train.widths},
            "weight_scale_gradient": {str(b): sum(g[0] for g in gradients[b]) / len(batches) for b in train.widths},
            "act_scale_gradient": {str(b): sum(g[1] for g in gradients[b]) / len(batches) for b in train.widths},
            **({} if self.freezing is None else {"frozen": self.freezing.share}),
        }

    def teacher_output(self, codes: Tensor) -> Tensor | None:
        """Return what the teacher makes of a batch; None without a teacher or distillation."""
        if self.teacher is None or not self.config.train.distill:
            return None
        with torch.no_grad():
            output: Tensor = self.teacher(codes, Pass(None, training=False, fast=True))
        return output

    def loss(self, output: Tensor, targets: Any, taught: Tensor | None) -> Tensor:
        """Return the loss by the targets, mixed with the distance from the output ``taught`` by a better network."""
        return mixed_loss(self.task, output, targets, taught, self.config.train.distill)

    def shape_penalty(self) -> Tensor:
        """Return the pull of weight distributions to the uniform one: kurtosis to 1.8, skewness to 0 (EQ-Net, KURE)."""
        kurtosis, skewness = self.config.train.kurtosis, self.config.train.skewness
        total = torch.zeros((), device=self.device)
        if not kurtosis and not skewness:
            return total
        for node, layer in self.model.quantised():
            if layer.weight is None or isinstance(node, Linear) or getattr(node, "bits", None) is not None:
                continue
            if layer.weight.numel() < 2:  # one weight has no distribution
                continue
            w = layer.weight.flatten()
            z = (w - w.mean()) / w.std().clamp_min(1e-8)
            total = total + kurtosis * (z.pow(4).mean() - 1.8).square() + skewness * z.pow(3).mean().square()
        return total

    def damping_penalty(self, bits: int, done: float) -> Tensor:
        """Return the pull of weights to their codes at a width, against their swinging between two; ``done``: 0..1."""
        weight = 0.5 * self.config.train.dampening * (1 - math.cos(math.pi * done))
        total = torch.zeros((), device=self.device)
        if not weight:
            return total
        for conv in self.model.graph.searchable:
            layer = self.model.layer(conv.name)
            total = total + distance_from_codes(require(layer.weight), require(layer.weight_log_scale), bits)
        return weight * total

    def check_finite(self, loss: Tensor, where: str, rate: str = "train.lr", state: Path | None = None) -> None:
        """Raise :class:`NonFiniteLoss` if a loss is none; ``rate`` and ``state`` are those of the stage that trains."""
        check_finite(loss, where, state or self.out / "state.pt", rate)

    def average_statistics(self) -> None:
        """Make the running statistics those of all processes."""
        self.process.average([b for b in self.model.buffers() if b.dim() == 1])

    @torch.no_grad()
    def evaluate(
        self, model: QuantNet, precision: Precision | None, norms: Norms = "width"
    ) -> dict[str, float]:  # fmt: skip
        """Return the metrics on the images watched during training; with convolutions in bfloat16, to a few images."""
        how = Pass(precision, training=False, norms=norms)
        return self.task.evaluate(lambda codes: model(codes, how))

    def fp32_network(self) -> QuantNet:
        """Return the network that joint training started from; raise :class:`~trainer.config.ConfigError` if lost."""
        path = self.out / "fp32.pt"
        if not path.is_file():
            raise ConfigError(f"{path} does not exist; only a run that trained its FP32 start or imported it has one")
        model = self._network(self.task.graph)
        model.load_state_dict(torch.load(path, weights_only=True, map_location=self.device))
        return model

    def _epoch_path(self, epoch: int) -> Path:
        return self.out / "epochs" / f"{epoch:04d}.pt"

    def _save_joint(
        self, weight_optimizer: torch.optim.Optimizer, scale_optimizers: dict[int, torch.optim.Adam]
    ) -> None:  # fmt: skip
        self._save(
            joint=True,
            epoch=self.next_epoch,
            weight_optimizer=weight_optimizer.state_dict(),
            scale_optimizers={bits: o.state_dict() for bits, o in scale_optimizers.items()},
            **({} if self.freezing is None else {"freezing": self.freezing.state_dict()}),
        )

    def _save(self, **state: Any) -> None:
        if not self.process.first:
            return
        paths = [self.out / "state.pt"]
        if state["joint"] and state["epoch"] % self.config.train.keep_every == 0:
            paths.append(self._epoch_path(state["epoch"]))
            paths[-1].parent.mkdir(exist_ok=True)
        whole = {"model": self.model.state_dict(), "history": self.history.text(), **state}
        for path in paths:
            save_state(path, self.subject, whole)
        self.history.save(self.out / "history.json")


def mixed_loss(task: Task, output: Tensor, targets: Any, taught: Tensor | None, share: float) -> Tensor:
    """Return the loss by the targets, mixed by ``share`` (0..1) with the distance from ``taught``, if there is any."""
    loss = task.loss(output, targets)
    if taught is None or not share:
        return loss
    return (1 - share) * loss + share * task.distillation(output, taught)


def check_finite(loss: Tensor, where: str, state: Path, rate: str) -> None:
    """Raise :class:`NonFiniteLoss` if a loss is none; it names the rate to lower and, if it exists, the last state."""
    if not math.isfinite(loss.item()):
        kept = f"the last good state is in {state}; " if state.is_file() else ""
        raise NonFiniteLoss(f"loss is {loss.item()} at {where}; {kept}lower {rate}")


def cosine(angle: float) -> float:
    """Return the share of its first learning rate that a schedule has reached: 1 at angle 0, 0 at pi."""
    return 0.5 * (1 + math.cos(angle))


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameters of an optimiser one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _raw_gradient(log_scales: list[nn.Parameter]) -> float:
    """Return ALRS's G of one width: gradients of log s divided by s are gradients of s."""
    return mean_clipped_gradient(p.grad.div(p.detach().exp()).cpu() for p in log_scales if p.grad is not None)


@torch.no_grad()
def step_by_own_gradients(
    optimizer: torch.optim.Optimizer, log_scales: list[nn.Parameter], *, by_channel: bool
) -> None:
    """Step, but let each scale go only 1 - G of its way, with the G of ALRS of its own layer, or of its own channel."""
    before = [p.clone() for p in log_scales]
    shares = []
    for p in log_scales:
        own = torch.zeros_like(p) if p.grad is None else p.grad.div(p.exp()).abs().clamp(max=1.0)
        shares.append(1 - (own if by_channel else own.max()))
    optimizer.step()
    for p, start, share in zip(log_scales, before, shares, strict=True):
        p.copy_(start + share * (p - start))


def fp32_optimizer(parameters: list[nn.Parameter], settings: Fp32Config) -> torch.optim.Optimizer:
    """Return the optimiser of FP32 training."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )  # fmt: skip
    betas = (settings.momentum, 0.999)
    return torch.optim.AdamW(parameters, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay)
