"""What a project hands to the lab, which knows neither its data nor its networks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wsss.lab import paths

Say = Callable[[str], object]  # receives a message, such as ``print``


@dataclass(frozen=True)
class Project:
    """Hooks of a project; all but the first are optional.

    Attributes:
        data_digest: a stage's parameter values to the digest of the data that they name.
        find_run: what a person gave as a ``<stage>_run`` parameter (by default a folder), the
            stage's name and ``data_digest`` for "the latest"; returns the run's folder.
        check_values: the stages still to run; raises InputError for values that do not fit each
            other or the data, or a missing file.
        check_room: the planned stages and the outputs folder; raises InputError if the disk is too
            small for them.
        register_model: a name, the file that describes a model, and ``run_id`` of an MLflow run;
            returns the registered ``NAME/VERSION``.
        compare_files: two folders of one stage's results; returns a line per difference between
            what metrics and manifests do not hold, such as weights.
        scores: a final metric's name, without its list, to ``(stage, title)``: the scores that
            sweeps compare and MLflow shows first, in the chain's order. An empty title is only
            compared.
        one_pass: a stage's name, its values and the names of the swept parameters; returns a
            function that scores many settings at once (a list of values to a list of metrics), a
            hint on how to make that possible, or None.
        draw_sweep: a table of means, the swept parameters' names and the metric to draw; returns a
            matplotlib figure.
    """

    data_digest: Callable[[dict], str]
    find_run: Callable[..., Path] = lambda given, stage, *, data_digest: paths.from_root(given)
    check_values: Callable[[list], None] = lambda planned: None
    check_room: Callable[[list, Path], None] = lambda planned, folder: None
    register_model: Callable[..., str] | None = None
    compare_files: Callable[[Path, Path], list[str]] = lambda folder, other: []
    scores: dict[str, tuple[str, str]] = field(default_factory=dict)
    one_pass: Callable[[str, dict, set], Callable | str | None] = lambda *_: None
    draw_sweep: Callable | None = None
