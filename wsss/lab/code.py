"""Which code of a package can change a notebook's results, and a digest of it.

A notebook reaches the functions, classes and constants that its cells name, and those that these
name in turn. Of a file that it imports, these count, and what importing it does: statements that
define nothing, assignments to attributes and items, decorators of the package. Docstrings, comments
and formatting do not count. Names behind strings (``getattr(module, name)``) and what subclasses do
to their bases are not seen.

The project's ``pyproject.toml`` names its package and what can or cannot change results::

    [tool.wsss.stages]
    package = "wsss"
    without = ["lab", "viz"]  # parts of it that cannot
    versions = ["numpy"]  # packages whose versions are recorded with results
    files = ["weights"]  # parameters that name a file: it counts by contents
    unseen = ["data_root"]  # parameters that cannot: what they name counts otherwise
    portable = ["train"]  # stages without scores, whose results may be used on other data
    renamed = {members = "soup_size"}  # parameters, which refuse their old names
"""

import ast
import hashlib
import threading
import tomllib
from contextlib import suppress
from functools import cache
from importlib.util import resolve_name
from itertools import accumulate, chain
from pathlib import Path

from wsss.errors import InputError

EVERYTHING = "*"  # in place of a definition's name: all of the file
IMPORT = ""  # in place of a definition's name: what importing the file does
_parsing = threading.Lock()


def parse(source: str) -> ast.Module:
    """``ast.parse``, one thread at a time: in Python 3.11 several threads share a count of the
    depth of trees, and it raises SystemError (python/cpython#106905).
    """
    with _parsing:
        return ast.parse(source)


def reached(cells: list[str], root: Path) -> dict[str, str]:
    """The code that a notebook's cells reach: file within the package of the project in ``root`` to
    a digest of its reached definitions, sorted by file; empty where the project names no package.
    """
    table = settings(root)
    if not table.get("package"):
        return {}
    package = _Package(root, table["package"], table.get("without", ()))
    notebook, found = _parsed_cells(cells), {}
    waiting = package.resolve(notebook, EVERYTHING) | package.resolve(notebook, IMPORT)
    while waiting:
        dotted, name = waiting.pop()
        if package.counts(dotted):
            path = package.files[dotted]
            module = _parsed_file(path, dotted, path.read_text(encoding="utf-8"))
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
    with suppress(FileNotFoundError, KeyError):
        table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        return table["tool"]["wsss"]["stages"]
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
        statements = module.definitions.get(name, [])
        front_door = name == EVERYTHING and module.dotted == module.package
        chains = {(each,) for each in module.imports if front_door or name == each}
        found = self._origins(module, chains.union(*(each.chains for each in statements)))
        for *_, executed in chain.from_iterable(each.imports for each in statements):
            # the packages around it run too, and what is taken may be a module
            found |= {(part, IMPORT) for part in accumulate(executed.split("."), "{}.{}".format)}
            if executed.endswith(f".{EVERYTHING}"):
                found.add((executed[:-2], EVERYTHING))
        for each in module.definitions[EVERYTHING] if name == IMPORT else ():
            if any(self.counts(dotted) for dotted, _ in self._origins(module, each.decorators)):
                found.add((module.dotted, each.names[0]))  # it may be registered, for instance
        return found

    def _origins(self, module, chains):
        """Where names with the attributes that follow are from, as ``(module, name)``."""
        found = {(module.dotted, first) for first, *_ in chains if first in module.definitions}
        for first, *attributes in chains:
            for dotted, imported in module.imports.get(first, ()):
                words = [*([imported] if imported else []), *attributes]
                while words and f"{dotted}.{words[0]}" in self.files:
                    dotted, words = f"{dotted}.{words[0]}", words[1:]
                found.add((dotted, words[0] if words else EVERYTHING))
        return found


class _Module:
    """The top level of a file.

    Attributes:
        definitions: name to the statements that define it; IMPORT to the others, which run
            whatever is used of the file; EVERYTHING to all.
        imports: local name to the ``(module, name or None)`` it is imported from, in functions and
            under ``TYPE_CHECKING`` too.
    """

    def __init__(self, tree, dotted, package):
        self.dotted, self.package = dotted, package
        self.definitions: dict[str, list[_Statement]] = {IMPORT: []}
        self.imports: dict[str, set[tuple[str, str | None]]] = {}
        for statement in (_Statement(each, package) for each in tree.body):
            for local, origin, _ in statement.imports:
                self.imports.setdefault(local, set()).add(origin)
            for name in statement.names:
                self.definitions.setdefault(name, []).append(statement)
        self.definitions[EVERYTHING] = [*chain.from_iterable(self.definitions.values())]

    def entry(self, name):
        """What a name stands for: itself, the module's ``__getattr__``, or everything."""
        if name in self.definitions or name in self.imports:
            return name
        return "__getattr__" if "__getattr__" in self.definitions else EVERYTHING

    def digest(self, names, package):
        """A digest of definitions and what they use from outside the package; empty for none."""
        named = chain.from_iterable(self.definitions.get(name, ()) for name in sorted(names))
        statements = [each for each in named if each.text]
        if not statements:
            return ""
        used = {first for each in statements for first, *_ in each.chains} & self.imports.keys()
        outside = sorted(
            f"{name} {origin}"
            for name in used
            for origin in self.imports[name]
            if origin[0].partition(".")[0] != package
        )
        texts = [*dict.fromkeys(each.text for each in statements), *outside]
        return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


@cache
def _parsed_file(path, dotted, source):
    package = dotted if path.name == "__init__.py" else dotted.rpartition(".")[0]
    return _Module(parse(source), dotted, package)


def _parsed_cells(cells):
    try:
        return _Module(parse("\n".join(cells)), "cells", "notebook")
    except SyntaxError as error:
        raise InputError(
            f"a notebook's code cells: expected plain Python but line {error.lineno} is not "
            f"({(error.text or '').strip()!r}); move magics out of the notebook"
        ) from None


class _Statement(ast.NodeTransformer):
    """A statement of a module of ``package``; takes imports and docstrings out of its tree.

    Attributes:
        names: what it defines; IMPORT if it does something else.
        text: the rest, without formatting.
        chains: the names in it, each with the attributes that follow.
        decorators: those of its chains that decorate it.
        imports: the local names in it, the ``(module, name or None)`` that each stands for, and the
            dotted name of what is imported.
    """

    def __init__(self, tree, package):
        self._package, self.names = package, _defined(tree)
        self.chains: set[tuple[str, ...]] = set()
        self.imports: list[tuple[str, tuple[str, str | None], str]] = []
        for each in getattr(tree, "decorator_list", ()):
            self.visit(each)
        self.decorators = {*self.chains}
        rest = self.visit(tree)
        self.text = ast.unparse(rest) if rest else ""

    def visit(self, node):
        match node:
            case ast.Import():
                for each in node.names:  # import a.b binds a, import a.b as c binds a.b
                    bound = each.name if each.asname else each.name.partition(".")[0]
                    self.imports.append((each.asname or bound, (bound, None), each.name))
            case ast.ImportFrom():
                module = resolve_name("." * node.level + (node.module or ""), self._package)
                for each in node.names:
                    origin = module, each.name
                    self.imports.append((each.asname or each.name, origin, ".".join(origin)))
            case ast.Expr(ast.Constant(str())):
                pass
            case ast.Attribute() | ast.Name() if names := _chain(node):
                self.chains.add(names)
                return node
            case _:
                return self.generic_visit(node)
        return None


def _defined(statement):
    """The names that a top-level statement defines; IMPORT if it does something else."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.If(test, orelse=[]) if _chain(test)[-1:] == ("TYPE_CHECKING",):
            return []
        case ast.Assign(targets):
            pass
        case ast.AnnAssign(target) | ast.AugAssign(target):
            targets = [target]
        case _:
            return [IMPORT]
    parts = [part for target in targets for part in ast.walk(target)]
    if any(isinstance(part, ast.Attribute | ast.Subscript) for part in parts):
        return [IMPORT]
    parts += [part.target for part in ast.walk(statement) if isinstance(part, ast.NamedExpr)]
    return [part.id for part in parts if isinstance(part, ast.Name)]


def _chain(node):
    """``(models, build_cam)`` of ``models.build_cam``; empty for what begins with no name."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()
