"""MLflow's pages as people see them: the real server, in a real browser."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from playwright.sync_api import expect
from servers import free_port, served

from wsss.cli.project import SCORES
from wsss.lab import paths, plan, results, stages
from wsss.lab.project import Project
from wsss.lab.record import delivery, mlflow_pages, mlflow_store, stage_run
from wsss.lab.run import driver
from wsss.lab.run import notebook as run_notebook

pytestmark = pytest.mark.slow

GALLERY = ("2007_000032", "2007_000039")
MIDDLE = """image => {
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    pen.drawImage(image, 0, 0);
    return [...pen.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data].slice(0, 3);
}"""
# of a picture's rows of pixels: how many there are, and how many are seen without scrolling
VISIBLE = """image => {
    const whole = image.getBoundingClientRect();
    let [top, bottom] = [Math.max(whole.top, 0), Math.min(whole.bottom, innerHeight)];
    for (let around = image.parentElement; around; around = around.parentElement)
        if (getComputedStyle(around).overflowY != "visible") {
            const box = around.getBoundingClientRect();
            [top, bottom] = [Math.max(top, box.top), Math.min(bottom, box.bottom)];
        }
    return [whole.height, Math.max(bottom - top, 0)];
}"""
REPORT = "| labels | train |\n| --- | --- |\n| CAM + walk | 62.6 |"
SCORED = {
    "infer_cam": {"cam_miou": 46.5123456789},
    "random_walk": {"walk_miou": 62.6, "labels_miou": 75.5},
}
CHAIN = ("train_cam", "infer_cam", "random_walk", "report")


class Pages(NamedTuple):
    """The server's address, the store, and what its store holds: run ids by name."""

    url: str
    uri: str
    experiment: str
    runs: dict


def picture(seed):
    """A photo of VOC's size with a square of one colour, uint8 (375, 500, 3)."""
    image = np.random.default_rng(seed).integers(0, 120, (375, 500, 3), dtype=np.uint8)
    image[90:280, 130:380] = (224, 64, 32) if seed % 2 else (32, 96, 224)
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


def work(item, *_, **__):
    """What a stage's notebook does, in place of papermill."""
    beta = int(item.values.get("beta", 0))
    run = stage_run.StageRun(
        item.name, item.values, inputs={}, folder=item.folder, data_digest="d1g357"
    )
    if item.name == "report":
        (run.folder / "report.md").write_text(REPORT)
    elif item.name == "train_cam":
        for step in range(5):
            run.log_metrics({"loss": 1 / (step + 1)}, step)
    else:
        run.log_gallery({id: picture(beta + n) for n, id in enumerate(GALLERY)})
        figure, axes = plt.subplots()
        axes.imshow(picture(beta))
        run.log_figure(figure, "sheet")
        plt.close(figure)
    scores = {
        f"{name}/train": value - beta / 8 for name, value in SCORED.get(item.name, {}).items()
    }
    run.complete(scores | ({"loss": 0.2} if item.name == "train_cam" else {}))
    executed(item.folder, beta)
    return 0


def run(beta, *, until="report"):
    """Run a chain of stages with the parameters of the real notebooks, by the real driver; returns
    their folders by name.
    """
    planned, changes = [], {}
    for name, stage in stages.read_stages().items():
        if name in CHAIN[: CHAIN.index(until) + 1]:
            changes |= {"random_walk.beta": beta} if name == "random_walk" and beta != 8 else {}
            values = stage.resolve({"beta": beta} if name == "random_walk" else {})
            mark = f"{name}{beta if name in CHAIN[2:] else 8}"
            folder = paths.stage_folder(name, mark)
            done = results.completion(folder) is not None
            planned.append(plan.Planned(stage, values, mark, folder, done, dict(changes)))
    experiment = {"name": "toys", "description": "Toys, to look at."}
    project = Project(data_digest=lambda values: "d1g357", scores=SCORES)
    driver.run(experiment, planned, project=project)
    return {item.name: item.folder for item in planned}


def by_hand():
    """A notebook without a driver, with all parameters of the random walk, one of them changed."""
    stage = stages.read_stages()["random_walk"]
    defaults = {name: parameter.default for name, parameter in stage.parameters.items()}
    values, folder = defaults | {"beta": 4.0}, paths.stage_folder("random_walk", "hand")
    run = stage_run.StageRun(
        stage.name, values, inputs={}, folder=folder, data_digest="d1g357", defaults=defaults
    )
    run.log_gallery({id: picture(n) for n, id in enumerate(GALLERY)})
    run.complete({"walk_miou/train": 41.25})
    return delivery.run_of(folder)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("WSSS_OUTPUTS", str(root / "outputs"))
        runs = {"by hand": by_hand()}
        patch.setenv(stage_run.DRIVEN_VARIABLE, "1")
        patch.setattr(run_notebook, "_execute", work)
        run(8), run(4), run(2, until="random_walk")
        experiment = mlflow_store.experiment_id("toys")
        found = mlflow_store.client().search_runs([experiment])
        runs |= {each.info.run_name: each.info.run_id for each in found}
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    # its runner of background jobs is nine more processes, for what nobody here asks of it
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with served(command, port, root / "log", ready="/health", environment=quiet) as url:
        yield Pages(url, uri, experiment, runs)


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
def patch(pages, monkeypatch):
    """The store that the pages show, for what is asked in this process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", pages.uri)
    return monkeypatch


@pytest.fixture
def go(pages, tab):
    """Open a page by what stands behind the ``#`` of its address."""

    def go(path, **query):
        query |= {"workflowType": "machine_learning"}  # last: a comparison is read by its place
        given = "&".join(f"{name}={value}" for name, value in query.items())
        tab.goto("about:blank")  # the pages keep some of what they showed before
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
    expect(tab.get_by_role("link", name="beta 4 · toys")).to_be_visible()


def test_the_address_leads_to_the_scores_of_the_runs_and_their_stages(pages, tab, keep, patch):
    patch.setattr(mlflow_pages, "LOCAL", pages.url)
    tab.goto(mlflow_pages.address("toys"), wait_until="domcontentloaded")
    expect(tab.get_by_test_id("saved-views-trigger")).to_have_text("Scores")
    headers = tab.locator(".ag-header-cell[col-id^=metrics]")
    titles = ["1 CAM mIoU/train", "2 walk mIoU/train", "3 labels mIoU/train", "loss"]
    expect(headers).to_have_text(titles)
    cells = tab.locator("[role=gridcell][col-id^=metrics]")
    texts = [["46.51", "62.35", "75.25", "-"], ["46.51", "62.1", "75", "-"]]
    expect(cells).to_have_text([*texts[0], *texts[1], "46.51", "61.6", "74.5", "-"])
    for name in ("toys", "beta 4 · toys"):
        expect(tab.get_by_role("link", name=name, exact=True).last).to_be_visible()
    tab.locator(".ag-pinned-left-cols-container button, .ag-row button").last.click()
    expect(tab.get_by_role("link", name="infer_cam", exact=True)).to_be_visible()
    found = ["46.51", "61.6", "74.5", "-", *("-" * 4), "-", "61.6", "74.5", "-"]
    expect(cells).to_have_text(
        [*texts[0], *texts[1], *found, "46.51", "-", "-", "-", "-", "-", "-", "0.2"]
    )
    keep("runs")


def test_notebooks_by_hand_have_the_view_too(pages, tab, keep, patch):
    patch.setattr(mlflow_pages, "LOCAL", pages.url)
    tab.goto(mlflow_pages.address(stage_run.BY_HAND), wait_until="domcontentloaded")
    expect(tab.get_by_test_id("saved-views-trigger")).to_have_text("Scores")
    expect(tab.locator("[role=gridcell][col-id^=metrics]")).to_have_text(["41.25"])
    keep("by_hand")


def test_a_run_tells_its_scores_and_leads_to_its_stages(pages, go, keep):
    tab = go(f"/experiments/{pages.experiment}/runs/{pages.runs['beta 4 · toys']}")
    expect(tab.get_by_role("heading", name="beta 4 · toys")).to_be_visible()
    expect(tab.get_by_role("cell", name="CAM + walk")).to_be_visible()  # the description's table
    names = (
        tab.get_by_role("link")
        .filter(has_text="mIoU")
        .or_(tab.get_by_role("link").filter(has_text="infer_cam."))
    )
    expect(names.nth(0)).to_have_text("1 CAM mIoU/train")
    expect(names.nth(1)).to_have_text("2 walk mIoU/train")
    expect(names.nth(2)).to_have_text("3 labels mIoU/train")
    expect(tab.get_by_text("46.5123", exact=True)).to_be_visible()  # and not all digits
    expect(tab.get_by_text("random_walk.beta", exact=True)).to_be_visible()
    keep("run")
    tab.get_by_role("link", name="random_walk · beta 4").click()
    expect(tab.get_by_role("heading", name="random_walk · beta 4")).to_be_visible()
    expect(tab.get_by_text("labels_miou/train")).to_be_visible()
    expect(tab.get_by_role("link", name="beta 4 · toys")).to_be_visible()  # back to the whole run
    keep("stage")


def test_a_run_without_a_report_has_a_table_of_what_is_there(pages, go):
    tab = go(f"/experiments/{pages.experiment}/runs/{pages.runs['beta 2 · toys']}")
    expect(tab.get_by_role("cell", name="walk mIoU 62.4 (train)")).to_be_visible()
    expect(tab.get_by_role("cell", name="loss 0.2")).to_be_visible()


@pytest.mark.parametrize("width", [1280, 1920])
@pytest.mark.parametrize("whose", ["run", "by hand"])
def test_pictures_are_seen(pages, tab, go, keep, whose, width):
    """The stages have as many parameters as real ones, which MLflow would write over them."""
    name = {"run": "beta 4 · toys", "by hand": "by hand"}[whose]
    tab.set_viewport_size({"width": width, "height": 900})
    try:
        go(f"/experiments/{pages.experiment}/runs/{pages.runs[name]}/model-metrics")
        for id, colour in zip(GALLERY, ((32, 96, 224), (224, 64, 32)), strict=True):
            key = f"{id}/50_random_walk" if whose == "run" else f"gallery/{id}"
            title = tab.get_by_text(f"{stage_run.FIRST}{key}", exact=True)
            title.evaluate("title => title.scrollIntoView()")
            image = tab.locator(f"img[src*='{key.replace('/', '~')}']")
            expect(image).to_have_js_property("complete", True)
            np.testing.assert_allclose(image.evaluate(MIDDLE), colour, atol=16)  # compressed
            height, seen = image.evaluate(VISIBLE)
            assert height > 150 and seen > 0.85 * height, (id, height, seen)
        keep(f"gallery_{whose}_{width}")
    finally:
        tab.set_viewport_size({"width": 1400, "height": 900})


def test_a_photo_is_two_clicks_from_the_scores_and_shows_all_stages(pages, tab, keep, patch):
    patch.setattr(mlflow_pages, "LOCAL", pages.url)
    tab.goto(mlflow_pages.address("toys"), wait_until="domcontentloaded")
    tab.get_by_role("link", name="beta 4 · toys", exact=True).click()
    tab.get_by_role("tab", name="Model metrics").click()
    for stage in ("20_infer_cam", "50_random_walk"):  # the maps are those of the run before
        image = tab.locator(f"img[src*='{GALLERY[0]}'][src*='{stage}']")
        expect(image).to_be_in_viewport()
        height, seen = image.evaluate(VISIBLE)
        assert height > 150 and seen > 0.85 * height
    keep("photo")


def test_a_run_holds_the_report_and_its_stages_sheets(pages, go, keep):
    stage = pages.runs["beta 4 · toys"]
    tab = go(f"/experiments/{pages.experiment}/runs/{stage}/artifacts/report.md")
    expect(tab.get_by_text("CAM + walk").first).to_be_visible()
    tab = go(
        f"/experiments/{pages.experiment}/runs/{stage}/artifacts/figures/50_random_walk/sheet.png"
    )
    tab.wait_for_function(
        "() => [...document.images].some(image => image.naturalWidth > 100 && "
        "image.checkVisibility() && image.getBoundingClientRect().height > 100)"
    )
    keep("artifacts")


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
        expect(tab.get_by_text(value, exact=True).first).to_be_visible()
    keep("comparison")


def test_whole_runs_are_compared_by_what_was_changed(pages, go, keep):
    ids = [pages.runs[name] for name in ("beta 2 · toys", "beta 4 · toys")]
    given = {"runs": json.dumps(ids), "experiments": json.dumps([pages.experiment])}
    tab = go("/compare-runs", **given)
    expect(tab.get_by_role("heading", name="Comparing 2 Runs")).to_be_visible()
    expect(tab.get_by_role("row", name="random_walk.beta 2 4")).to_be_visible()
    for value in ("62.35", "62.1"):
        expect(tab.get_by_text(value, exact=True).first).to_be_visible()
    keep("whole_comparison")


def test_a_photos_labels_by_several_runs_are_in_one_card(pages, go, keep):
    tab = go(f"/experiments/{pages.experiment}/runs", compareRunsMode="CHART")
    expect(tab.locator(f"img[src*='{GALLERY[0]}~50_random_walk']")).to_have_count(3)
    keep("charts")
