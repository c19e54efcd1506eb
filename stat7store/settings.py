"""Settings of the server: flags over environment (``STAT7_*``) over a TOML file over defaults."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from stat7store.errors import Malformed

DEFAULT_PORT = 7377
DEFAULT_CONFIG = Path("stat7.toml")
_MIB = 1024**2
_GIB = 1024**3


def _media_range(value: str) -> str:
    family, slash, kind = value.partition("/")
    if not (family and slash and kind) or "*" in family or ("*" in kind and kind != "*"):
        raise ValueError(
            f"{value!r} is no media type; accepted are types such as image/png and families such as image/*"
        )
    return value.lower()


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


MediaRange = Annotated[str, AfterValidator(_media_range)]
# NoDecode: an environment variable holds a,b,c rather than JSON
MediaRanges = Annotated[list[MediaRange], NoDecode, BeforeValidator(_split)]
HostNames = Annotated[list[str], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Everything an operator may set. The description of each field is its documentation."""

    model_config = SettingsConfigDict(env_prefix="STAT7_", extra="forbid", frozen=True)

    data: Path = Field(Path("stat7-data"), description="Folder that holds the catalog and the blobs.")
    host: str = Field("127.0.0.1", description="Interface to listen on; other than loopback only with --open.")
    port: int = Field(DEFAULT_PORT, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(0, ge=0, le=256, description="Worker processes; 0 means one for each core.")
    open: bool = Field(False, description="Serve everyone who can connect: there is no access control yet.")
    allowed_hosts: HostNames = Field(
        [], description="Host names to answer to beside loopback's (behind a proxy, say), separated by commas."
    )
    accept: MediaRanges = Field(
        ["image/*", "video/*"], description="Media types that may be stored, separated by commas."
    )
    max_upload_size: ByteSize = Field(ByteSize(64 * _GIB), gt=0, description="Largest request body taken.")
    max_parts: int = Field(256, ge=1, le=10_000, description="Most parts in one multipart upload.")
    body_timeout: float = Field(60.0, gt=0, description="Seconds a client may send nothing of a body it announced.")
    drain_timeout: float = Field(
        30.0, ge=0, description="Seconds that requests in flight have to finish when the server stops."
    )
    map_size: ByteSize = Field(
        ByteSize(_GIB), ge=_MIB, description="First size of the catalog's memory map; it grows by itself."
    )
    sweep_every: float = Field(3600.0, gt=0, description="Seconds between sweeps for orphaned blobs.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="Form of the log lines on standard error; auto is console on a terminal and json elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe lines logged.")
    access_log: bool = Field(True, description="Log a line for each request.")
    fast_path: bool = Field(True, description="Answer the commonest requests for files ahead of the framework.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Put the settings together; ``flags`` that are None were not given.

    ``config`` names the TOML file; without it ``STAT7_CONFIG`` does, or ``stat7.toml`` in the
    current folder if there is one. Raises ``Malformed`` naming the setting, where it came from and
    what is accepted.
    """
    named = config or (Path(os.environ["STAT7_CONFIG"]) if os.environ.get("STAT7_CONFIG") else None)
    if named is not None and not named.is_file():
        raise Malformed(f"there is no settings file {named}")

    class Configured(Settings):
        model_config = SettingsConfigDict(toml_file=named or DEFAULT_CONFIG)

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Configured(**given)
    except ValidationError as error:
        problems = "; ".join(_explain(details, given) for details in error.errors())
        raise Malformed(f"bad settings: {problems}") from error
    except ValueError as error:  # not TOML at all
        raise Malformed(f"bad settings file {named or DEFAULT_CONFIG}: {error}") from error


def _explain(details: Any, flags: dict[str, Any]) -> str:
    name = str(details["loc"][0]) if details["loc"] else "settings"
    if name in flags:
        origin = f"--{name.replace('_', '-')}"
    elif f"STAT7_{name.upper()}" in os.environ:
        origin = f"STAT7_{name.upper()}"
    else:
        origin = f"{name} in the settings file"
    if details["type"] == "extra_forbidden":
        return f"{origin}: there is no such setting"
    return f"{origin}: {details['msg'].removeprefix('Value error, ')}"
