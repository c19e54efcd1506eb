"""README.md as the tests read it: its code, the names in it, and the blocks that are run.

A block of ``sh`` directly after the comment ``<!-- run -->`` is run by the tests. All such blocks of
the file are one script, in order, so that a later one may use what an earlier one stored. It runs
under ``bash -euo pipefail`` in a folder of its own that has ``.venv``, ``.cache`` and ``scripts`` as
a checkout has, ``.venv/bin`` first on the path, and a server running; the port 7377 in the text is
replaced by that server's. An HTTP error makes curl fail, so an example that is to show one says
``|| true``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLOCK = re.compile(r"(?P<run><!-- run -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_TARGET = re.compile(r"(?<![\w/-])make ((?:[a-z]+ ?)+)")
_VERB = re.compile(r"(?<![\w./-])(?:\.venv/bin/)?stat7store ([a-z]+)")
_PATH = re.compile(r"(?<![\w./-])(?:docker|docs|requirements|scripts|stat7store|storage|tests|\.ci)/[\w./-]*[\w/]")


@dataclass(frozen=True)
class Readme:
    """The text of the file, and what can be found in it."""

    text: str

    @property
    def code(self) -> list[str]:
        """Every code block and every code span."""
        blocks = [found["code"] for found in _BLOCK.finditer(self.text)]
        return blocks + _SPAN.findall(_BLOCK.sub("", self.text))

    @property
    def script(self) -> str:
        """The blocks marked to be run, as one script. Raises ``ValueError`` for a mark without such a block."""
        marked = [found for found in _BLOCK.finditer(self.text) if found["run"]]
        wrong = [found["language"] for found in marked if found["language"] != "sh"]
        if wrong or len(marked) != self.text.count("<!-- run -->"):
            raise ValueError("<!-- run --> stands directly before a block of sh")
        return "\n".join(found["code"] for found in marked)

    @property
    def targets(self) -> set[str]:
        """The targets of make that the code names."""
        return {word for code in self.code for found in _TARGET.findall(code) for word in found.split()}

    @property
    def verbs(self) -> set[str]:
        """The verbs of the command that the code names."""
        return {verb for code in self.code for verb in _VERB.findall(code)}

    @property
    def paths(self) -> set[str]:
        """The project's files and folders that the code names, and those that are linked."""
        links = {found["target"].partition("#")[0] for found in _LINK.finditer(self.text)}
        named = {path for code in self.code for path in _PATH.findall(code)}
        return named | {link for link in links if link and "://" not in link and not link.startswith("mailto:")}
