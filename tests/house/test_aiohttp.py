"""Private attributes of aiohttp: each one that this project uses is named here, and exists."""

from __future__ import annotations

import ast
import inspect
import textwrap
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from packaging.requirements import Requirement
from packaging.version import Version

from tests.house.project import ROOT, read

# Of aiohttp's classes, what their subclasses here use or override.
INHERITED: dict[type, set[str]] = {
    RequestHandler: {
        "_buffer_paused",
        "_close",
        "_drain_helper",
        "_handler_waiter",
        "_keepalive_timeout",
        "_loop",
        "_manager",
        "_messages",
        "_next_keepalive_close_time",
        "_paused",
        "_process_keepalive",
        "_reading_paused",
        "_request_in_progress",
        "_upgraded",
        "_waiter",
    },
    web.Server: {"_kwargs", "_loop"},
    web.StreamResponse: {"_send_headers_immediately"},
    web.AppRunner: {"_make_server"},
}
# What is used of objects that are not ``self``: module, attribute and its class.
FOREIGN: dict[tuple[str, str], type] = {
    ("stat7store.server.connection", "_kwargs"): web.Server,
    ("stat7store.server.connection", "_loop"): web.Server,
}
# Private by name alone, documented by Python: os._exit, and methods of named tuples.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}

EXAMPLE = """
from aiohttp import web
from aiohttp._private import thing

class Plain:
    def method(self):
        self._own = 1

class Runner(web.AppRunner):
    __slots__ = ("_mine",)

    async def _make_server(self):
        self._mine = self._later
        return await super()._make_server()

def use(plain, server, name):
    return plain._own, server._foreign, getattr(server, "_named"), getattr(server, name)
"""


def is_private(name: str) -> bool:
    """Whether a name has one underscore before it."""
    return name.startswith("_") and not name.startswith("__")


def provides(kind: type, name: str) -> bool:
    """Whether a class of aiohttp or one it inherits from has the attribute, on itself or set on its instances."""
    if hasattr(kind, name):
        return True
    classes = [base for base in kind.__mro__ if base.__module__.startswith("aiohttp")]
    trees = [ast.parse(textwrap.dedent(inspect.getsource(base))) for base in classes]
    return any(name == attribute for tree in trees for _, attribute in attributes(tree, own=True))


def attributes(tree: ast.AST, *, own: bool) -> Iterator[tuple[ast.Attribute, str]]:
    """Yield the private attributes in the code: those of ``self``, ``cls`` and ``super()``, or those of others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            of = node.value.func if isinstance(node.value, ast.Call) else node.value
            if own == (isinstance(of, ast.Name) and of.id in {"self", "cls", "super"}):
                yield node, node.attr


def declared(tree: ast.AST) -> set[str]:
    """The names that the code defines, in slots, as functions, as variables, or by assigning to ``self``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__slots__"]:
            names.update(ast.literal_eval(node.value))
    return names | {name for node, name in attributes(tree, own=True) if isinstance(node.ctx, ast.Store)}


def inherited(tree: ast.Module, bases: dict[str, type]) -> dict[type, set[str]]:
    """The private attributes that subclasses use of aiohttp's classes; ``bases``: class here to class of aiohttp."""
    found: dict[type, set[str]] = defaultdict(set)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in bases:
            base = bases[node.name]
            used = {name for _, name in attributes(node, own=True)}
            mine = declared(node)
            found[base] |= used - mine
            found[base] |= {name for name in mine if is_private(name) and provides(base, name)}
    return dict(found)


def foreign(tree: ast.Module) -> set[str]:
    """The private attributes used of objects of classes that the module does not define, and of aiohttp's modules."""
    mine = declared(tree) | DOCUMENTED
    found = {name for _, name in attributes(tree, own=False) if name not in mine}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiohttp"):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found |= set(filter(is_private, parts))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "setattr", "hasattr", "delattr"}:
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                found.add(str(name.value))
    return found


def aiohttp_bases(module: str, tree: ast.Module) -> dict[str, type]:
    """Those classes of a module that derive from one of aiohttp, and the nearest such."""
    bases = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.bases:
            kind: type = getattr(import_module(module), node.name)
            for base in kind.__mro__[1:]:
                if base.__module__.startswith("aiohttp"):
                    bases[node.name] = base
                    break
    return bases


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of both packages that is Python, with its code."""
    for package in ("stat7store", "storage"):
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT).with_suffix("")
            yield ".".join(path.parts).removesuffix(".__init__"), ast.parse(Path(file).read_text(encoding="utf-8"))


def test_how_uses_are_found() -> None:
    """Attributes of aiohttp are told from own ones, on self, on other objects, by name, and in imports."""
    tree = ast.parse(EXAMPLE)
    assert inherited(tree, {"Runner": web.AppRunner}) == {web.AppRunner: {"_make_server", "_later"}}
    assert foreign(tree) == {"_private", "_foreign", "_named"}
    assert provides(web.Server, "_kwargs")
    assert provides(RequestHandler, "_upgraded")
    assert not provides(RequestHandler, "_no_such_thing")


def test_every_private_attribute_in_use_is_named() -> None:
    """The code uses exactly the private attributes above: a new one is a decision, one less is struck out."""
    of_self: dict[type, set[str]] = defaultdict(set)
    of_others = set()
    for module, tree in modules():
        of_others |= {(module, name) for name in foreign(tree)}
        for base, names in inherited(tree, aiohttp_bases(module, tree)).items():
            of_self[base] |= names
    assert {base: names for base, names in of_self.items() if names} == INHERITED
    assert of_others == FOREIGN.keys()


@pytest.mark.parametrize(
    ("kind", "name"),
    sorted(
        [(kind, name) for kind, names in INHERITED.items() for name in names]
        + [(kind, name) for (_, name), kind in FOREIGN.items()],
        key=str,
    ),
)
def test_every_private_attribute_exists(kind: type, name: str) -> None:
    """aiohttp, as installed, has each of them."""
    assert provides(kind, name)


def test_no_other_release_series_of_aiohttp_is_installed() -> None:
    """pyproject.toml excludes the next minor release, which may change what is private."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    (wanted,) = [each for each in map(Requirement, project["dependencies"]) if each.name == "aiohttp"]
    installed = Version(version("aiohttp"))
    assert installed in wanted.specifier
    assert f"{installed.major}.{installed.minor + 1}" not in wanted.specifier
