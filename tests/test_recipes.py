"""The recipes for clusters are of one piece with the code: what they run is there, and shells,
manifests and SLURM's options are well formed.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from wsss import cli
from wsss.cli.project import PROJECT
from wsss.lab import paths, plan

RECIPES = Path(__file__).parents[1] / "recipes"
SCRIPTS = sorted(RECIPES.glob("*.sbatch"))
MANIFESTS = sorted(RECIPES.glob("*.yaml"))
PAGE = (RECIPES.parent / "docs" / "cluster.md").read_text()


def scripts_of(manifest):
    """What the containers of a manifest hand to a shell."""
    for document in yaml.safe_load_all(manifest.read_text()):
        for container in _containers(document):
            assert container["command"] == ["bash", "-c"]
            yield from container["args"]


def _containers(document):
    template = document.get("spec", {}).get("template", {})
    return template.get("spec", {}).get("containers", [])


def texts(path):
    return [path.read_text()] if path in SCRIPTS else list(scripts_of(path))


def commands(text):
    """The words of each ``wsss`` command of a shell's text, with values for its variables."""
    values = {"$1": "experiments/shapes.yaml", "${@:2}": "--smoke", "$@": "experiments/shapes.yaml"}
    for line in re.findall(r"^\s*(?:exec )?\S*\bwsss run .*", text, re.M):
        words = shlex.split(line)
        words = words[words.index("run") :]
        yield [values.get(word, re.sub(r"\$\{?\w+\}?", "7", word)) for word in words]


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=lambda path: path.name)
def test_shells_can_read_what_a_recipe_runs(path):
    for text in texts(path):
        read = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert read.returncode == 0, read.stderr


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=lambda path: path.name)
def test_what_a_recipe_asks_of_wsss_is_there(path):
    found = [words for text in texts(path) for words in commands(text)]
    assert len(found) == 1
    given = cli.parser().parse_args(found[0])
    assert given.engine == ("ray" if "ray" in path.name else "processes")
    assert (given.address is not None) == ("ray" in path.name)
    experiment = plan.read_experiment(paths.from_root(given.experiment))
    plan.plan(experiment, plan.parse_overrides(given.overrides), project=PROJECT)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_batch_scripts_stop_at_a_fault_and_refuse_a_store_that_is_a_file(path):
    text = path.read_text()
    assert text.startswith("#!/bin/bash\n") and "set -euo pipefail" in text
    directives = re.findall(r"^#SBATCH --([a-z-]+)=?\S*", text, re.M)
    assert len(directives) == text.count("#SBATCH") and "time" in directives
    # without an address of a server, before anything else
    run = subprocess.run(
        ["bash", path, "experiments/shapes.yaml"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert run.returncode != 0 and "MLFLOW_TRACKING_URI" in run.stderr


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_hold_together(path):
    """Names that refer to each other; pods are no root and get no key of the cluster."""
    documents = {each["kind"]: each for each in yaml.safe_load_all(path.read_text())}
    for kind in {"Job", "Deployment"} & set(documents):
        template = documents[kind]["spec"]["template"]
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert "limits" in container["resources"]
    if "Service" in documents:
        selector = documents["Service"]["spec"]["selector"]
        assert documents["Job"]["spec"]["template"]["metadata"]["labels"] == selector
        (worker,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
        assert f"--address {documents['Service']['metadata']['name']}:6379" in worker["args"][0]
        match = documents["Deployment"]["spec"]["selector"]["matchLabels"]
        assert documents["Deployment"]["spec"]["template"]["metadata"]["labels"] == match


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=lambda path: path.name)
def test_ray_asks_for_a_token_and_shows_its_pages_to_its_own_machine(path):
    text = path.read_text()
    if "ray start" in text:
        heads = re.findall(r"ray start (?:[^\n]*\\\n)*[^\n]*", text)
        for command in heads:
            if "--head" in command:
                assert "--dashboard-host 127.0.0.1" in command
        assert re.search(r"RAY_AUTH_MODE(=|, value: )token", text)


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=lambda path: path.name)
def test_the_page_tells_of_each_recipe(path):
    assert f"recipes/{path.name}" in PAGE
