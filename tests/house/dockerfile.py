"""As much of the Dockerfile language as this project's Dockerfile uses."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """What stands from one FROM to the next."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        """The arguments of every such instruction."""
        return [arguments for found, arguments in self.instructions if found == keyword]

    def one(self, keyword: str) -> str:
        """The arguments of the one such instruction."""
        (arguments,) = self.all(keyword)
        return arguments

    def copies(self) -> list[tuple[list[str], str]]:
        """Sources and target of every COPY from the build context."""
        words = [shlex.split(arguments) for arguments in self.all("COPY") if not arguments.startswith("--from=")]
        return [(sources, target) for *sources, target in words]

    def environment(self) -> dict[str, str]:
        """The variables that ENV sets."""
        pairs = [pair.partition("=") for arguments in self.all("ENV") for pair in shlex.split(arguments)]
        return {name: value for name, _, value in pairs}

    def health_command(self) -> list[str]:
        """The command of HEALTHCHECK, in its exec form."""
        command: list[str] = json.loads(self.one("HEALTHCHECK").partition(" CMD ")[2])
        return command


def parse(text: str) -> list[Stage]:
    """The stages of a Dockerfile, its build arguments filled in with their defaults."""
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", lines)
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, lines.splitlines())):
        keyword, _, rest = line.partition(" ")
        if not stages and keyword == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif keyword == "FROM":
            base, _, name = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], rest).partition(" AS ")
            stages.append(Stage(base, name))
        else:
            stages[-1].instructions.append((keyword, rest.strip()))
    return stages


def is_sent(path: str, ignored: str) -> bool:
    """Whether a file is in the build context, by the text of a .dockerignore: the last pattern that fits decides."""
    sent = True
    for line in ignored.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#") and _fits(path, pattern.removeprefix("!")):
            sent = pattern.startswith("!")
    return sent


def _fits(path: str, pattern: str) -> bool:
    parts = re.split(r"(\*\*/|\*)", pattern)
    expression = "".join({"**/": "(.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(f"{expression}(/.*)?", path) is not None
