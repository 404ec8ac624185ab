from pathlib import Path

import pytest

from server.policy import admit
from server.precision import Wish
from server.profiles import ModelRule, Profile, active_profile, load_profiles
from server.settings import SettingsError
from tests.server.ladders import FAST, ladder_of


def test_the_shipped_profiles() -> None:
    profiles = load_profiles()
    assert set(profiles) == {"default", "edge-small", "edge", "cloud-cpu", "cloud-gpu"}
    assert profiles["default"] == Profile(name="default", default=None, floor=2, ceiling=8)
    small = profiles["edge-small"]
    assert (small.default, small.floor, small.ceiling, small.threads) == (4, 2, 4, 1)
    for name in ("edge-small", "edge", "cloud-cpu", "cloud-gpu"):
        assert None not in profiles[name].model_dump().values()


def test_a_folder_adds_and_replaces(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\ndefault = 3')
    (tmp_path / "edge.toml").write_text('name = "edge"\ndefault = 2')
    profiles = load_profiles(tmp_path)
    assert profiles["mine"].default == 3
    assert profiles["edge"].default == 2
    assert "cloud-cpu" in profiles


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name = 4",
        'name = "../x"',
        'name = "x"\ndefault = 9',
        'name = "x"\ndefault = "4"',
        'name = "x"\ndefault = 4.0',
        'name = "x"\nfloor = 6\nceiling = 4',
        'name = "x"\ndefault = 4\nfloor = 6',
        'name = "x"\ndefault = 8\nceiling = 6',
        'name = "x"\nflor = 6',
        'name = "x"\nthreads = 0',
        'name = "x"\nmemory_bytes = -1',
        'name = "x"\nslo_ms = 0.0',
        'name = "x"\nslo_ms = "fast"',
        'name = "x"\npolicy = "clever"',
        'name = "x"\npolicy = "fixed-9"',
        'name = "x"\nmargin = 1.5',
        "name = ",
        'name = "x"\n[models.one]\nfloor = 9',
        'name = "x"\n[models.one]\nflor = 4',
        'name = "x"\n[models.one]\nfloor = 6\nceiling = 4',
        'name = "x"\nceiling = 4\n[models.one]\nfloor = 6',
        'name = "x"\nmodels = 3',
        'name = "x"\n[models."A b"]\nfloor = 4',
    ],
)
def test_a_bad_profile_is_a_named_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"bad\.toml"):
        load_profiles(tmp_path)


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'nope' is unknown; known are cloud-cpu, cloud-gpu, default"):
        active_profile(load_profiles(), "nope")
    with pytest.raises(SettingsError, match="does not exist"):
        load_profiles(tmp_path / "none")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for file in ("a", "b"):
        (tmp_path / f"{file}.toml").write_text('name = "mine"')
    with pytest.raises(SettingsError, match=r"b\.toml: another file of the folder has a profile 'mine' too"):
        load_profiles(tmp_path)


def test_a_profile_may_say_something_else_of_one_model(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nfloor = 3\ndefault = 4\n[models.one]\nfloor = 6\n[models.two]\ndefault = 3\nceiling = 5'
    )
    mine = load_profiles(tmp_path)["mine"]
    bounds = {name: (mine.of(name).floor, mine.of(name).default, mine.of(name).ceiling) for name in ("one", "two", "x")}
    assert bounds == {"one": (6, 6, 8), "two": (3, 3, 5), "x": (3, 4, 8)}
    assert mine.of("one").margin == mine.margin
    ladder = ladder_of(FAST)
    assert admit(Wish(), ladder, Profile(name="x", models={ladder.model: ModelRule(ceiling=4)})).preferred == 4


def test_which_bound_excludes() -> None:
    profile = Profile(name="x", floor=3, ceiling=5)
    assert [profile.excludes(bits) for bits in (2, 3, 5, 6)] == ["floor", None, None, "ceiling"]
