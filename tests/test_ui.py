"""MLflow's pages as people see them: the real server, in a real browser."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import pytest
from playwright.sync_api import expect
from servers import free_port, served

from wsss.cli.project import SCORES
from wsss.lab import results
from wsss.lab.record import delivery, mlflow_pages, mlflow_store, stage_run
from wsss.lab.record.journal import Journal
from wsss.lab.run import notebook as run_notebook

pytestmark = pytest.mark.slow

GALLERY = ("2007_000032", "2007_000039")
MIDDLE = """image => {
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    pen.drawImage(image, 0, 0);
    return [...pen.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data].slice(0, 3);
}"""
REPORT = "| labels | train |\n| --- | --- |\n| CAM + walk | 62.6 |"
CHAIN = {
    "infer_cam": {"cam_miou": 46.5},
    "random_walk": {"walk_miou": 62.6, "labels_miou": 75.5},
}


class Pages(NamedTuple):
    """The server's address and what its store holds: run ids by name."""

    url: str
    experiment: str
    runs: dict


def picture(seed):
    """A photo with a square of one colour, uint8 (60, 80, 3)."""
    image = np.random.default_rng(seed).integers(0, 120, (60, 80, 3), dtype=np.uint8)
    image[15:45, 20:60] = (224, 64, 32) if seed % 2 else (32, 96, 224)
    return image


def executed(folder, beta):
    """A notebook as papermill leaves it."""
    cell = nbformat.v4.new_code_cell(
        "print(score)",
        execution_count=1,
        outputs=[nbformat.v4.new_output("stream", text=f"walked with beta {beta}\n")],
    )
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# 50 · Random walk"), cell]
    )
    nbformat.write(notebook, folder / results.NOTEBOOK)


def record(root, beta):
    """A run of two stages, as the driver records it; ids by name."""
    changes = {} if beta == 8 else {"random_walk.beta": beta}
    title = mlflow_pages.title(changes)
    parent = Journal(root / "outputs" / "runs" / str(beta))
    tags = {"wsss.experiment": "toys", mlflow_pages.NOTE: "\n\n".join(["Toys.", REPORT])}
    name = f"toys · {title}" if title else "toys"
    parent.begin("toys", name, tags=tags)
    folders, scores = {name: parent.folder}, {}
    for number, (name, figures) in enumerate(CHAIN.items()):
        label = f"{name} · {title}" if title and name == "random_walk" else name
        folder = root / "outputs" / name / f"{number}{beta}"
        Journal(folder).begin("toys", label, tags={"wsss.stage": name}, parent=parent.folder)
        folders[label if name == "random_walk" else f"{name} for {beta}"] = folder
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(stage_run.DRIVEN_VARIABLE, "1")
            run = stage_run.StageRun(
                name, {"beta": beta}, inputs={}, folder=folder, data_digest="d1g357"
            )
        run.log_gallery({id: picture(beta + n) for n, id in enumerate(GALLERY)})
        for step in range(5):
            run.log_metrics({"loss": 1 / (step + beta)}, step)
        run.complete({f"{figure}/train": value - beta / 8 for figure, value in figures.items()})
        executed(folder, beta)
        run_notebook.keep_notebook(folder)
        run.journal.end("FINISHED")
        final = results.completion(folder)["metrics"]
        parent.add("stage", name=name, folder=str(folder))
        parent.metrics({f"{name}.{metric}": value for metric, value in final.items()})
        parent.metrics(mlflow_pages.headlines(final, SCORES))
        scores |= mlflow_pages.headlines(final, SCORES)
    text = "Toys, to look at."
    parent.add("experiment", name="toys", description=text, columns=list(scores))
    parent.end("FINISHED")
    with delivery.Uploader() as uploader:
        for folder in folders.values():
            uploader.watch(folder)
    return {label: delivery.run_of(folder) for label, folder in folders.items()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        runs = record(root, 8) | record(root, 4)
        experiment = mlflow_store.experiment_id("toys")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    # its runner of background jobs is nine more processes, for what nobody here asks of it
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with served(command, port, root / "log", ready="/health", environment=quiet) as url:
        yield Pages(url, experiment, runs)


@pytest.fixture(scope="module")
def tab(browser):
    """One tab for all tests, so that the pages' own code is read once."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    # the assistant's panel opens by itself on the first visit, over a third of the page
    context.add_init_script(
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
    )
    yield context.new_page()
    context.close()


@pytest.fixture
def go(pages, tab):
    """Open a page by what stands behind the ``#`` of its address."""

    def go(path, **query):
        query |= {"workflowType": "machine_learning"}  # last: a comparison is read by its place
        given = "&".join(f"{name}={value}" for name, value in query.items())
        tab.goto(f"{pages.url}/#{path}?{given}", wait_until="domcontentloaded")
        return tab

    return go


@pytest.fixture
def keep(tab, tmp_path):
    """Keep a screenshot, in the folder that WSSS_SCREENSHOTS names where it is set."""
    folder = Path(os.environ.get("WSSS_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name: tab.screenshot(path=folder / f"{name}.png")


def test_experiments_are_listed_with_their_description(pages, tab, keep):
    tab.goto(f"{pages.url}/#/experiments", wait_until="domcontentloaded")
    # the pages for training stay once they are chosen; those for GenAI would be next otherwise
    tab.get_by_role("button", name="Model training").click()
    row = tab.get_by_role("row").filter(has_text="toys")
    expect(row).to_contain_text("Toys, to look at.")
    keep("experiments")
    row.get_by_role("link", name="toys").click()
    expect(tab.get_by_role("link", name="toys · beta 4")).to_be_visible()


def test_the_scores_view_shows_headlines_of_the_runs_and_their_stages(pages, go, keep):
    tab = go(f"/experiments/{pages.experiment}/runs", viewStateShareKey="scores")
    expect(tab.get_by_test_id("saved-views-trigger")).to_have_text("Scores")
    headers = tab.locator(".ag-header-cell[col-id^=metrics]")
    expect(headers).to_have_text(["1 CAM mIoU/train", "2 walk mIoU/train", "3 labels mIoU/train"])
    cells = tab.locator("[role=gridcell][col-id^=metrics]")
    expect(cells).to_have_text(["46", "62.1", "75", "45.5", "61.6", "74.5"])
    for name in ("toys", "toys · beta 4"):
        expect(tab.get_by_role("link", name=name, exact=True).last).to_be_visible()
    tab.locator(".ag-pinned-left-cols-container button, .ag-row button").first.click()
    expect(tab.get_by_role("link", name="random_walk · beta 4")).to_be_visible()
    keep("runs")


def test_a_run_tells_its_scores_and_leads_to_its_stages(pages, go, keep):
    tab = go(f"/experiments/{pages.experiment}/runs/{pages.runs['toys · beta 4']}")
    expect(tab.get_by_role("heading", name="toys · beta 4")).to_be_visible()
    expect(tab.get_by_role("cell", name="CAM + walk")).to_be_visible()  # the description's table
    expect(tab.get_by_role("link", name="3 labels mIoU/train")).to_be_visible()
    keep("run")
    tab.get_by_role("link", name="random_walk · beta 4").click()
    expect(tab.get_by_role("heading", name="random_walk · beta 4")).to_be_visible()
    expect(tab.get_by_text("labels_miou/train")).to_be_visible()
    expect(tab.get_by_role("link", name="toys · beta 4")).to_be_visible()  # back to the whole run
    keep("stage")


def test_a_stage_shows_its_gallery(pages, go, keep):
    stage = pages.runs["random_walk · beta 4"]
    tab = go(f"/experiments/{pages.experiment}/runs/{stage}/model-metrics")
    for id, colour in zip(GALLERY, ((32, 96, 224), (224, 64, 32)), strict=True):
        expect(tab.get_by_text(f"gallery/{id}")).to_be_visible()
        image = tab.locator(f"img[src*='{id}']")
        expect(image).to_have_js_property("complete", True)
        np.testing.assert_allclose(image.evaluate(MIDDLE), colour, atol=16)  # it is compressed
    keep("gallery")


def test_the_executed_notebook_is_a_page(pages, go, keep):
    stage = pages.runs["random_walk · beta 4"]
    tab = go(f"/experiments/{pages.experiment}/runs/{stage}/artifacts/notebook/executed.html")
    page = tab.frame_locator("iframe")
    expect(page.get_by_role("heading", name="50 · Random walk")).to_be_visible()
    expect(page.get_by_text("walked with beta 4")).to_be_visible()
    keep("notebook")


def test_two_runs_are_compared(pages, go, keep):
    ids = [pages.runs[name] for name in ("random_walk", "random_walk · beta 4")]
    given = {"runs": json.dumps(ids), "experiments": json.dumps([pages.experiment])}
    tab = go("/compare-runs", **given)
    expect(tab.get_by_role("heading", name="Comparing 2 Runs")).to_be_visible()
    tab.get_by_text("labels_miou/train").scroll_into_view_if_needed()
    for value in ("74.5", "75", "61.6", "62.1"):
        expect(tab.get_by_text(value, exact=True)).to_be_visible()
    keep("comparison")


def test_runs_are_compared_in_charts_with_headlines_first(pages, go, keep):
    tab = go(f"/experiments/{pages.experiment}/runs", compareRunsMode="CHART")
    expect(tab.get_by_text("1 CAM mIoU/train")).to_be_visible()
    expect(tab.locator(".bar .point, .barlayer .point").first).to_be_visible()
    keep("charts")
