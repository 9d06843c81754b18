"""The package's source as syntax trees: its modules, what they import, what stands in their functions."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support.paths import PACKAGE

LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Module(NamedTuple):
    """A file; ``name`` is dotted and begins with the package's own."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder or file right below the package; empty for the package's own ``__init__``."""
        return room_of(self.name)


class Import(NamedTuple):
    """One imported name; ``target`` is the module that it leads to, ``name`` what is taken from it."""

    importer: str
    target: str
    name: str | None
    when: str  # "at once", "later" within a function, or "typing"


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def modules(folder: Path = PACKAGE) -> dict[str, Module]:
    """All of a package's by name, those in folders of folders too."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8")))
    return found


def imports(module: Module, known: set[str] | frozenset[str]) -> Iterator[Import]:
    """Every import of a file, wherever it stands; ``known`` tells modules from names in them."""
    for statement, when in _imports(module.tree, "at once"):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield Import(module.name, alias.name, None, when)
            continue
        source = _absolute(module, statement)
        for alias in statement.names:
            submodule = f"{source}.{alias.name}"
            if submodule in known:
                yield Import(module.name, submodule, None, when)
            else:
                yield Import(module.name, source, alias.name, when)


def _imports(node: ast.AST, when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, when
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(child, "typing")
        else:
            yield from _imports(child, "later" if isinstance(child, LATER) and when == "at once" else when)


def _absolute(module: Module, statement: ast.ImportFrom) -> str:
    """The module that a ``from`` names, from the top."""
    if not statement.level:
        return statement.module or ""
    up = statement.level - (module.path.name == "__init__.py")
    parts = module.name.split(".")
    return ".".join([*parts[: len(parts) - up], *([statement.module] if statement.module else [])])


def scoped(node: ast.AST, scope: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every node below one, with the dotted name of the function or class that it stands in."""
    for child in ast.iter_child_nodes(node):
        yield scope, child
        inner = f"{scope}.{child.name}".lstrip(".") if isinstance(child, SCOPES) else scope
        yield from scoped(child, inner)


READS = {"item", "tolist", "eval", "async_eval", "synchronize"}
NUMBERS = {"int", "float", "bool"}
NUMPY = {"array", "asarray"}


def reads_back(node: ast.AST) -> bool:
    """Whether a node is a call that may read an array back to the host, by its syntax."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in READS or (node.func.id in NUMBERS and bool(node.args))
    if isinstance(node.func, ast.Attribute):
        of_numpy = ast.unparse(node.func.value) in ("np", "numpy")
        return node.func.attr in READS or (of_numpy and node.func.attr in NUMPY)
    return False
