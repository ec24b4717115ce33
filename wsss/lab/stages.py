"""What a stage is: a notebook, the parameters in its first code cell, and a fingerprint of all it
depends on.

The cell tagged ``parameters`` is the schema. Each line is ``name: type = default  # what it is``; a
parameter called ``<stage>_run`` is the folder of that stage's results, and makes the notebook
depend on it.
"""

import ast
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wsss.errors import InputError
from wsss.io import atomic
from wsss.lab import code, paths

TYPES = {
    "int": int,
    "float": (float, int),
    "str": str,
    "bool": bool,
    "list[int]": int,
    "list[float]": (float, int),
    "list[str]": str,
}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    type: str  # a key of TYPES
    default: object
    comment: str

    def check(self, value, where):
        """The value in the parameter's type (a whole number may stand for a float); InputError if
        it does not fit.
        """
        kind = TYPES[self.type]
        if self.type.startswith("list"):
            good = isinstance(value, list | tuple) and all(_is(item, kind) for item in value)
            return list(value) if good else self._refuse(value, where)
        if not _is(value, kind):
            self._refuse(value, where)
        return float(value) if self.type == "float" else value

    def _refuse(self, value, where):
        raise InputError(
            f"{where}: expected {self.type} but got {value!r} ({type(value).__name__}); "
            f"{self.name}: {self.comment}"
        )


def _is(value, kind):
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


@dataclass(frozen=True)
class Stage:
    """A notebook of the chain, called by the part of its name after the number."""

    name: str
    path: Path

    @cached_property
    def _cells(self):
        notebook = json.loads(self.path.read_text())
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", ())]
        if len(tagged) != 1:
            raise InputError(
                f"{self.path}: expected one cell tagged 'parameters', found {len(tagged)}; tag it"
            )
        return "".join(tagged[0]["source"]), [
            "".join(c["source"]) for c in cells if c is not tagged[0]
        ]

    @cached_property
    def parameters(self):
        """Name to ``Parameter``, in the cell's order."""
        source, _ = self._cells
        lines = source.splitlines()
        found = {}
        for node in ast.parse(source).body:
            if not isinstance(node, ast.AnnAssign) or ast.unparse(node.annotation) not in TYPES:
                raise InputError(
                    f"{self.path}: parameters cell, line {node.lineno}: expected 'name: type = "
                    "default  # comment' "
                    f"with a type of {', '.join(TYPES)}; got {lines[node.lineno - 1]!r}"
                )
            comment = lines[node.end_lineno - 1][node.end_col_offset :].strip().lstrip("# ")
            name = node.target.id
            found[name] = Parameter(
                name,
                ast.unparse(node.annotation),
                ast.literal_eval(node.value),
                comment,
            )
        return found

    def resolve(self, given):
        """Every parameter's value: the given one, checked, or the default.

        Raises:
            InputError: a name that the notebook does not have, or a value of another type.
        """
        renamed = code.settings(paths.project_root()).get("renamed", {})
        for name in given:
            if name not in self.parameters and renamed.get(name) in self.parameters:
                raise InputError(f"{self.name}.{name}: is called {renamed[name]} now; rename it")
            if name not in self.parameters:
                raise InputError(
                    f"{self.name}.{name}: no such parameter; {self.path.name} has: "
                    f"{', '.join(self.parameters)}"
                )
        return {
            name: parameter.check(given.get(name, parameter.default), f"{self.name}.{name}")
            for name, parameter in self.parameters.items()
        }

    @cached_property
    def code(self):
        """What of the code can change the results: ``cells`` of the notebook and files of the
        package, each with a digest (see ``code``).
        """
        _, cells = self._cells
        files = code.reached(cells, paths.project_root())
        return {"cells": code.digest(cells)} | files

    def fingerprint(self, values, upstream, data_digest):
        """Twelve hexadecimal digits that change whenever the results may: with the question, and
        with the code that answers it. Arguments as for ``question``.
        """
        return _digest([self.question(values, upstream, data_digest), self.code])

    def question(self, values, upstream, data_digest):
        """Twelve hexadecimal digits of all that the results depend on besides the stage's code.

        Args:
            values: of every parameter; the folders of upstream stages are left out, and of a
                parameter called ``..._folder`` the contents count.
            upstream: name to fingerprint of the stages whose results are used.
            data_digest: of the data.
        """
        state = {
            "stage": self.name,
            "values": {
                name: _contents(value) if name.endswith("_folder") and value else value
                for name, value in values.items()
                if name not in UNSEEN and not (name.endswith("_run") and name[:-4] in upstream)
            },
            "upstream": upstream,
            "data": data_digest,
        }
        return _digest(state)


def _digest(state):
    return hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=6).hexdigest()


def _contents(folder):
    """A digest of a folder's files by name and contents."""
    folder = paths.from_root(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder but there is none; check the path")
    return atomic.manifest(folder)


def read_stages():
    """Name to ``Stage`` of the numbered notebooks, in their order."""
    found = sorted((paths.project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.stem[3:]: Stage(path.stem[3:], path) for path in found}


NONE = "none"  # of a ``<stage>_run`` parameter: the stage does without


def upstream_of(stage, names, values):
    """Parameter to stage of the stages whose results a stage takes, with these parameters."""
    return {
        name: name[:-4]
        for name in stage.parameters
        if name.endswith("_run") and name[:-4] in names and values[name] != NONE
    }


UNSEEN = ("checkpoint_minutes",)  # parameters that no result can show
