"""Which code of a package can change a notebook's results, and a digest of it.

A notebook reaches the functions, classes and constants that its cells name, and those that these
name in turn. Of a file that it imports, these count, and what importing it does: statements that
define nothing, assignments to attributes and items, decorators of the package. Docstrings, comments
and formatting do not count. Names behind strings (``getattr(module, name)``) and what subclasses do
to their bases are not seen.

The project's ``pyproject.toml`` names its package and the parts that cannot change results::

    [tool.wsss.stages]
    package = "wsss"
    without = ["lab", "viz"]
    versions = ["numpy"]  # packages whose versions are recorded with results
    renamed = {members = "soup_size"}  # parameters, which refuse their old names
"""

import ast
import hashlib
import threading
import tomllib
from functools import cache
from pathlib import Path

from wsss.errors import InputError

EVERYTHING = "*"  # in place of a definition's name: all of the file
IMPORT = ""  # in place of a definition's name: what importing the file does
_parsing = threading.Lock()


def parse(source: str) -> ast.Module:
    """``ast.parse``, one thread at a time: Python 3.11 counts the depth of the trees that several
    threads make at once in one place, and raises SystemError (python/cpython#106905).
    """
    with _parsing:
        return ast.parse(source)


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
    notebook = _parsed_cells(cells)
    found: dict[_Module, set[str]] = {}
    waiting = package.resolve(notebook, EVERYTHING) | package.resolve(notebook, IMPORT)
    while waiting:
        dotted, name = waiting.pop()
        if package.counts(dotted):
            path = package.files[dotted]
            module = _module(path, dotted, path.read_text(encoding="utf-8"))
            names = found.setdefault(module, set())
            for each in {module.entry(name), IMPORT} - names:
                names.add(each)
                waiting |= package.resolve(module, each)
    digests = {
        package.files[module.dotted].relative_to(root / package.name).as_posix(): digest
        for module, names in found.items()
        if (digest := module.digest(names, package.name))
    }
    return dict(sorted(digests.items()))


def digest(cells: list[str]) -> str:
    """A digest of code cells, without unused imports, comments and formatting."""
    return _parsed_cells(cells).digest({EVERYTHING}, None)


def settings(root: Path) -> dict:
    """A project's table ``tool.wsss.stages``, empty where it has none."""
    try:
        table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        return table["tool"]["wsss"]["stages"]
    except (FileNotFoundError, KeyError):
        return {}


class _Package:
    """A package's files by module, and which of them can change results."""

    def __init__(self, root, name, without):
        self.name, self._without = name, [[part] for part in without]
        self.files: dict[str, Path] = {}
        for path in sorted((root / name).rglob("*.py")):
            words = path.relative_to(root).with_suffix("").parts
            self.files[".".join(words[:-1] if words[-1] == "__init__" else words)] = path

    def counts(self, dotted):
        return dotted in self.files and dotted.split(".")[1:2] not in self._without

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
                while chain and f"{dotted}.{chain[0]}" in self.files:
                    dotted, chain = f"{dotted}.{chain[0]}", chain[1:]
                found.add((dotted, chain[0] if chain else EVERYTHING))
        return found


class _Module:
    """The top level of a file.

    Attributes:
        dotted: the module's name.
        definitions: name to the statements that define it; IMPORT to the others, which run
            whatever is used of the file.
        decorators: definition to the names in its decorators, with the attributes that follow.
        imports: local name to the ``(module, name or None)`` it is imported from, anywhere in the
            file, under ``TYPE_CHECKING`` and in functions too.
    """

    def __init__(self, tree, dotted, package):
        self.dotted, self._package = dotted, package
        self.definitions: dict[str, list[ast.stmt]] = {IMPORT: []}
        self.imports: dict[str, set[tuple[str, str | None]]] = {}
        self.decorators: dict[str, set[tuple[str, ...]]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for name, target, _ in _bindings(node, package):
                    self.imports.setdefault(name, set()).add(target)
        for statement in tree.body:
            for name in _defined(statement):
                self.definitions.setdefault(name, []).append(statement)
                for decorator in getattr(statement, "decorator_list", ()):
                    self.decorators.setdefault(name, set()).update(_read(decorator).chains)

    def entry(self, name):
        """What a name stands for: itself, the module's ``__getattr__``, or everything."""
        if name in self.definitions or name in self.imports or name == EVERYTHING:
            return name
        return "__getattr__" if "__getattr__" in self.definitions else EVERYTHING

    def _parts(self, name):
        """The ``_Reader`` of each statement that a name stands for."""
        named = self.definitions.get(name, [])
        groups = self.definitions.values() if name == EVERYTHING else [named]
        return [_read(statement) for group in groups for statement in group]

    def references(self, name):
        """What a definition names: names with the attributes that follow, and ``(module, name or
        None)`` of the imports that run with it.
        """
        parts = self._parts(name)
        front_door = name == EVERYTHING and self.dotted == self._package
        chains = {(each,) for each in self.imports if front_door or name == each}
        nodes = [node for part in parts for node in part.imports]
        targets = {target for node in nodes for *_, target in _bindings(node, self._package)}
        return chains.union(*(part.chains for part in parts)), targets

    def digest(self, names, package):
        """A digest of definitions, of what importing the file does, and of what they use from
        outside the package; empty where there is none of these.
        """
        parts = [part for name in sorted(names) for part in self._parts(name) if part.text]
        if not parts:
            return ""
        used = {first for part in parts for first, *_ in part.chains} & self.imports.keys()
        outside = sorted(
            f"{name} {target}"
            for name in used
            for target in self.imports[name]
            if target[0].partition(".")[0] != package
        )
        texts = [*dict.fromkeys(part.text for part in parts), *outside]
        return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


@cache
def _module(path, dotted, source):
    """A parsed file; parsed again when it was edited."""
    package = dotted if path.name == "__init__.py" else dotted.rpartition(".")[0]
    return _Module(parse(source), dotted, package)


def _parsed_cells(cells):
    try:
        return _Module(parse("\n".join(cells)), "cells", "")
    except SyntaxError as error:
        raise InputError(
            f"a notebook's code cells: expected plain Python but line {error.lineno} is not "
            f"({(error.text or '').strip()!r}); move magics out of the notebook"
        ) from None


def _bindings(node, package):
    """Yield local name, what it stands for and what is imported, the last two as ``(module, name or
    None)``, of an import statement in a module of ``package``.
    """
    parents = package.split(".")
    for each in node.names:
        if isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])]), each.name
            yield each.asname or each.name, target, target
        else:  # import a.b binds a, import a.b as c binds a.b
            name = each.asname or each.name.partition(".")[0]
            yield name, (each.name if each.asname else name, None), (each.name, None)


def _defined(statement):
    """The names that a top-level statement defines; IMPORT if it does something else."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.If) and _chain(statement.test)[-1:] == ("TYPE_CHECKING",):
        return [] if not statement.orelse else [IMPORT]
    if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return [IMPORT]
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    if any(isinstance(n, ast.Attribute | ast.Subscript) for t in targets for n in ast.walk(t)):
        return [IMPORT]
    inner = [n.target for n in ast.walk(statement) if isinstance(n, ast.NamedExpr)]
    return [n.id for t in [*targets, *inner] for n in ast.walk(t) if isinstance(n, ast.Name)]


class _Reader(ast.NodeTransformer):
    """Takes imports and docstrings out of a syntax tree.

    Attributes:
        text: the rest, without formatting.
        chains: the names in it, each with the attributes that follow.
        imports: the statements taken out.
    """

    def __init__(self, tree):
        self.chains: set[tuple[str, ...]] = set()
        self.imports: list[ast.Import | ast.ImportFrom] = []
        rest = self.visit(tree)
        self.text = ast.unparse(rest) if rest else ""

    def visit(self, node):
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imports.append(node)
            return None
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            return None
        if chain := _chain(node):
            self.chains.add(chain)
            return node
        return self.generic_visit(node)


_read = cache(_Reader)  # many stages reach the same definitions


def _chain(node):
    """``(models, build_cam)`` of ``models.build_cam``; empty for what begins with no name."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()
