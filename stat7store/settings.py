"""Settings of the server: flags over environment (``STAT7_*``) over a TOML file over defaults."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from stat7store.errors import Malformed
from storage.s3_options import S3Options

MOST_WORKERS = 256
DEFAULT_PORT = 7377
DEFAULT_CONFIG = Path("stat7.toml")
_MIB = 1024**2
_GIB = 1024**3
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _media_range(value: str) -> str:
    family, slash, kind = value.partition("/")
    if not (family and slash and kind) or "*" in family or ("*" in kind and kind != "*"):
        raise ValueError(
            f"{value!r} is no media type; accepted are types such as image/png and families such as image/*"
        )
    return value.lower()


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _backend(value: str) -> str:
    if value not in ("", "filesystem"):
        S3Options.parse(value)
    return value.rstrip("/")


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if value and not (parts.scheme in ("http", "https") and parts.hostname and not parts.query):
        raise ValueError(f"{value!r} is no URL of a server; accepted are such as https://s3.example:9000")
    if parts.username or parts.password:
        raise ValueError("an endpoint holds no credentials; boto3 finds them in the environment or in ~/.aws")
    return value.rstrip("/")


def _seconds(value: object) -> object:
    """Read a duration such as ``30d`` or ``12h``; a bare number is in seconds."""
    if isinstance(value, str) and value[-1:] in _UNITS_S:
        try:
            return float(value[:-1]) * _UNITS_S[value[-1]]
        except ValueError:
            raise ValueError(f"{value!r} is no duration; accepted are such as 45s, 90m, 12h and 30d") from None
    return value


MediaRange = Annotated[str, AfterValidator(_media_range)]
# NoDecode: an environment variable holds a,b,c rather than JSON
MediaRanges = Annotated[list[MediaRange], NoDecode, BeforeValidator(_split)]
Duration = Annotated[float, BeforeValidator(_seconds)]
HostNames = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Backend = Annotated[str, AfterValidator(_backend)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]


class Settings(BaseSettings):
    """Everything an operator may set. The description of each field is its documentation."""

    model_config = SettingsConfigDict(env_prefix="STAT7_", extra="forbid", frozen=True, defer_build=True)

    data: Path = Field(Path("stat7-data"), description="Folder that holds the catalog and the blobs.")
    network_filesystem: bool = Field(
        False, description="Use a folder on a network filesystem all the same; no other machine may ever use it."
    )
    host: str = Field("127.0.0.1", description="Interface to listen on; other than loopback only with --open.")
    port: int = Field(DEFAULT_PORT, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(0, ge=0, le=MOST_WORKERS, description="Worker processes; 0 means one for each core.")
    open: bool = Field(False, description="Serve everyone who can connect: there is no access control yet.")
    allowed_hosts: HostNames = Field(
        [], description="Host names to answer to beside loopback's (behind a proxy, say), separated by commas."
    )
    accept: MediaRanges = Field(
        ["image/*", "video/*"], description="Media types that may be stored, separated by commas."
    )
    max_upload_size: ByteSize = Field(ByteSize(64 * _GIB), gt=0, description="Largest request body taken.")
    min_free: ByteSize | None = Field(
        None, description="Room to keep free on disk, or no upload is taken; if not given 1 % of it, at most 1 GiB."
    )
    max_store_bytes: ByteSize | None = Field(
        None, gt=0, description="Most bytes of all files together; no limit if not given."
    )
    max_parts: int = Field(256, ge=1, le=10_000, description="Most parts in one multipart upload.")
    body_timeout: float = Field(60.0, gt=0, description="Seconds a client may send nothing of a body it announced.")
    max_connections: int = Field(
        4096, ge=1, le=1_000_000, description="Most connections at once, shared out among the workers."
    )
    idle_timeout: Duration = Field(
        120.0, gt=0, description="Seconds a connection may be open without a request, or with an unfinished one's head."
    )
    drain_timeout: float = Field(
        30.0, ge=0, description="Seconds that requests in flight have to finish when the server stops."
    )
    map_size: ByteSize = Field(
        ByteSize(_GIB), ge=_MIB, description="First size of the catalog's memory map; it grows by itself."
    )
    sweep_every: float = Field(3600.0, gt=0, description="Seconds between sweeps for orphaned blobs.")
    intent_timeout: float = Field(
        21600.0, gt=0, description="Seconds after which an upload to S3 that was begun and not finished is swept."
    )
    writer_timeout: Duration = Field(
        30.0, ge=0, description="Seconds after which a process that blocks the catalog is killed; 0: never."
    )
    blobs: Backend = Field(
        "", description="Where new files go: filesystem or s3://bucket/prefix; if not given, where they went last."
    )
    s3_endpoint: Endpoint = Field("", description="URL of the S3 server; AWS if not given.")
    s3_region: str = Field("", description="Region of the bucket; the one that boto3 finds if not given.")
    s3_path_style: bool = Field(
        False, description="Name the bucket in the path of the URL: most servers other than AWS want it."
    )
    s3_storage_class: str = Field("", description="Storage class of new objects; the bucket's own if not given.")
    s3_sse: Literal["none", "AES256", "aws:kms"] = Field(
        "none", description="How S3 is to encrypt new objects; none leaves it to the bucket."
    )
    s3_kms_key: str = Field("", description="Key for aws:kms; the account's own if not given.")
    s3_conditional: bool = Field(
        True, description="Have S3 refuse to overwrite (If-None-Match), which some servers do not know."
    )
    s3_max_connections: int = Field(64, ge=1, le=1024, description="Most requests to S3 at once, for each worker.")
    s3_connect_timeout: float = Field(5.0, gt=0, description="Seconds to wait for a connection to S3.")
    s3_read_timeout: float = Field(15.0, gt=0, description="Longest silence of S3 within a request, in seconds.")
    s3_attempts: int = Field(4, ge=1, le=20, description="Tries of one request to S3, the first included.")
    s3_adaptive: bool = Field(
        False, description="Send fewer requests to S3 while it throttles (boto3's adaptive mode)."
    )
    s3_deadline: float = Field(60.0, gt=0, description="Seconds for one request to S3 with all its tries.")
    cache_dir: Path | None = Field(None, description="Folder of a cache in front of S3; there is none if not given.")
    cache_size: ByteSize = Field(ByteSize(10 * _GIB), gt=0, description="Most bytes in the cache of one bucket.")
    cache_writes: bool = Field(False, description="Put new files into the cache as well.")
    redirect: bool = Field(
        False, description="Answer GET with a redirect to S3, where it holds the file; HEAD is answered as ever."
    )
    scrub_every: Duration = Field(
        0.0, ge=0, description="Time between scrubs, which read all files again, such as 30d; 0: none."
    )
    scrub_rate: ByteSize = Field(ByteSize(20 * _MIB), gt=0, description="Bytes a second that a scrub reads at most.")
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
