"""What a stage is: a notebook, the parameters in its first code cell, and a fingerprint of all it
depends on.

The cell tagged ``parameters`` is the schema. Each line is ``name: type = default  # what it is``; a
parameter called ``<stage>_run`` is the folder of that stage's results, and makes the notebook
depend on it.
"""

import ast
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import wsss
from wsss.errors import InputError
from wsss.io import artifacts
from wsss.io.text import read_text
from wsss.lab.record import journal

TYPES = {
    "int": int,
    "float": (float, int),
    "str": str,
    "bool": bool,
    "list[int]": int,
    "list[float]": (float, int),
    "list[str]": str,
}


def project_root():
    """The repository: the folder with ``notebooks/`` that holds the package, or one at or above
    the current folder.
    """
    here = Path.cwd()
    for folder in (Path(wsss.__file__).parents[1], here, *here.parents):
        if (folder / "notebooks").is_dir():
            return folder
    raise InputError(f"{here}: no notebooks/ here or above; run wsss inside its repository")


def from_root(path):
    """A path given in a parameter: as it is if absolute, else from the repository's root."""
    return project_root() / path


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
        for name in given:
            if name not in self.parameters:
                raise InputError(
                    f"{self.name}.{name}: no such parameter; {self.path.name} has: "
                    f"{', '.join(self.parameters)}"
                )
        return {
            name: parameter.check(given.get(name, parameter.default), f"{self.name}.{name}")
            for name, parameter in self.parameters.items()
        }

    def fingerprint(self, values, upstream, data_digest):
        """Twelve hexadecimal digits that change whenever the results may.

        Args:
            values: of every parameter; the folders of upstream stages are left out, and of a
                parameter called ``..._folder`` the contents count.
            upstream: name to fingerprint of the stages whose results are used.
            data_digest: of the dataset.
        """
        state = {
            "code": self._cells[1],
            "values": {
                name: _contents(value) if name.endswith("_folder") and value else value
                for name, value in values.items()
                if name not in UNSEEN and not (name.endswith("_run") and name[:-4] in upstream)
            },
            "upstream": upstream,
            "data": data_digest,
        }
        return hashlib.blake2b(
            json.dumps(state, sort_keys=True).encode(), digest_size=6
        ).hexdigest()


def _contents(folder):
    """A digest of a folder's files by name and contents."""
    folder = from_root(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder but there is none; check the path")
    return artifacts.manifest(folder)


def read_stages():
    """Name to ``Stage`` of the numbered notebooks, in their order."""
    found = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.stem[3:]: Stage(path.stem[3:], path) for path in found}


NONE = "none"  # of a ``<stage>_run`` parameter: the stage does without


def upstream_of(stage, names, values):
    """Parameter to stage of the stages whose results a stage takes, with these parameters."""
    return {
        name: name[:-4]
        for name in stage.parameters
        if name.endswith("_run") and name[:-4] in names and values[name] != NONE
    }


def outputs_root():
    """Where stages keep their files: ``outputs/`` in the repository, or the folder named by
    WSSS_OUTPUTS.
    """
    return Path(os.environ.get("WSSS_OUTPUTS") or project_root() / "outputs")


def stage_folder(name, fingerprint):
    return outputs_root() / name / fingerprint


COMPLETE = "complete.json"
NOTEBOOK = "executed.ipynb"
# what the driver and the record keep beside a stage's results, some of it after its end
BESIDE = (
    *(COMPLETE, journal.NAME, journal.DELIVERED, "run.json", "parameters.json"),
    *("papermill.log", NOTEBOOK, "executed.html"),
)
RECORD = {  # what a stage writes when it completes, with the types
    "stage": str,
    "fingerprint": str,
    "parameters": dict,
    "inputs": dict,
    "data_digest": str,
    "metrics": dict,
    "ended": float | int,
}


def completion(folder):
    """What a stage wrote when it completed, or None where it did not; ``damage`` tells where that
    is cut short or is something else.
    """
    try:
        record = json.loads(read_text(Path(folder) / COMPLETE, "a stage's record"))
    except (OSError, ValueError, RecursionError):  # also an InputError
        return None
    fits = isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in RECORD.items()
    )
    # inputs name folders
    fits = fits and all(
        isinstance(name, str) and "/" not in name for name in record["inputs"].values()
    )
    return record if fits else None


def inventory(folder):
    """``{"files": count, "digest": of names and sizes}`` of a stage's results in its folder."""
    state, count = hashlib.blake2b(digest_size=8), 0
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith(".") and name not in BESIDE:
            state.update(f"{name} {path.stat().st_size}\n".encode())
            count += 1
    return {"files": count, "digest": state.hexdigest()}


def damage(folder):
    """What keeps the results of a stage that had completed from being used, or nothing."""
    if not (Path(folder) / COMPLETE).exists():
        return ""
    record = completion(folder)
    if record is None:
        return f"its {COMPLETE} is cut short, or not what a stage writes"
    if "inventory" in record and record["inventory"] != inventory(folder):
        return "files of it are missing, cut short or of other sizes than when it completed"
    return _damaged_contents(Path(folder))


CHECKED = ".checked"  # beside a stage's results: which state of them had sound contents


def _damaged_contents(folder):
    """The first file whose checksums do not fit its contents, in words, or nothing; looked for once
    for each state of the folder, since that reads all of it.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in artifacts.CHECKSUMMED]
    state = hashlib.blake2b(digest_size=8)
    for path in files:
        about = path.stat()
        state.update(f"{path.relative_to(folder)} {about.st_size} {about.st_mtime_ns}".encode())
    marker = folder / CHECKED
    if marker.exists() and marker.read_text() == state.hexdigest():
        return ""
    for path in files:
        if not artifacts.is_whole(path):
            return f"{path.relative_to(folder)} of it is damaged"
    with suppress(OSError):  # a folder that is not ours to write
        marker.write_text(state.hexdigest())
    return ""


def completed_in(folder, where):
    """What the completed stage in a folder wrote.

    Args:
        where: the parameter that names the folder.

    Raises:
        InputError: none there, or its files are not those that it completed with.
    """
    record, fault = completion(folder), damage(folder)
    if record is None or fault:
        raise InputError(
            f"{where}: {folder} holds no completed stage{fault and f' ({fault})'}; run it first"
        )
    return record


def last_ended(name):
    """When the newest completed run of a stage ended, in seconds; 0 without any."""
    folder = outputs_root() / name
    records = (completion(marker.parent) for marker in folder.glob(f"*/{COMPLETE}"))
    return max((record["ended"] for record in records if record), default=0.0)


def upstream(record, name):
    """What the stage called ``name`` wrote that a completed stage builds on, or None where its
    folder is gone or elsewhere, or where it does without that stage.
    """
    fingerprint = record["inputs"].get(name)
    return completion(stage_folder(name, fingerprint)) if fingerprint else None


UNSEEN = ("checkpoint_minutes",)  # parameters that no result can show
# those that make no other experiment, though the last bits of sums, or other draws of dropout,
# might show them
IRRELEVANT = (*UNSEEN, "workers", "processes", "train_processes")


def _family(record):
    """What a completed stage and those it builds on have in common with runs of other seeds, and
    the seeds.
    """
    kept, seeds = {}, []
    for name, value in record["parameters"].items():
        if name == "seed":
            seeds.append(value)
        elif name not in IRRELEVANT and name[:-4] not in record["inputs"]:
            kept[name] = value
    families = {}
    for name, fingerprint in sorted(record["inputs"].items()):
        above = upstream(record, name)
        families[name], more = _family(above) if above else (fingerprint, [])
        seeds += more
    return [record["stage"], kept, record["data_digest"], families], seeds


def siblings(folder):
    """The completed runs of a stage that differ from one of them only in the seeds, of this stage
    and of those before it: their folders, by seeds, the newest of each.
    """
    folder = Path(folder)
    family, _ = _family(completion(folder))
    found = {}
    for marker in sorted(folder.parent.glob("*/complete.json")):
        record = completion(marker.parent)
        theirs, seeds = _family(record) if record else (None, None)
        if theirs == family:
            mine = found.get(tuple(seeds))
            if mine is None or record["ended"] > mine[0]:
                found[tuple(seeds)] = record["ended"], marker.parent
    return [found[seeds][1] for seeds in sorted(found)]


def latest(name, dataset):
    """The folder of the stage's newest completed run on a dataset, by name."""
    best = None
    for marker in (outputs_root() / name).glob("*/complete.json"):
        record = completion(marker.parent)
        if (
            record
            and record["parameters"].get("dataset") == dataset
            and (best is None or record["ended"] > best[0])
        ):
            best = record["ended"], marker.parent
    if best is None:
        raise InputError(
            f"{name}: no completed run on dataset '{dataset}' under {outputs_root()}; run the "
            f"notebook of {name} first"
        )
    return best[1]
