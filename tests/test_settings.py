"""Settings: flags over environment over file over defaults, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stat7store.errors import Malformed
from stat7store.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in (*Settings.model_fields, "config"):
        monkeypatch.delenv(f"STAT7_{name.upper()}", raising=False)
    return tmp_path


def test_defaults_serve_loopback() -> None:
    """Without any setting the server keeps to this machine, and to images and movies."""
    settings = load_settings()
    assert (settings.host, settings.port, settings.open) == ("127.0.0.1", 7377, False)
    assert settings.accept == ["image/*", "video/*"]
    assert settings.data == Path("stat7-data")


def test_flags_go_over_environment_over_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source gives way to the one before it, setting by setting."""
    (nowhere / "stat7.toml").write_text('port = 1\nworkers = 1\nhost = "::1"\naccept = ["image/png"]\n')
    monkeypatch.setenv("STAT7_PORT", "2")
    monkeypatch.setenv("STAT7_WORKERS", "2")
    settings = load_settings(port=3, workers=None)
    assert (settings.port, settings.workers, settings.host, settings.accept) == (3, 2, "::1", ["image/png"])


def test_a_file_can_be_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, or STAT7_CONFIG, names another file; one that is not there is refused."""
    (nowhere / "other.toml").write_text("port = 8\n")
    assert load_settings(nowhere / "other.toml").port == 8
    monkeypatch.setenv("STAT7_CONFIG", str(nowhere / "other.toml"))
    assert load_settings().port == 8
    with pytest.raises(Malformed, match="no settings file"):
        load_settings(nowhere / "missing.toml")


def test_lists_and_sizes_have_written_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are separated by commas, sizes take units."""
    monkeypatch.setenv("STAT7_ACCEPT", "image/*, Audio/MPEG")
    settings = load_settings(max_upload_size="3 GiB", allowed_hosts="nas,store.example")
    assert settings.accept == ["image/*", "audio/mpeg"]
    assert settings.max_upload_size == 3 * 1024**3
    assert settings.allowed_hosts == ["nas", "store.example"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"port": 70000}, "--port"),
        ({"accept": "png"}, "--accept: 'png' is no media type"),
        ({"accept": "*/*"}, "--accept"),
        ({"max_upload_size": "many"}, "--max-upload-size"),
        ({"workers": -1}, "--workers"),
        ({"log_level": "loud"}, "--log-level"),
        ({"scrub_every": "xd"}, "--scrub-every: 'xd' is no duration"),
        ({"scrub_every": "often"}, "--scrub-every"),
    ],
)
def test_a_bad_flag_is_named(flags: dict[str, Any], says: str) -> None:
    """A refusal names the flag, and what is accepted."""
    with pytest.raises(Malformed, match=says):
        load_settings(**flags)


def test_a_bad_file_or_variable_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So do those of the file and the environment; a setting that does not exist is not passed over."""
    monkeypatch.setenv("STAT7_DRAIN_TIMEOUT", "soon")
    with pytest.raises(Malformed, match="STAT7_DRAIN_TIMEOUT"):
        load_settings()
    monkeypatch.delenv("STAT7_DRAIN_TIMEOUT")
    (nowhere / "stat7.toml").write_text("prot = 1\n")
    with pytest.raises(Malformed, match="prot in the settings file: there is no such setting"):
        load_settings()
    (nowhere / "stat7.toml").write_text("port = \n")
    with pytest.raises(Malformed, match="bad settings file"):
        load_settings()


@pytest.mark.parametrize(("given", "seconds"), [("30", 30.0), ("1.5h", 5400.0), ("2d", 172_800.0)])
def test_a_duration_may_have_a_unit(given: str, seconds: float) -> None:
    """Seconds, or a number and its unit."""
    assert load_settings(scrub_every=given).scrub_every == seconds
