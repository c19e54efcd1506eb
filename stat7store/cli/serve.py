"""``stat7store serve``: run the server. Its flags are the settings, one each."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from stat7store.cli.options import examples

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

EXAMPLES = {
    "stat7store serve": "the folder ./stat7-data",
    "stat7store serve --data /srv/media --workers 4": "another folder, four workers",
    "stat7store serve --config stat7.toml --port 8000": "flags go over the file",
    "STAT7_PORT=8000 stat7store serve": "the environment too",
}
FROM_ELSEWHERE = (
    "Each flag can also be set in the environment (--max-parts as STAT7_MAX_PARTS) or in a TOML file (max_parts = 256)."
)


def add_to(app: typer.Typer) -> None:
    """Add the verb, without its flags: they are made of the settings, which take long to import."""
    app.command("serve", epilog=_epilog())(serve)


def add_with_flags(app: typer.Typer) -> None:
    """Add the verb, with its flags."""
    app.command("serve", epilog=_epilog())(_with_flags())


def serve(config: Path | None = None, **flags: Any) -> None:
    """Serve a folder of files until Ctrl-C, which lets requests in flight finish."""
    # both take long to import, and only this verb needs them
    from stat7store.server import supervisor  # noqa: PLC0415
    from stat7store.settings import load_settings  # noqa: PLC0415

    raise typer.Exit(supervisor.serve(load_settings(config, **flags)))


def _epilog() -> str:
    return f"{FROM_ELSEWHERE}\n\n{examples(EXAMPLES)}"


def _with_flags() -> Any:
    """Return ``serve`` with the signature that the settings give it."""
    from stat7store.settings import Settings  # noqa: PLC0415

    fields = Settings.model_fields
    option = typer.Option(
        "--config", metavar="FILE", help="TOML file of settings. [dim]\\[stat7.toml][/dim]", show_default=False
    )
    annotations: dict[str, Any] = {"config": Annotated[Path | None, option]}
    annotations |= {name: _annotation(name, field) for name, field in fields.items()}

    def command(config: Path | None, **given: Any) -> None:
        switched_off = {name: False for name, field in fields.items() if field.default is True and given[name]}
        serve(config, **{**given, **switched_off})

    command.__doc__ = serve.__doc__
    command.__annotations__ = annotations
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # functions may have one (PEP 362)
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in annotations.items()
        ]
    )
    return command


def _annotation(name: str, field: FieldInfo) -> Any:
    """Return how a setting is given as a flag; its value is checked by the settings themselves."""
    flag, kind = name.replace("_", "-"), field.annotation
    says, default = field.description or "", _default(field)
    if kind is bool:  # one that is on by default is named by what turns it off
        spelled, says = (
            (f"--no-{flag}", f"Do not {says[:1].lower()}{says[1:]}") if field.default else (f"--{flag}", says)
        )
        return Annotated[bool | None, typer.Option(spelled, help=says, metavar="", show_default=False)]
    if get_origin(kind) is Literal:
        says = f"{says} One of {', '.join(get_args(kind))}."
    default = f" [dim]\\[{default}][/dim]" if default else ""
    return Annotated[
        str | None, typer.Option(f"--{flag}", metavar=_metavar(name, field), help=says + default, show_default=False)
    ]


def _metavar(name: str, field: FieldInfo) -> str:
    if isinstance(field.default, list):
        return "A,B,…"
    kinds: dict[object, str] = {Path: "FOLDER", Path | None: "FOLDER", int: "NUMBER", float: "SECONDS"}
    return kinds.get(field.annotation) or name.rpartition("_")[2].upper()


def _default(field: FieldInfo) -> str:
    from pydantic import ByteSize  # noqa: PLC0415

    default = field.default
    if default is None:
        return ""
    if isinstance(default, ByteSize):
        return default.human_readable().replace(".0", "")
    if isinstance(default, list):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)
