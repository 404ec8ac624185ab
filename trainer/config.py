"""The configuration of a training run: a TOML file, frozen once read, saved beside the results."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from bitgear.bits import MASTER_BITS, WIDTHS
from bitgear.checkpoint import is_model_name
from bitgear.errors import BitgearError
from trainer.alrs import AlrsMode


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


class NetworkConfig(_Frozen):
    """``depth`` of the CIFAR ResNet; whether each output channel of a weight has a scale of its own."""

    name: str
    depth: Depth = 20
    per_channel: bool = True

    @field_validator("name")
    @classmethod
    def _model_name(cls, name: str) -> str:
        if not is_model_name(name):
            raise ValueError("a model name is 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit")
        return name


class DataConfig(_Frozen):
    """Input side in pixels, pixel value of code 0, and augmentation."""

    side_px: int = Field(default=32, ge=8, le=1024)
    offset: int = Field(default=128, ge=0, le=255)
    shift_px: int = Field(default=4, ge=0)
    mirror: bool = True
    train_images: int | None = Field(default=None, ge=1)
    test_images: int | None = Field(default=None, ge=1)


class WeightsConfig(_Frozen):
    """Imported FP32 weights and the normalisation they were trained with: ``(x / 255 - mean) / std``."""

    depth: Depth = 20
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Fp32Config(_Frozen):
    """Own FP32 training (SGD with Nesterov momentum, cosine); zero epochs where weights are imported."""

    epochs: int = Field(default=0, ge=0)
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)


class TrainConfig(_Frozen):
    """Joint training over ``widths``: Adam, cosine to zero, one step per width and batch."""

    widths: tuple[int, ...] = (8, 6, 4, 2)
    epochs: int = Field(default=200, ge=1)
    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=5e-5, ge=0)
    scale_start_widths: tuple[int, ...] = (4, 2)
    alrs: AlrsMode = "mult"
    alrs_activations: AlrsMode = "off"
    distill: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    kurtosis: float = Field(default=0.0, ge=0)
    skewness: float = Field(default=0.0, ge=0)
    bn_momentum: float = Field(default=0.1, gt=0, le=1)
    seed: int = Field(default=1, ge=0)
    compile: bool = True
    threads: int | None = Field(default=None, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"

    @field_validator("widths", "scale_start_widths")
    @classmethod
    def _known_widths(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if not set(widths) <= set(WIDTHS):
            raise ValueError("widths are whole numbers of bits from 2 to 8")
        if not widths or len(set(widths)) != len(widths):
            raise ValueError("widths must be given once each")
        return tuple(sorted(widths, reverse=True))

    @field_validator("widths")
    @classmethod
    def _master_width(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if MASTER_BITS not in widths:
            raise ValueError("the master's own width, 8, must be among the widths")
        return widths


class CalibrateConfig(_Frozen):
    """Images per batch and number of batches for activation scales and batch-norm statistics."""

    images: int = Field(default=512, ge=2)
    batches: int = Field(default=20, ge=1)


class Config(_Frozen):
    """Everything that decides a run but the data folder and the weight files."""

    network: NetworkConfig
    data: DataConfig = DataConfig()
    start: WeightsConfig = WeightsConfig()
    teacher: WeightsConfig = WeightsConfig(depth=56)
    fp32: Fp32Config = Fp32Config()
    train: TrainConfig = TrainConfig()
    calibrate: CalibrateConfig = CalibrateConfig()


def read_config(path: Path) -> Config:
    """Return the configuration in a TOML file; raise :class:`ConfigError` naming the file, the key and the fault."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {where}: {first['msg']} (given {str(first['input'])[:60]!r})") from error
