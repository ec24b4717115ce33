"""Which code of a package can change a notebook's results, and a digest of it.

A notebook reaches definitions: the functions, classes and constants that its cells name, and those
that these name in turn, file by file. An edit to another definition of a reached file changes
nothing. What a file does when it is imported counts for each notebook that imports it: statements
that define nothing, assignments to attributes and items, decorators of the package. Docstrings,
comments and formatting do not count: digests are of syntax trees.

Names behind strings (``getattr(module, name)``) and what subclasses do to their bases are not seen.

The project's ``pyproject.toml`` names its package and the parts that cannot change results::

    [tool.wsss.stages]
    package = "wsss"
    without = ["lab", "viz"]
    versions = ["numpy"]  # packages whose versions are recorded with results
    renamed = {members = "soup_size"}  # parameters, which refuse their old names
"""

import ast
import hashlib
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from wsss.errors import InputError

EVERYTHING = "*"  # in place of a definition's name: all of the file
IMPORT = ""  # in place of a definition's name: what importing the file does
IGNORED_FIELDS = ("ctx", "kind", "type_comment")  # of a syntax tree's nodes


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
    if not table.get("package"):
        return {}
    package = _Package(root, table["package"], table.get("without", ()))
    found: dict[Path, tuple[_Module, set[str]]] = {}
    notebook = _parsed_cells(cells)
    waiting = package.resolve(notebook, EVERYTHING) | package.resolve(notebook, IMPORT)
    while waiting:
        dotted, name = waiting.pop()
        path = package.file(dotted)
        if path is None or not package.counts(dotted):
            continue
        if path not in found:
            found[path] = _module(path, dotted, path.stat().st_mtime_ns, path.stat().st_size), set()
        module, names = found[path]
        name = module.entry(name)
        for each in {name, IMPORT} - names:
            names.add(each)
            waiting |= package.resolve(module, each)
    digests = {
        path.relative_to(root / package.name).as_posix(): module.digest(names, package.name)
        for path, (module, names) in sorted(found.items())
    }
    return {name: digest for name, digest in digests.items() if digest}


def digest(cells: list[str]) -> str:
    """A digest of code cells, without unused imports, comments and formatting."""
    return _parsed_cells(cells).digest({EVERYTHING, IMPORT}, None)


def settings(root: Path) -> dict:
    """A project's table ``tool.wsss.stages``, empty where it has none."""
    try:
        table = tomllib.loads((root / "pyproject.toml").read_text())
        return table["tool"]["wsss"]["stages"]
    except (FileNotFoundError, KeyError):
        return {}


class _Package:
    """A package's files, without the parts that cannot change results."""

    def __init__(self, root, name, without):
        self._root, self.name = root, name
        self._without = [[part] for part in without]
        self._files: dict[str, Path | None] = {}

    def file(self, dotted):
        """The source file of a module, or None where it is not in the package."""
        if dotted not in self._files:
            top, *rest = dotted.split(".")
            path = self._root.joinpath(top, *rest)
            both = [path.with_suffix(".py"), path / "__init__.py"] if top == self.name else []
            self._files[dotted] = next((each for each in both if each.is_file()), None)
        return self._files[dotted]

    def counts(self, dotted):
        """Whether a module is one of the package that can change results."""
        parts = dotted.split(".")
        return self.file(dotted) is not None and parts[1:2] not in self._without

    def resolve(self, module, name):
        """The ``(module, name)`` that a definition refers to, those outside the package too."""
        chains, executed = module.references(name)
        found = self._origins(module, chains)
        for decorated, used in module.decorators.items() if name == IMPORT else ():
            if any(self.counts(dotted) for dotted, _ in self._origins(module, used)):
                found.add((module.dotted, decorated))  # it may be registered, for instance
        for dotted, imported in executed:
            words = dotted.split(".")
            found |= {(".".join(words[: end + 1]), IMPORT) for end in range(len(words))}
            if imported == EVERYTHING:  # from module import *
                found.add((dotted, EVERYTHING))
            elif imported:
                found.add((f"{dotted}.{imported}", IMPORT))  # where that is a module
        return found

    def _origins(self, module, chains):
        """Where names with the attributes that follow are from, as ``(module, name)``."""
        found = {(module.dotted, first) for first, *_ in chains if first in module.definitions}
        for first, *attributes in chains:
            for dotted, imported in module.imports.get(first, ()):
                chain = [*([imported] if imported else []), *attributes]
                while chain and self.file(f"{dotted}.{chain[0]}"):
                    dotted, chain = f"{dotted}.{chain[0]}", chain[1:]
                found.add((dotted, chain[0] if chain else EVERYTHING))
        return found


class _Part(NamedTuple):
    """A statement: its text without docstrings and formatting, the names that it uses, each with
    the attributes that follow, and the imports inside.
    """

    text: str
    chains: set[tuple[str, ...]]
    imports: list[ast.Import | ast.ImportFrom]


class _Module:
    """The top level of a file.

    Attributes:
        dotted: the module's name.
        definitions: name to the statements that define it.
        decorators: definition to the names in its decorators, with the attributes that follow.
        imports: local name to the ``(module, name or None)`` it is imported from, anywhere in the
            file, under ``TYPE_CHECKING`` and in functions too.
    """

    def __init__(self, tree, dotted, package):
        self.dotted, self._package = dotted, package
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, set[tuple[str, str | None]]] = {}
        self.decorators: dict[str, set[tuple[str, ...]]] = {}
        self._top_imports = [each for each in tree.body if _imports(each)]
        self._loose: list[ast.stmt] = []  # run whatever is used of the file
        for node in filter(_imports, ast.walk(tree)):
            for name, target, _ in self._bindings(node):
                self.imports.setdefault(name, set()).add(target)
        for statement in tree.body:
            names = _defined(statement)
            for name in names:
                self.definitions.setdefault(name, []).append(statement)
            for decorator in getattr(statement, "decorator_list", ()):
                self.decorators.setdefault(names[0], set()).update(_part(decorator).chains)
            if not (names or _imports(statement) or _is_text(statement) or _typing(statement)):
                self._loose.append(statement)

    def entry(self, name):
        """What a name stands for: itself, the module's ``__getattr__``, or everything."""
        if name in self.definitions or name in self.imports or name in (EVERYTHING, IMPORT):
            return name
        return "__getattr__" if "__getattr__" in self.definitions else EVERYTHING

    def _parts_of(self, name):
        """The ``_Part`` of each statement that a name stands for."""
        if name == IMPORT:
            return [_part(each) for each in self._loose]
        if name == EVERYTHING:
            return [_part(each) for group in self.definitions.values() for each in group]
        return [_part(each) for each in self.definitions.get(name, ())]

    def references(self, name):
        """What a definition names: names with the attributes that follow, and ``(module, name or
        None)`` of the imports that run with it.
        """
        front_door = name == EVERYTHING and self.dotted == self._package
        chains = {(each,) for each in self.imports if front_door or name == each}
        nodes = [*self._top_imports] if name == IMPORT else []
        for part in self._parts_of(name):
            chains |= part.chains
            nodes += part.imports
        return chains, {target for node in nodes for _, _, target in self._bindings(node)}

    def digest(self, names, package):
        """A digest of definitions, of what importing the file does, and of what they use from
        outside the package; empty where there is none of these.
        """
        parts = [part for name in sorted(names) for part in self._parts_of(name)]
        if not parts:
            return ""
        used = {first for part in parts for first, *_ in part.chains} & self.imports.keys()
        outside = sorted(
            f"{name} {target}"
            for name in used
            for target in self.imports[name]
            if target[0].partition(".")[0] != package
        )
        state = hashlib.blake2b(digest_size=8)
        for text in [*dict.fromkeys(part.text for part in parts), *outside]:
            state.update(text.encode())
        return state.hexdigest()

    def _bindings(self, node):
        """Yield local name, what it stands for and what is imported, the last two as ``(module,
        name or None)``, of an import statement.
        """
        parents = self._package.split(".")
        for each in node.names:
            if isinstance(node, ast.ImportFrom):
                base = parents[: len(parents) - node.level + 1] if node.level else []
                target = ".".join([*base, *([node.module] if node.module else [])]), each.name
                yield each.asname or each.name, target, target
            else:  # import a.b binds a, import a.b as c binds a.b
                name = each.asname or each.name.partition(".")[0]
                yield name, (each.name if each.asname else name, None), (each.name, None)


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


def _defined(statement):
    """The names that a top-level statement defines, if it does nothing else."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return []
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    if any(isinstance(n, ast.Attribute | ast.Subscript) for t in targets for n in ast.walk(t)):
        return []
    inner = [n.target for n in ast.walk(statement) if isinstance(n, ast.NamedExpr)]
    return [n.id for t in [*targets, *inner] for n in ast.walk(t) if isinstance(n, ast.Name)]


def _imports(node):
    return isinstance(node, ast.Import | ast.ImportFrom)


def _typing(statement):
    return (
        isinstance(statement, ast.If)
        and _chain(statement.test)[-1:] == ("TYPE_CHECKING",)
        and not statement.orelse
    )


def _is_text(statement):
    return isinstance(statement, ast.Expr) and isinstance(
        getattr(statement.value, "value", None), str
    )


@cache  # many stages reach the same definitions
def _part(tree):
    """The ``_Part`` of a syntax tree."""
    texts, chains, imports = [], set(), []

    def visit(node):
        if isinstance(node, ast.AST):
            if _imports(node):
                imports.append(node)
            elif chain := _chain(node):
                chains.add(chain)
                texts.append(".".join(chain))
            elif not _is_text(node):
                texts.append(type(node).__name__)
                for field, value in ast.iter_fields(node):
                    if field not in IGNORED_FIELDS and value not in (None, []):
                        texts.append(field)
                        visit(value)
        elif isinstance(node, list):
            texts.append("[")
            for each in node:
                visit(each)
            texts.append("]")
        else:
            texts.append(repr(node))

    visit(tree)
    return _Part(" ".join(texts), chains, imports)


def _chain(node):
    """``(models, build_cam)`` of ``models.build_cam``; empty for what begins with no name."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()
