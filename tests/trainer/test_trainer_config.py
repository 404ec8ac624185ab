"""Run configurations: what is accepted, and that a fault is named with its key."""

from pathlib import Path

import pytest

from trainer import configs
from trainer.config import Config, ConfigError, DetectConfig, RunConfig, SegmentConfig, read_config

SHIPPED = sorted(Path(configs.__file__).parent.glob("*.toml"))


def read(tmp_path: Path, text: str | bytes) -> RunConfig:
    path = tmp_path / "run.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    config = read_config(path)
    assert 8 in config.train.widths


def test_there_is_a_shipped_configuration() -> None:
    assert SHIPPED


def test_a_name_is_enough_and_the_rest_is_the_papers_recipe(tmp_path: Path) -> None:
    config = read(tmp_path, '[network]\nname = "n"')
    assert config.train.widths == (8, 6, 4, 2)
    assert (config.train.lr, config.train.weight_decay, config.train.batch_size) == (5e-4, 5e-5, 128)
    assert config.train.epochs == 200
    assert config.train.alrs == "mult"


def test_widths_come_highest_first(tmp_path: Path) -> None:
    assert read(tmp_path, '[network]\nname = "n"\n[train]\nwidths = [2, 8, 4]').train.widths == (8, 4, 2)


def test_a_configuration_is_frozen(tmp_path: Path) -> None:
    config = read(tmp_path, '[network]\nname = "n"')
    with pytest.raises(ValueError, match="frozen"):
        config.train.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "line", "key"),
    [
        ("network", 'nam = "n"', "network.nam"),
        ("network", "depth = 19", "network.depth"),
        ("network", "depth = 2", "network.depth"),
        ("network", 'per_channel = "maybe"', "network.per_channel"),
        ("data", "side_px = 4", "data.side_px"),
        ("data", "offset = 256", "data.offset"),
        ("data", "shift_px = -1", "data.shift_px"),
        ("data", "train_images = 0", "data.train_images"),
        ("start", "depth = 20", "start.depth"),
        ("start", "mean = [0.5, 0.5]", "start.mean"),
        ("fp32", "lr = 0.0", "fp32.lr"),
        ("fp32", "momentum = 1.0", "fp32.momentum"),
        ("train", "widths = [8, 9]", "train.widths"),
        ("train", "widths = [8, 1]", "train.widths"),
        ("train", "widths = [8, 8]", "train.widths"),
        ("train", "widths = []", "train.widths"),
        ("train", 'widths = "8"', "train.widths"),
        ("train", "scale_start_widths = [0]", "train.scale_start_widths"),
        ("train", "scale_start_widths = []", "train.scale_start_widths"),
        ("train", "epochs = -1", "train.epochs"),
        ("train", "seed = 35184372088832", "train.seed"),
        ("teacher", "depth = 21", "teacher.depth"),
        ("hasb", "switch = 0.0", "hasb.switch"),
        ("hasb", 'sampling = "random"', "hasb.sampling"),
        ("hasb", "uniform_every = 1", "hasb.uniform_every"),
        ("hessian", "rounds = 0", "hessian.rounds"),
        ("plans.p", 'default = "9"', "plans.p.default"),
        ("plans.p", 'default = "4"\nlayers = { a = "w4" }', "plans.p.layers.a"),
        ("plans.p", 'default = "4"\nlayers = {}', "plans.p.layers"),
        ("train", "epoch_images = 0", "train.epoch_images"),
        ("train", "batch_size = 1", "train.batch_size"),
        ("train", "lr = -1.0", "train.lr"),
        ("train", 'alrs = "on"', "train.alrs"),
        ("train", 'device = "tpu"', "train.device"),
        ("train", "distill = 1.5", "train.distill"),
        ("train", "seed = -1", "train.seed"),
        ("train", "epoch = 3", "train.epoch"),
        ("calibrate", "images = 1", "calibrate.images"),
        ("deploy", "x = 1", "deploy"),
    ],
)
def test_faults_are_named_with_file_and_key(tmp_path: Path, section: str, line: str, key: str) -> None:
    text = f'[network]\nname = "n"\n{line}' if section == "network" else f'[network]\nname = "n"\n[{section}]\n{line}'
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'run.toml'}: {key}")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("[train]\nepoch = 3", "widths, epochs, epoch_images"),
        ("[hasb]\nepoch = 3", "epochs, epoch_images, lr, sampling"),
        ("[plans.p]\ndefault = '4'\nlayers = { a = '2' }\nlayer = 3", "default, layers"),
        ("[trian]\nepochs = 3", "network, fp32, train"),
    ],
)
def test_an_entry_that_is_none_is_refused_with_those_that_are(tmp_path: Path, text: str, known: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no such entry; known are {known}"):
        read(tmp_path, f'[network]\nname = "n"\n{text}')


@pytest.mark.parametrize("name", ["", "A", "a/b", "a..b", "-a", "a" * 65])
def test_a_name_that_no_master_could_have_is_refused_before_training(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"network\.name"):
        read(tmp_path, f'[network]\nname = "{name}"')


def test_a_missing_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="network"):
        read(tmp_path, "")


@pytest.mark.parametrize("text", [b"[network", b"= 3", b"\xff\xfe", b"name = \x00"])
def test_what_is_not_toml_is_named(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"run\.toml is not TOML"):
        read(tmp_path, text)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / name)


SEGMENT = '[task]\nkind = "segment"\n[network]\nname = "n"\n'
DETECT = '[task]\nkind = "detect"\n[network]\nname = "n"\n'


def test_the_kind_of_task_decides_the_form(tmp_path: Path) -> None:
    segment, detect = read(tmp_path, SEGMENT), read(tmp_path, DETECT)
    assert isinstance(segment, SegmentConfig)
    assert isinstance(detect, DetectConfig)
    assert segment.network.eight_bits == {"stem", "shortcut", "lateral", "predict"}
    assert isinstance(read(tmp_path, '[network]\nname = "n"'), Config)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[task]\nkind = "dream"\n[network]\nname = "n"', "task.kind"),
        ('task = "detect"\n[network]\nname = "n"', "task"),
        (SEGMENT + "depth = 20", "network.depth"),
        (SEGMENT + "blocks = [2, 2]", "network"),
        (SEGMENT + "stride = 6", "network"),
        (SEGMENT + 'eight_bits = ["tail"]', "network.eight_bits"),
        (SEGMENT + "[data]\nside_px = 32", "data.side_px"),
        (SEGMENT + "[data]\ncrop_width_px = 8", "data.crop_width_px"),
        (SEGMENT + "[data.views]\nscale = [2.0, 0.5]", "data.views.scale"),
        (SEGMENT + "[data.views]\nbrightness = 1.0", "data.views.brightness"),
        (SEGMENT + "[fp32]\noptimizer = 'lamb'", "fp32.optimizer"),
        (SEGMENT + "[train]\nevaluate_every = 0", "train.evaluate_every"),
        (DETECT + "[data]\ncrop_width_px = 64", "data.crop_width_px"),
        ('[task]\nkind = "detect"\ncells = 0\n[network]\nname = "n"', "task.cells"),
        ('[task]\nkind = "segment"\nclass_balance = 1.5\n[network]\nname = "n"', "task.class_balance"),
        (DETECT + "[teacher]\ndepth = 56", "teacher"),
    ],
)
def test_faults_of_other_tasks_are_named_with_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'run.toml'}: {key}")
