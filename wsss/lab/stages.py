"""A stage: a notebook, its parameters, and a fingerprint of all that its results depend on.

Each line of the cell tagged ``parameters`` is ``name: type = default  # what it is``, and may end
with the values that it takes: an interval such as ``[0, inf)`` or choices such as ``{a, b}``. A
parameter called ``<stage>_run`` is the folder of the results of a stage that this one builds on.

A data digest is two, joined by a hyphen: of what all stages depend on, and of what only scores do.
"""

import ast
import hashlib
import json
import math
import re
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wsss.errors import InputError, did_you_mean, reason
from wsss.io import contents
from wsss.io.text import read_text
from wsss.lab import code, paths

MOST_BYTES = 2**28  # of a notebook, which may hold its pictures
NONE = "none"  # value of a ``<stage>_run`` parameter: the stage does without
TYPES = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,)}
TYPES |= {f"list[{name}]": TYPES[name] for name in ("int", "float", "str")}
NUMBER = r"-?(?:\d[\d.e-]*|inf)"
VALUES = re.compile(rf"(?:\{{[^{{}}]+\}}|[\[(]{NUMBER}, {NUMBER}[\])])$")  # choices or an interval


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    type: str  # a key of TYPES
    default: object
    comment: str

    def check(self, value: Any, where: str) -> Any:
        """The value in the parameter's type; a whole number may stand for a float. InputError for
        another type, NaN, infinity, a value outside the interval or choices that end the comment,
        and an empty list, unless the default is one.
        """
        kinds, several = TYPES[self.type], self.type.startswith("list")
        items = value if several else [value]
        if not (isinstance(items, list | tuple) and all(_is(item, kinds) for item in items)):
            expected = f"{self.type} but got {value!r} ({type(value).__name__})"
        elif not items and self.default:
            expected = "at least one value but got an empty list"
        elif wrong := [item for item in items if not self._takes(item)]:
            values = f"a value in {self.values}" if self.values else "a finite number"
            close = did_you_mean(wrong[0], self.values[1:-1].split(", "))
            expected = f"{values} but got {wrong[0]!r}{close}"
        else:
            return list(items) if several else float(value) if self.type == "float" else value
        raise InputError(f"{where}: expected {expected}; {self.name}: {self.comment}")

    @property
    def values(self) -> str:
        """The interval or the choices at the end of the comment; empty where there are none."""
        found = VALUES.search(self.comment)
        return found[0] if found else ""

    def _takes(self, item):
        if isinstance(item, float) and not math.isfinite(item):
            return False
        values = self.values
        if not values:
            return True
        parts = values[1:-1].split(", ")
        if values[0] == "{":
            return str(item) in parts
        low, high = map(float, parts)
        above = item >= low if values[0] == "[" else item > low
        return above and (item <= high if values[-1] == "]" else item < high)


def _is(value, kinds):
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


@dataclass(frozen=True)
class Stage:
    """A notebook of the chain, called by the part of its name after the number."""

    name: str
    path: Path

    @cached_property
    def _cells(self):
        """The source of the parameters cell, and those of the other code cells."""
        text, tagged, others = read_text(self.path, "a notebook", most=MOST_BYTES), [], []
        if re.search(r'^[\s"]*<{7} ', text, re.MULTILINE):
            raise InputError(f"{self.path}: has conflict markers of git; finish the merge")
        try:
            content = json.loads(text)
            cells, _ = content["cells"], content["metadata"]
            for cell in cells:
                if cell["cell_type"] == "code":
                    kind = tagged if "parameters" in cell["metadata"].get("tags", ()) else others
                    kind.append("".join(cell["source"]))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            met = f"but met {type(error).__name__}: {reason(error)}"
            fix = "take it from git again, or open and save it in JupyterLab"
            raise InputError(
                f"{self.path}: expected a notebook of nbformat 4 {met}; {fix}"
            ) from None
        if len(tagged) != 1:
            expected = "expected one cell tagged 'parameters'"
            raise InputError(f"{self.path}: {expected}, found {len(tagged)}; tag it")
        return tagged[0], others

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Name to ``Parameter``, in the cell's order."""
        found, source = {}, self._cells[0]
        lines, line = source.splitlines(), 1
        try:
            for node in code.parse(source).body:
                line = node.lineno
                match node:
                    case ast.AnnAssign(ast.Name(name), annotation, ast.expr() as value):
                        kind, default = ast.unparse(annotation), ast.literal_eval(value)
                    case _:
                        raise ValueError("not a parameter")
                if kind not in TYPES or name in found:
                    raise ValueError("another type, or a name that is there already")
                comment = lines[(node.end_lineno or 1) - 1][node.end_col_offset or 0 :]
                found[name] = Parameter(name, kind, default, comment.strip().lstrip("# "))
        except (ValueError, TypeError, SyntaxError) as error:
            line = (isinstance(error, SyntaxError) and error.lineno) or line
            raise InputError(
                f"{self.path}: parameters cell, line {line}: expected 'name: type = default  # "
                f"comment', each name once, with a literal default and a type of "
                f"{', '.join(TYPES)}; got {''.join(lines[line - 1 : line])!r}"
            ) from None
        for name, parameter in found.items():
            parameter.check(parameter.default, f"{self.path}: {name}")
        return found

    def resolve(self, given: dict) -> dict:
        """Every parameter's value: the given one, checked, or the default; InputError for a name
        that the notebook does not have.
        """
        renamed = dict(_settings("renamed"))
        for name in sorted(given.keys() - self.parameters.keys()):
            if renamed.get(name) in self.parameters:
                raise InputError(f"{self.name}.{name}: is called {renamed[name]} now; rename it")
            known = f"{self.path.name} has: {', '.join(self.parameters)}"
            close = did_you_mean(name, self.parameters)
            raise InputError(f"{self.name}.{name}: no such parameter{close}; {known}")
        return {
            name: parameter.check(given.get(name, parameter.default), f"{self.name}.{name}")
            for name, parameter in self.parameters.items()
        }

    @cached_property
    def code(self) -> dict[str, str]:
        """Digests of the code that can change the results: ``cells`` and files of the package."""
        cells = self._cells[1]
        return {"cells": code.digest(cells)} | code.reached(cells, paths.project_root())

    def fingerprint(self, question: str) -> str:
        """Twelve hexadecimal digits of a ``question`` and the code that answers it."""
        return _digest([question, self.code])

    def question(
        self,
        values: dict,
        upstream: dict[str, str],
        *,
        data_digest: str,
        without: Container[str] = (),
    ) -> str:
        """Twelve hexadecimal digits of all that the results depend on besides the stage's code: the
        values of all parameters but those ``without``, files and folders by their contents, and
        ``upstream``, name to fingerprint of the stages whose results are used.
        """
        unseen = {*_settings("unseen"), *(f"{name}_run" for name in upstream)}
        counted = {name: value for name, value in values.items() if name not in unseen}
        counted |= self.contents(values)
        counted = {name: value for name, value in counted.items() if name not in without}
        parts = {"stage": self.name, "values": counted, "upstream": upstream}
        return _digest(parts | {"data": self.data_of(data_digest)})

    def contents(self, values: dict) -> dict[str, Any]:
        """Parameter to digest of the files, and ``contents.manifest`` of the folders, that values
        name: those of ``..._folder`` and of the project's ``files``.
        """
        files, found = _settings("files"), {}
        for name, value in values.items():
            if value and name.endswith("_folder"):
                folder = paths.from_root(value)
                if not folder.is_dir():
                    raise InputError(f"{folder}: expected a folder but there is none; fix it")
                found[name] = contents.manifest(contents.of_folder(folder))
            elif value and name in files and paths.from_root(value).is_file():
                found[name] = contents.digest(paths.from_root(value))
        return found

    @property
    def portable(self) -> bool:
        """Whether the results do not depend on what only scores do, and fit other data."""
        return self.name in _settings("portable")

    def data_of(self, data_digest: str) -> str:
        """What of a data digest the results depend on."""
        return data_digest.partition("-")[0] if self.portable else data_digest


def same_data(digest: str, other: str) -> bool:
    """Whether two digests, perhaps of ``Stage.data_of``, can be of the same data."""
    return digest.startswith(other) or other.startswith(digest)


def _settings(key):
    return code.settings(paths.project_root()).get(key, ())


def _digest(state):
    return hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=6).hexdigest()


def read_stages() -> dict[str, Stage]:
    """Name to ``Stage`` of the numbered notebooks, in their order."""
    found = sorted((paths.project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.stem[3:]: Stage(path.stem[3:], path) for path in found}


def upstream_of(stage: Stage, names: Container[str], *, values: dict) -> dict[str, str]:
    """Parameter to stage of the stages whose results a stage takes, with these values."""
    return {
        name: name[:-4]
        for name in stage.parameters
        if name.endswith("_run") and name[:-4] in names and values[name] != NONE
    }
