"""Which code of a package can change a notebook's results, and a digest of it.

A notebook reaches definitions: the functions, classes and constants that its cells name, and those
that these name in turn, file by file. Only reached definitions count, so an edit elsewhere in a
file changes nothing. Docstrings, comments and formatting do not count: digests are of syntax trees.

The project's ``pyproject.toml`` names its package and the parts that cannot change results::

    [tool.wsss.stages]
    package = "wsss"
    without = ["lab", "viz"]
    versions = ["numpy"]  # packages whose versions are recorded with results
    renamed = {members = "soup_size"}  # parameters, which refuse their old names
"""

import ast
import copy
import hashlib
import tomllib
from functools import cache
from pathlib import Path

from wsss.errors import InputError

EVERYTHING = "*"  # in place of a definition's name: all of the file
Reference = tuple[str, str]  # dotted module, name of a definition


def reached(cells: list[str], root: Path) -> dict[str, str]:
    """The code that a notebook's cells reach.

    Args:
        cells: source of the code cells.
        root: the project's folder, with ``pyproject.toml`` and the package.

    Returns:
        file within the package to a digest of its reached definitions, sorted by file; empty where
        the project names no package.
    """
    table = settings(root)
    package, without = table.get("package"), table.get("without", ())
    if not package:
        return {}
    found: dict[Path, tuple[_Module, set[str]]] = {}
    waiting = {*_parsed_cells(cells).references(EVERYTHING, root)}
    while waiting:
        dotted, name = waiting.pop()
        top, *rest = dotted.split(".")
        path = _file(root, dotted)
        if top != package or path is None or (rest and rest[0] in without):
            continue
        module, names = found.setdefault(path, (_module(path, dotted, *_state(path)), set()))
        name = module.entry(name)
        if name not in names:
            names.add(name)
            waiting |= module.references(name, root)
    return {
        path.relative_to(root / package).as_posix(): module.digest(names)
        for path, (module, names) in sorted(found.items())
    }


def digest(cells: list[str]) -> str:
    """A digest of code cells, without their imports, comments and formatting."""
    return _parsed_cells(cells).digest({EVERYTHING})


def settings(root: Path) -> dict:
    """A project's table ``tool.wsss.stages``, empty where it has none."""
    try:
        table = tomllib.loads((root / "pyproject.toml").read_text())
        return table["tool"]["wsss"]["stages"]
    except (FileNotFoundError, KeyError):
        return {}


def _file(root, dotted):
    """The source file of a module, or None where the project has no such module."""
    path = root.joinpath(*dotted.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _state(path):
    about = path.stat()
    return about.st_mtime_ns, about.st_size


@cache
def _module(path, dotted, _modified, _size):
    """A parsed file; parsed again when it was edited."""
    package = dotted if path.name == "__init__.py" else dotted.rpartition(".")[0]
    return _Module(ast.parse(path.read_text()), dotted, package)


def _parsed_cells(cells):
    try:
        return _Module(ast.parse("\n".join(cells)), "cells", "")
    except SyntaxError as error:
        raise InputError(
            f"a notebook's code cells: expected plain Python but line {error.lineno} is not "
            f"({(error.text or '').strip()!r}); move magics out of the notebook"
        ) from None


class _Module:
    """The top level of a file: definitions by name, imports by name, and loose statements, which
    run whatever is used of the file.
    """

    def __init__(self, tree, dotted, package):
        self._dotted, self._package = dotted, package
        self._definitions: dict[str, list[ast.stmt]] = {}
        self._loose: list[ast.stmt] = []
        self._texts, self._references = {}, {}  # computed once: many stages reach the same code
        for statement in tree.body:
            names = _defined(statement)
            for name in names:
                self._definitions.setdefault(name, []).append(statement)
            if not names and not (_is_text(statement) or _imports(statement)):
                self._loose.append(statement)
        # of nested ones too, such as those under TYPE_CHECKING or in a function
        self._imports = {}
        for node in ast.walk(tree):
            self._imports |= dict(self._bindings(node))

    def entry(self, name):
        """What a name stands for: itself, the module's ``__getattr__``, or everything."""
        if name in self._definitions or name in self._imports or name == EVERYTHING:
            return name
        return "__getattr__" if "__getattr__" in self._definitions else EVERYTHING

    def digest(self, names):
        """A digest of the definitions of these names and of the loose statements."""
        wanted = sorted(self._definitions if EVERYTHING in names else names)
        kept = [part for name in wanted for part in self._definitions.get(name, ())]
        state = hashlib.blake2b(digest_size=8)
        for statement in [*kept, *self._loose]:
            if statement not in self._texts:
                self._texts[statement] = ast.unparse(_Bare().visit(copy.deepcopy(statement)))
            state.update(self._texts[statement].encode())
        return state.hexdigest()

    def references(self, name, root) -> set[Reference]:
        """What a definition, and the loose statements, name in turn."""
        if name not in self._references:
            names = {*self._definitions} if name == EVERYTHING else {name}
            if name == EVERYTHING and self._dotted == self._package:  # a package's front door
                names |= {*self._imports}
            statements = [part for each in names for part in self._definitions.get(each, ())]
            chains = [[each] for each in names if each in self._imports]
            for statement in [*statements, *self._loose]:
                chains += _chains(statement)
                for node in ast.walk(statement):  # an import in a function
                    chains += [[each] for each, _ in self._bindings(node)]
            self._references[name] = {self._resolve(chain, root) for chain in chains} - {None}
        return self._references[name]

    def _resolve(self, chain, root):
        """The reference that a chain of names, such as ``models.build_cam``, stands for, or None:
        names of this file's own definitions are looked up in it, imported ones where they are from.
        """
        first, *rest = chain
        if first in self._imports:
            dotted, name = self._imports[first]
            chain = [*([name] if name else []), *rest]
            while chain and _file(root, f"{dotted}.{chain[0]}"):
                dotted, chain = f"{dotted}.{chain[0]}", chain[1:]
            return dotted, chain[0] if chain else EVERYTHING
        return (self._dotted, first) if first in self._definitions else None

    def _bindings(self, node):
        """``(local name, (module, name or None))`` of an import statement."""
        if isinstance(node, ast.Import):
            for each in node.names:
                top = each.name.partition(".")[0]
                yield (each.asname, (each.name, None)) if each.asname else (top, (top, None))
        elif isinstance(node, ast.ImportFrom):
            parents = self._package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for each in node.names:
                yield each.asname or each.name, (module, each.name)


def _imports(statement):
    """Whether a statement imports, be it for type checkers alone."""
    if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
        return True
    return isinstance(statement, ast.Import | ast.ImportFrom)


def _defined(statement):
    """The names that a top-level statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return [n.id for each in targets for n in ast.walk(each) if isinstance(n, ast.Name)]
    return []


def _chains(node):
    """Yield the names of every attribute access from the left, such as ``[models, build_cam]``."""
    names, root = [], node
    while isinstance(root, ast.Attribute):
        names.append(root.attr)
        root = root.value
    if isinstance(root, ast.Name):
        yield [root.id, *reversed(names)]
        return
    for child in ast.iter_child_nodes(root):
        yield from _chains(child)


class _Bare(ast.NodeTransformer):
    """Takes docstrings, and statements that are nothing but a text, out of a tree."""

    def generic_visit(self, node):
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]
        return node


def _is_text(statement):
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
