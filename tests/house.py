"""The rules of the house in code: which room imports which, what from outside, and how large
anything may be. ``python -m tests.house`` prints the rooms and whatever breaks a rule.

A room is a folder of the package; a file at the package's top is a room of its own. Imports are
read from the syntax tree and count wherever they stand: at the top of a file, inside a function, in
a call of ``import_module``, in a string that is code.
"""

import ast
import importlib.util
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import networkx

PACKAGE = Path(__file__).parents[1] / "wsss"

METHOD = ("affinity", "cam", "random_walk", "crf", "geometry", "metrics", "synthesis")
# From the ground up: a room imports from lines above its own, and from nothing else.
RANKS = (
    ("errors",),
    ("runtime",),
    ("io",),
    ("affinity", "crf", "geometry", "metrics"),
    ("cam", "random_walk"),
    ("synthesis", "viz"),
    ("models/backbones",),
    ("models",),
    ("datasets", "models/imported"),
    ("datasets/annotations", "datasets/prepare", "train/parallel"),
    ("train",),
    ("photos",),
    ("wsss",),  # the front door, wsss/__init__.py
    ("lab",),
    ("lab/record",),
    ("lab/run", "report"),
    ("apply", "cost"),
    ("cluster", "explore"),
    ("cli",),
    ("__main__",),
)
METHOD_MAY_IMPORT = {*METHOD, "errors", "runtime/devices.py", "numpy", "torch", "pydensecrf", "PIL"}
LAB_MAY_IMPORT = {"lab", "io", "runtime", "errors"}
NEVER_IMPORT_LAB = {*METHOD, "models", "datasets", "train", "photos"}
# The only places that import a package: rooms with the rooms inside them, or one file.
IMPORTERS = {
    "mlflow": ("lab/record", "apply"),
    "papermill": ("lab/run/notebook.py",),
    "ray": ("cluster",),
}
# Lower the last number with each subtraction.
FLOORS, FILES, FILE_LINES, LINES = 12, 8, 350, 15_880
README_LINES, WITH_README = 15, ("lab", "lab/record", "train", "photos")
ODDS_AND_ENDS = {"utils", "util", "helpers", "common", "misc"}


class Import(NamedTuple):
    """What a file takes from another file of the package, or from a package outside."""

    file: Path  # relative to the package, as every file here
    target: Path | str
    taken: str
    room: str  # of the file
    other: str  # room of the target, or the package outside


def imports(tree, package):
    """``(module, name)`` of every import in a syntax tree; the name is None for a whole module.

    Args:
        package: dotted name of the package that relative imports start from.
    """
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Expr(value=ast.Constant()):  # a docstring
                continue
            case ast.Import(names=names):
                yield from ((alias.name, None) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = importlib.util.resolve_name("." * level + (module or ""), package)
                yield from ((base, alias.name) for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module, None
            case ast.Constant(value="papermill"):  # in a command line, or a key of its metadata
                yield "papermill", None
            case ast.Constant(value=str(text)) if "import " in text:
                for line in text.splitlines():
                    with suppress(SyntaxError):  # prose, or a part of a statement
                        yield from imports(ast.parse(line.strip()), package)
        yield from imports(node, package)


def room(file):
    """The folder of a file of the package; at the top its own name, "wsss" for ``__init__.py``."""
    if file.parent == Path():
        return "wsss" if file.stem == "__init__" else file.stem
    return file.parent.as_posix()


class House:
    """A package as files, imports and rooms.

    Args:
        root: the package's folder, named as it is imported.
    """

    def __init__(self, root):
        self.root, self.lines, self._files, trees = root, {}, {}, {}
        for path in sorted(root.rglob("*.py")):
            file, text = path.relative_to(root), path.read_text()
            package = ".".join((root.name, *file.parent.parts))
            self.lines[file] = len(text.splitlines())
            self._files[package if file.stem == "__init__" else f"{package}.{file.stem}"] = file
            trees[file] = package, ast.parse(text)
        taken = defaultdict(dict)
        for file, (package, tree) in trees.items():
            for target, name in (self.target(*found) for found in imports(tree, package)):
                taken[file, target][name] = True
        self.imports = [
            Import(a, b, ", ".join(names), room(a), room(b) if b in self.lines else b)
            for (a, b), names in taken.items()
        ]
        self.inside = [found for found in self.imports if found.target in self.lines]
        self.files = networkx.DiGraph((found.file, found.target) for found in self.inside)
        self.circles = [c for c in networkx.strongly_connected_components(self.files) if len(c) > 1]
        self.rooms = networkx.DiGraph((found.room, found.other) for found in self.inside)
        self.rooms.add_nodes_from(map(room, self.lines))
        self.rooms.remove_edges_from([(name, name) for name in self.rooms])

    def target(self, module, name):
        """What an import loads and what it takes of it; a module that the package lacks is given
        by its dotted name.
        """
        top, *inner = module.split(".")
        if top != self.root.name:
            return top, f"{module}.{name}" if name else module
        if f"{module}.{name}" in self._files:
            return self._files[f"{module}.{name}"], ".".join([*inner, name])
        return self._files.get(module, module), name or ".".join(inner) or module

    def floors(self):
        """Room to its floor, the number of rooms in its longest chain of imports, itself included.
        Rooms that import each other share a floor.
        """
        graph, floor = networkx.condensation(self.rooms), {}
        for node in reversed(list(networkx.topological_sort(graph))):
            floor[node] = 1 + max((floor[below] for below in graph[node]), default=0)
        return {name: floor[node] for name, node in graph.graph["mapping"].items()}

    def upward(self):
        """Imports from a room that is not lower. Rooms without a rank are reported elsewhere."""
        rank = {name: number for number, rooms in enumerate(RANKS) for name in rooms}
        for found in self.inside:
            higher = rank.get(found.room, len(RANKS)) > rank.get(found.other, -1)
            if found.room != found.other and not higher:
                yield found

    def reached(self, file):
        """Files and outside packages that a file imports, itself or through others, with each
        ``__init__.py`` on the way. The front door opens rooms only when asked: it reaches nothing.
        """
        graph = networkx.DiGraph((found.file, found.target) for found in self.imports)
        for each in self.lines:
            graph.add_edges_from((each, folder / "__init__.py") for folder in each.parents)
        graph.remove_edges_from(list(graph.out_edges(Path("__init__.py"))))
        return networkx.descendants(graph, Path(file))


def refused(found):
    """One readable line for an import that breaks a rule."""
    return f"{found.room} may not import {found.other}: {found.file} takes {found.taken}"


def order(house):
    """1. An import goes to a lower rank or stays in its room; no circle of files; few floors."""
    for found in house.imports:
        if str(found.target).startswith(f"{house.root.name}."):
            yield f"{found.file} imports {found.target}, which does not exist"
    for name in sorted(set(house.rooms).difference(*RANKS)):
        yield f"{name} has no rank; give it one in RANKS of tests/house.py, or move it"
    yield from map(refused, house.upward())
    for circle in house.circles:
        chain = networkx.find_cycle(house.files.subgraph(circle), source=min(circle))
        yield "circle of files: " + " -> ".join(str(file) for file, _ in [*chain, chain[0]])
    if (highest := max(house.floors().values())) > FLOORS:
        yield f"{highest} floors, at most {FLOORS}; python -m tests.house shows them"


def method(house):
    """2. The method imports numpy, torch, pydensecrf, PIL, itself, errors and runtime.devices."""
    for found in house.imports:
        allowed = {str(found.target), found.other} & METHOD_MAY_IMPORT
        if found.room in METHOD and not allowed and found.target not in sys.stdlib_module_names:
            yield refused(found)


def lab(house):
    """3. The lab knows no photo and no network; they do not know the lab."""
    for found in house.inside:
        wing, other = found.room.split("/")[0], found.other.split("/")[0]
        of_the_lab = wing == "lab" and other not in LAB_MAY_IMPORT
        if of_the_lab or (wing in NEVER_IMPORT_LAB and other == "lab"):
            yield refused(found)


def outside(house):
    """4. mlflow, papermill and ray are each imported in one place."""
    for found in house.imports:
        owners = IMPORTERS.get(found.target, ())
        if owners and not any(found.file.is_relative_to(owner) for owner in owners):
            yield f"{refused(found)}; only {' and '.join(owners)} may"


def sizes(house):
    """5. Few files a folder, few lines a file, READMEs of one screen, no file of odds and ends."""
    folders = Counter(file.parent for file in house.lines if file.stem != "__init__")
    del folders[Path()]  # RANKS lists each file at the top
    for folder, count in folders.items():
        if count > FILES:
            yield f"{folder}/ has {count} files, at most {FILES}"
    for file, count in house.lines.items():
        if count > FILE_LINES:
            yield f"{file} has {count} lines, at most {FILE_LINES}"
        if file.stem in ODDS_AND_ENDS:
            yield f"{file}: a function stands in the file of its concept; name the concept"
    if (total := sum(house.lines.values())) > LINES:
        yield f"the package has {total:,} lines, at most {LINES:,}"
    for folder in WITH_README:
        readme = house.root / folder / "README.md"
        count = len(readme.read_text().splitlines()) if readme.exists() else 0
        if not 0 < count <= README_LINES:
            yield f"{folder}/README.md has {count} lines; write 1 to {README_LINES}"


RULES = (order, method, lab, outside, sizes)


def table(house):
    """The rooms from the top floor down and what they come to, line by line."""
    floors, row = house.floors(), "{:>5}  {:20} {:>5} {:>6}  {:26} {}"
    yield row.format("floor", "room", "files", "lines", "longest file", "imports")
    for name in sorted(house.rooms, key=lambda name: (-floors[name], name)):
        files = {file: count for file, count in house.lines.items() if room(file) == name}
        longest, below = max(files, key=files.get), " ".join(sorted(house.rooms[name]))
        facts = floors[name], name, len(files), sum(files.values())
        yield row.format(*facts, f"{longest.name} {files[longest]}", below).rstrip()
    yield f"\n{len(floors)} rooms on {max(floors.values())} floors, {house.rooms.size()} arrows"
    yield f"{len(list(house.upward()))} upward imports, {len(house.circles)} circles of files"
    yield f"{len(house.lines)} files, {sum(house.lines.values()):,} lines"


def main():
    """Print the table and whatever breaks a rule; exit code 1 where anything does."""
    house = House(PACKAGE)
    faults = {rule.__doc__: list(rule(house)) for rule in RULES}
    print(*table(house), sep="\n")
    for rule, found in faults.items():
        print(f"\n{rule}", *(found or ["ok"]), sep="\n    ")
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main())
