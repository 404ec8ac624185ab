from pathlib import Path

import pytest
from pydantic import ValidationError

from bitgear.errors import ModelNotFound
from bitgear.models import SHIPPED
from server.settings import Settings, SettingsError, load_settings, unknown_variables


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", *(field.upper() for field in Settings.model_fields)):
        monkeypatch.delenv(f"BITGEAR_{name}", raising=False)


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.engine, settings.models) == ("127.0.0.1", 8000, "auto", ())
    assert (settings.max_body_bytes, settings.max_pixels, settings.cache_bytes) == (10485760, 50_000_000, None)


def test_argument_before_environment_before_file_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bitgear.toml"
    file.write_text("port = 1\nthreads = 1\nworkers = 1\n")
    monkeypatch.setenv("BITGEAR_PORT", "2")
    monkeypatch.setenv("BITGEAR_THREADS", "2")
    settings = load_settings(file, port=3, host=None)
    assert (settings.port, settings.threads, settings.workers, settings.host) == (3, 2, 1, "127.0.0.1")


def test_the_file_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, given = tmp_path / "named.toml", tmp_path / "given.toml"
    named.write_text("port = 1")
    given.write_text("port = 2")
    monkeypatch.setenv("BITGEAR_CONFIG", str(named))
    assert load_settings().port == 1
    assert load_settings(given).port == 2


@pytest.fixture
def masters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders in the working directory that may be masters: nobody opens them here."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a.safetensors", "b", "b.safetensors"):
        Path(name).touch()
    for name in ("c", "folder"):
        Path(name).mkdir()


@pytest.mark.usefixtures("masters")
def test_several_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITGEAR_MODELS", "a.safetensors:folder")
    assert load_settings().models == (Path("a.safetensors"), Path("folder"))
    file = tmp_path / "bitgear.toml"
    file.write_text('models = ["b.safetensors"]')
    assert load_settings(file, models=[Path("c")]).models == (Path("c"),)
    monkeypatch.delenv("BITGEAR_MODELS")
    assert load_settings(file).models == (Path("b.safetensors"),)


@pytest.mark.parametrize(
    ("text", "models"), [("", ()), (":", ()), ("a:", (Path("a"),)), ("a::b", (Path("a"), Path("b")))]
)
@pytest.mark.usefixtures("masters")
def test_an_empty_path_is_no_model(monkeypatch: pytest.MonkeyPatch, text: str, models: tuple[Path, ...]) -> None:
    monkeypatch.setenv("BITGEAR_MODELS", text)
    assert load_settings().models == models


def told_models(source: str, models: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    """Return the models of settings that are told of them in one of the three ways."""
    if source == "argument":
        return load_settings(models=models).models
    if source == "environment":
        monkeypatch.setenv("BITGEAR_MODELS", ":".join(models))
        return load_settings().models
    file = folder / "bitgear.toml"
    file.write_text(f"models = {models}")
    return load_settings(file).models


SOURCES = pytest.mark.parametrize("source", ["argument", "environment", "file"])


@SOURCES
@pytest.mark.usefixtures("masters")
def test_a_model_is_a_shipped_name_a_path_or_a_folder(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = told_models(source, ["bccd-resnet", "a.safetensors", "folder"], tmp_path, monkeypatch)
    assert told == (SHIPPED / "bccd-resnet.safetensors", Path("a.safetensors"), Path("folder"))


@SOURCES
@pytest.mark.parametrize("name", ["nothing", "nowhere/nothing.safetensors"])
def test_a_model_that_is_not_there_is_a_named_error(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotFound, match=f"^'{name}' is neither a file nor a shipped master; shipped are bccd-"):
        told_models(source, [name], tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 8000", "'prot' is unknown"),
        ("port = 'x'", "'port' is 'x'"),
        ("port = 65536", "'port' is 65536"),
        ("threads = 0", "'threads' is 0"),
        ("log_level = 'loud'", "'log_level' is 'loud'"),
        ("body_timeout_s = nan", "'body_timeout_s' is nan"),
        ("port = ", "is not TOML"),
        ("[server]\nport = 1", "'server' is unknown"),
    ],
)
def test_a_bad_file_is_a_named_error(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "bitgear.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    assert named in str(caught.value)
    assert caught.value.code == "settings-invalid"


def test_a_missing_file_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "none.toml")


def test_a_bad_variable_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITGEAR_PORT", "eight")
    with pytest.raises(SettingsError, match="'port' is 'eight'"):
        load_settings()


@pytest.mark.parametrize("name", ["lookahead", "fixed-9", "fixed-", ""])
def test_an_unknown_policy_is_a_named_error(name: str) -> None:
    with pytest.raises(
        SettingsError, match=f"setting 'policy' is '{name}': known are look-ahead, slackfit, fixed, and"
    ):
        load_settings(policy=name)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADMIN_KEY", "KEYS", "LADDERS", "PROFILES"):
        monkeypatch.setenv(f"BITGEAR_{name}", "")
    settings = load_settings()
    assert (settings.admin_key, settings.keys, settings.ladders, settings.profiles) == (None, None, None, None)


def test_a_short_admin_key_is_refused_and_not_told() -> None:
    with pytest.raises(SettingsError, match=r"'admin_key': expected 8 to 256 characters, not 6$"):
        load_settings(admin_key="short!")
    with pytest.raises(SettingsError, match=r"'admin_key': expected 8 to 256 characters, not 257$"):
        load_settings(admin_key=257 * "k")
    assert all(load_settings(admin_key=count * "k").admin_key for count in (8, 256))


@pytest.mark.parametrize("key", ["schlüssel-lang", " secret-key", "secret-key ", "secret-key\n", "secret\tkey"])
def test_an_admin_key_that_cannot_be_sent_is_refused_and_not_told(key: str) -> None:
    with pytest.raises(SettingsError, match="'admin_key': a key can only be printable ASCII") as caught:
        load_settings(admin_key=key)
    assert key.strip() not in str(caught.value)


def test_a_service_of_the_same_name_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {  # what Kubernetes sets for a service named bitgear
        "BITGEAR_SERVICE_HOST": "10.0.0.1",
        "BITGEAR_SERVICE_PORT": "80",
        "BITGEAR_SERVICE_PORT_HTTP": "80",
        "BITGEAR_PORT": "tcp://10.0.0.1:80",
        "BITGEAR_PORT_80_TCP": "tcp://10.0.0.1:80",
        "BITGEAR_PORT_80_TCP_PROTO": "tcp",
        "BITGEAR_PORT_80_TCP_PORT": "80",
        "BITGEAR_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    for name, value in links.items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == 8000
    assert not unknown_variables(links)


def test_variables_that_nothing_reads_are_found() -> None:
    known = {f"BITGEAR_{name.upper()}": "1" for name in Settings.model_fields}
    assert not unknown_variables({**known, "BITGEAR_KERNEL": "avx2", "BITGEAR_CONFIG": "x", "BITGEARS": "x"})
    unknown = unknown_variables({**known, "BITGEAR_PROFLIE": "edge", "BITGEAR_MAXREQUESTS": "1", "BITGEAR_Q": "1"})
    assert unknown == {
        "BITGEAR_MAXREQUESTS": "BITGEAR_MAX_REQUESTS",
        "BITGEAR_PROFLIE": "BITGEAR_PROFILE",
        "BITGEAR_Q": None,
    }


def test_an_unknown_argument_is_a_named_error() -> None:
    with pytest.raises(SettingsError, match="'ports' is unknown"):
        load_settings(ports=1)


def test_settings_do_not_change() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]
