"""The configuration of a training run: a TOML file, frozen once read, saved beside the results."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from bitgear.bits import WIDTHS, Plan
from bitgear.checkpoint import is_model_name
from bitgear.errors import BitgearError
from trainer.alrs import AlrsMode, AlrsScope
from trainer.networks.pyramid import Part


class ConfigError(BitgearError):
    """A configuration that cannot be read or contradicts itself."""

    code = "config-invalid"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _resnet_depth(depth: int) -> int:
    if depth < 8 or (depth - 2) % 6:
        raise ValueError("the depth of a CIFAR ResNet is 6n + 2: 8, 14, 20, 26, 32, ...")
    return depth


Depth = Annotated[int, AfterValidator(_resnet_depth)]


class NamedConfig(_Frozen):
    """The model's name; whether each output channel of a weight has a scale of its own."""

    name: str
    per_channel: bool = True

    @field_validator("name")
    @classmethod
    def _model_name(cls, name: str) -> str:
        if not is_model_name(name):
            raise ValueError("a model name is 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit")
        return name


class EncoderConfig(NamedConfig):
    """Sizes of the pyramid network's residual encoder, and the parts that stay at 8 bits whatever the width."""

    stem: int = Field(default=32, ge=1)
    channels: tuple[PositiveInt, ...] = Field(default=(32, 64, 128, 256), min_length=1, max_length=6)
    blocks: tuple[PositiveInt, ...] = (2, 2, 2, 2)
    eight_bits: frozenset[Part] = frozenset({"stem", "shortcut", "lateral", "predict"})

    @model_validator(mode="after")
    def _paired(self) -> "EncoderConfig":
        if len(self.blocks) != len(self.channels):
            raise ValueError("channels and blocks must have one entry for each stage")
        return self


class NetworkConfig(EncoderConfig):
    """A network that classifies.

    For 32x32 images a ResNet of ``depth`` or a MobileNetV2 of ``width`` times the customary channels; for any, the
    encoder of a pyramid network, which is pretrained so.
    """

    kind: Literal["resnet", "mobilenet-v2", "pyramid-encoder"] = "resnet"
    depth: Depth = 20
    width: float = Field(default=1.0, gt=0, le=4)


class PyramidConfig(EncoderConfig):
    """Sizes of the residual encoder with a feature pyramid: see :class:`trainer.networks.Pyramid`."""

    pyramid: int = Field(default=64, ge=1)
    stride: int = Field(default=4, ge=4)
    head: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _met(self) -> "PyramidConfig":
        if self.stride not in [4 * 2**stage for stage in range(len(self.channels))]:
            raise ValueError("the stride must be that of a stage: 4, 8, 16, ... up to the last")
        return self


class DataConfig(_Frozen):
    """Input side in pixels, pixel value of code 0, and augmentation.

    ``altered``: share of a batch's images that are altered more than by shifting and mirroring. ``held_out``: so many
    training images are not trained on but watched, all altered, in place of the test split.
    """

    side_px: int = Field(default=32, ge=8, le=1024)
    offset: int = Field(default=128, ge=0, le=255)
    shift_px: int = Field(default=4, ge=0)
    mirror: bool = True
    altered: float = Field(default=0.0, ge=0, le=1)
    held_out: int = Field(default=0, ge=0)
    train_images: int | None = Field(default=None, ge=1)
    test_images: int | None = Field(default=None, ge=1)


class ViewsConfig(_Frozen):
    """Augmentation: the range of scales, mirroring, a turn by 90 degrees, and the reach of random colours."""

    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    mirror: bool = True
    mirror_vertical: bool = False
    turn: bool = False
    brightness: float = Field(default=0.3, ge=0, lt=1)
    contrast: float = Field(default=0.3, ge=0, lt=1)
    saturation: float = Field(default=0.3, ge=0, le=1)

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("the smallest scale comes first")
        return scale


class PicturesConfig(_Frozen):
    """Input size in pixels, pixel value of code 0, and augmentation."""

    width_px: int = Field(default=480, ge=32, le=4096)
    height_px: int = Field(default=360, ge=32, le=4096)
    offset: int = Field(default=128, ge=0, le=255)
    views: ViewsConfig = ViewsConfig()
    contact_images: int = Field(default=6, ge=1)


class MapsConfig(PicturesConfig):
    """``crop_width_px`` and ``crop_height_px``: what a training step sees of a picture; None: the input size."""

    crop_width_px: int | None = Field(default=None, ge=32, le=4096)
    crop_height_px: int | None = Field(default=None, ge=32, le=4096)


class ClassifyConfig(_Frozen):
    """Classification has nothing to set."""

    kind: Literal["classify"] = "classify"


class SegmentTaskConfig(_Frozen):
    """``class_balance``: exponent, 0..1, of each class's weight, its median-frequency weight; 0 is no weights."""

    kind: Literal["segment"]
    class_balance: float = Field(default=0.0, ge=0, le=1)


class DetectTaskConfig(_Frozen):
    """Task-aligned assignment (Feng et al. 2021): each box takes the ``cells`` best by score**alpha * IoU**beta.

    ``box_weight``: weight of the box loss beside that of the scores.
    """

    kind: Literal["detect"]
    cells: int = Field(default=10, ge=1)
    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=6.0, ge=0)
    box_weight: float = Field(default=2.0, gt=0)


class WeightsConfig(_Frozen):
    """Imported FP32 weights: the normalisation they were trained with, ``(x / 255 - mean) / std``."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class TeacherConfig(WeightsConfig):
    """The same of a teacher, which may be of another depth than the network."""

    depth: Depth = 56


class Fp32Config(_Frozen):
    """Own FP32 training, cosine to zero; zero epochs where weights are imported.

    ``sgd`` with Nesterov momentum, or without any where ``momentum`` is 0, or ``adamw``, whose first moment takes
    ``momentum``. The rate rises evenly over ``warmup`` epochs.
    """

    epochs: int = Field(default=0, ge=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    warmup: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)


class TrainConfig(_Frozen):
    """Joint training over ``widths``: Adam, cosine to zero, one step per width and batch.

    Each width learns from the next higher one by the share ``distill``; the highest learns from the teacher, where one
    is given, or from the FP32 network that joint training started from, where ``start_teaches``. An epoch shows
    ``epoch_images`` training images, others each time, or all. ``alrs_scope``: whether the rate of weight scales
    depends on the gradients of the network, or each layer's or channel's on its own. ``dampening``: pull of weights to
    the codes that they round to, at the end; it grows from zero (Nagel et al. 2022, section 4.1). ``freeze``: in what
    share of the steps a weight's code at the lowest width may swing back before the weight is held; 0: in any.
    """

    widths: tuple[int, ...] = (8, 6, 4, 2)
    epochs: int = Field(default=200, ge=0)
    epoch_images: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=5e-5, ge=0)
    scale_start_widths: tuple[int, ...] = (4, 2)
    alrs: AlrsMode = "mult"
    alrs_activations: AlrsMode = "off"
    alrs_scope: AlrsScope = "network"
    distill: float = Field(default=0.5, ge=0, le=1)
    start_teaches: bool = False
    temperature: float = Field(default=4.0, gt=0)
    kurtosis: float = Field(default=0.0, ge=0)
    skewness: float = Field(default=0.0, ge=0)
    dampening: float = Field(default=0.0, ge=0)
    freeze: float = Field(default=0.0, ge=0, lt=1)
    bn_momentum: float = Field(default=0.1, gt=0, le=1)
    evaluate_every: int = Field(default=1, ge=1)
    keep_every: int = Field(default=1, ge=1)
    seed: int = Field(default=1, ge=0, lt=1 << 32)  # generators are seeded by a million times as much, in 64 bits
    compile: bool = True
    threads: int | None = Field(default=None, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"

    @model_validator(mode="after")
    def _scoped(self) -> "TrainConfig":
        if self.alrs_scope != "network" and self.alrs != "mult":
            raise ValueError("alrs_scope needs alrs = 'mult', the mode whose rate depends on gradients evenly")
        return self

    @field_validator("widths", "scale_start_widths")
    @classmethod
    def _known_widths(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if not set(widths) <= set(WIDTHS):
            raise ValueError("widths are whole numbers of bits from 2 to 8")
        if not widths or len(set(widths)) != len(widths):
            raise ValueError("widths must be given once each")
        return tuple(sorted(widths, reverse=True))


class CalibrateConfig(_Frozen):
    """Images per batch and number of batches for activation scales and batch-norm statistics."""

    images: int = Field(default=512, ge=2)
    batches: int = Field(default=20, ge=1)


class HessianConfig(_Frozen):
    """Traces of the Hessian: ``images`` training images in batches of ``batch_size``, up to ``rounds`` times.

    They end, after two rounds or more, once the largest standard error of a layer, relative to its trace, or to a tenth
    of the largest trace if that is more, is at most ``tolerance``.
    """

    images: int = Field(default=1000, ge=2)
    batch_size: int = Field(default=50, ge=2)
    rounds: int = Field(default=25, ge=1)
    tolerance: float = Field(default=0.1, gt=0)


class HasbConfig(_Frozen):
    """The super-network stage after joint training: every layer's width is drawn anew in every step.

    ``sampling``: ``hasb`` gives layers of more than the mean trace the higher widths more often, ``uniform`` all layers
    all widths alike. ``switch``: the probability, at the end, that a layer leaves the width that the step is
    based on; it grows evenly over the epochs. ``batch_norm``: one for each width, re-estimated for each plan
    (``width``), or one for each pair of neighbouring widths (``pair``, the paper's "transitional"). Every
    ``uniform_every``-th batch keeps to uniform widths, as joint training does; 0: no batch does.
    """

    epochs: int = Field(default=30, ge=1)
    epoch_images: int | None = Field(default=None, ge=1)
    lr: float = Field(default=2e-4, gt=0)
    sampling: Literal["hasb", "uniform"] = "hasb"
    switch: float = Field(default=1.0, gt=0, le=1)
    batch_norm: Literal["width", "pair"] = "width"
    uniform_every: int = Field(default=2, ge=0)

    @field_validator("uniform_every")
    @classmethod
    def _not_all(cls, every: int) -> int:
        if every == 1:
            raise ValueError("every batch at uniform widths is joint training; expected 0 or at least 2")
        return every


class WithPlanConfig(_Frozen):
    """Training on with a plan of the master that a run goes on from, beside the widths: Adam, cosine to zero.

    ``epochs`` 0 finds statistics alone. ``every``: widths that take part in every so many steps only, from the first
    one on; those between two others need no more. The highest takes part in all.
    """

    plan: str
    epochs: int = Field(default=5, ge=0)
    epoch_images: int | None = Field(default=None, ge=1)
    lr: float = Field(default=3e-4, gt=0)
    every: dict[int, PositiveInt] = Field(default_factory=dict)


class TuneConfig(_Frozen):
    """Training of the batch norm and scales of plans: Adam, cosine to zero; an epoch as in ``train``."""

    epochs: int = Field(default=4, ge=1)
    epoch_images: int | None = Field(default=None, ge=1)
    lr: float = Field(default=1e-2, gt=0)


def _plan(text: str) -> str:
    try:
        Plan.parse(text)
    except BitgearError as error:
        raise ValueError(str(error)) from error
    return text


PlanWidths = Annotated[str, AfterValidator(_plan)]


class PlanConfig(_Frozen):
    """A plan that the master is to offer: widths, written ``4`` or ``w8a4``, of all ``layers`` that have their own."""

    default: PlanWidths
    layers: dict[str, PlanWidths] = Field(min_length=1)

    @property
    def plan(self) -> Plan:
        """The widths of every layer."""
        layers = ((name, Plan.parse(text).default) for name, text in self.layers.items())
        return Plan(Plan.parse(self.default).default, tuple(layers))


class RunConfig(_Frozen):
    """What runs of every task have: all but the task itself, its network and its data."""

    network: NamedConfig
    fp32: Fp32Config = Fp32Config()
    train: TrainConfig = TrainConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    hessian: HessianConfig = HessianConfig()
    hasb: HasbConfig | None = None
    with_plan: WithPlanConfig | None = None
    tune: TuneConfig = TuneConfig()
    plans: dict[str, PlanConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_stage(self) -> "RunConfig":
        if self.hasb is not None and self.with_plan is not None:
            raise ValueError("hasb and with_plan both follow joint training; give one of them")
        if self.with_plan is not None:
            rare = [bits for bits, steps in self.with_plan.every.items() if steps > 1]
            if not set(rare) < set(self.train.widths) - {max(self.train.widths)}:
                raise ValueError("with_plan.every is of trained widths below the highest, and not of all of them")
        return self


class Config(RunConfig):
    """Everything that decides a run of classification but the data folder and the weight files."""

    task: ClassifyConfig = ClassifyConfig()
    network: NetworkConfig
    data: DataConfig = DataConfig()
    start: WeightsConfig = WeightsConfig()
    teacher: TeacherConfig = TeacherConfig()


class SegmentConfig(RunConfig):
    """Everything that decides a run of segmentation but the data."""

    task: SegmentTaskConfig
    network: PyramidConfig
    data: MapsConfig = MapsConfig()


class DetectConfig(RunConfig):
    """Everything that decides a run of detection but the data."""

    task: DetectTaskConfig
    network: PyramidConfig
    data: PicturesConfig = PicturesConfig()


CONFIGS: Mapping[str, type[RunConfig]] = {"classify": Config, "segment": SegmentConfig, "detect": DetectConfig}
"""The form of a run's configuration by the kind of its task."""


def read_config(path: Path) -> RunConfig:
    """Return the configuration in a TOML file; raise :class:`ConfigError` naming the file, the key and the fault."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    task = values.get("task", {})
    kind = task.get("kind", "classify") if isinstance(task, dict) else "classify"
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise ConfigError(f"{path}: task.kind: known are {', '.join(CONFIGS)} (given {str(kind)[:60]!r})")
    try:
        return CONFIGS[kind].model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = f"there is no such entry; known are {', '.join(_known_entries(CONFIGS[kind], first['loc'][:-1]))}"
        raise ConfigError(f"{path}: {where}: {said} (given {str(first['input'])[:60]!r})") from error


def _known_entries(form: Any, place: Sequence[int | str]) -> list[str]:
    """Return the entries that a configuration of a form has at a place, the names of sections and of plans."""
    for name in place:
        field = form.model_fields.get(name)  # None: the name of a plan, which is free
        forms = () if field is None else (field.annotation, *get_args(field.annotation))
        form = next((each for each in forms if isinstance(each, type) and issubclass(each, BaseModel)), form)
    return list(form.model_fields)
