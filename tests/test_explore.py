"""The explore notebook: what it computes against slow references, its panel, and the notebook
headless and in a real JupyterLab.
"""

import io
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from wsss import datasets, models, synthesize, viz
from wsss.affinity import pair_distance
from wsss.crf import CrfParams, DenseCRF
from wsss.errors import InputError
from wsss.explore import pictures
from wsss.explore import scene as explore_scene
from wsss.explore.one_cell import neighbourhood, walker_ends
from wsss.explore.panel import TITLES, Panel
from wsss.lab import stages
from wsss.models.ready import ready
from wsss.synthesis import Walk

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "explore.ipynb"
WALK = Walk(background_alpha=4.0, beta=4.0, steps=4, radius=3, crf=CrfParams(bilateral_sxy=10))


def dense(affinity, beta, radius):
    """``W^(beta)``, float64 (N, N), from the definition: every pair of cells is looked at."""
    _, height, width = affinity.shape
    order = [
        (dy, dx)
        for dy in range(radius)
        for dx in range(-radius + 1, radius)
        if dy * dy + dx * dx < radius * radius and (dy > 0 or dx > 0)
    ]
    cells = [(y, x) for y in range(height) for x in range(width)]
    weights = np.eye(len(cells))
    for i, (y, x) in enumerate(cells):
        for j, (v, u) in enumerate(cells):
            if (v - y, u - x) in order:
                value = float(affinity[order.index((v - y, u - x)), y, x]) ** beta
                weights[i, j] = weights[j, i] = value
    return weights


def random_affinity(size, radius, seed=0):
    count = {2: 2, 3: 12, 5: 34}[radius]
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.2, 1, (count, *size))).float()


@pytest.mark.parametrize("radius", [3, 5])
@pytest.mark.parametrize("cell", [(0, 0), (3, 2), (5, 6)])
def test_a_walker_ends_where_the_matrix_sends_it(cell, radius):
    affinity = random_affinity((6, 7), radius)
    weights = dense(affinity, 3.0, radius)
    transition = weights / weights.sum(1, keepdims=True)
    for steps in (0, 1, 2, 40):
        row = np.linalg.matrix_power(transition, steps)[cell[0] * 7 + cell[1]]
        found = walker_ends(affinity, cell, beta=3.0, steps=steps, radius=radius)
        np.testing.assert_allclose(found.numpy().ravel(), row, rtol=1e-4, atol=2e-6)
    several = walker_ends(affinity, cell, beta=3.0, steps=(1, 40), radius=radius)
    assert several.shape == (2, 6, 7)
    np.testing.assert_allclose(several.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(several[1].numpy().ravel(), row, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("cell", [(0, 0), (3, 2), (4, 6)])
def test_neighbourhood_is_a_row_of_the_matrix(cell):
    affinity = random_affinity((5, 7), 3)
    around = neighbourhood(affinity, cell, radius=3)
    weights = dense(affinity, 1.0, 3)[cell[0] * 7 + cell[1]].reshape(5, 7)
    assert around.shape == (5, 5)
    for row in range(5):
        for column in range(5):
            dy, dx = row - 2, column - 2
            y, x = cell[0] + dy, cell[1] + dx
            near = dy * dy + dx * dx < 9 and 0 <= y < 5 and 0 <= x < 7
            expected = weights[y, x] if near else np.nan
            np.testing.assert_allclose(around[row, column], expected, rtol=1e-6)


def make_scene(seed=0, size=(60, 83), preview_side=256, mask=True):
    """Two discs on a noisy ground, maps brightest beside the discs' middles, affinities of
    colour.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    discs = [(20 + 3 * seed, 22, 14), (36, 60, 17)]
    image = rng.uniform(60, 100, (*size, 3))
    labels = np.zeros(size, np.uint8)
    cams = np.zeros((2, -(-size[0] // 4), -(-size[1] // 4)), np.float32)
    for k, (y, x, radius) in enumerate(discs):
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        image[inside, k] += 120
        labels[inside] = 2 + k
        near = np.exp(-((rows - y + 4) ** 2 + (columns - x) ** 2) / (radius**2))
        cams[k] = near[::4, ::4]
    image = image.astype(np.uint8)
    grid = torch.from_numpy(image[::8, ::8].astype(np.float32) / 64).permute(2, 0, 1)
    affinity = torch.exp(-pair_distance(grid[None], radius=3)[0])
    return explore_scene.Scene(
        image,
        [2, 3],
        cams=cams,
        affinity=affinity,
        radius=3,
        names=("tree", "house", "cat"),
        mask=labels if mask else None,
        preview_side=preview_side,
    )


def test_a_scene_s_labels_are_the_chain_s(tiny_shapes):
    """Those of ``synthesize``, with the CRF at full size."""
    data = datasets.open("shapes", tiny_shapes)
    torch.manual_seed(1)
    networks = explore_scene.Networks(
        ready(models.build_cam("small", 5)),
        ready(models.build_affinity("small", reduced=(8, 8, 8))),
        {},
    )
    walk = Walk(background_alpha=2.0, steps=1, crf_steps=2)
    id = data.ids("train")[0]
    scene = explore_scene.open_scene(id, data=data, networks=networks, walk=walk, scales=(1.0, 0.5))
    found = scene.crf_labels(scene.scores(walk), walk)
    image, classes = data.image(id), data.labels(id)
    expected = synthesize(image, classes, *networks[:2], scales=(1.0, 0.5), walk=walk)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scene.mask, data.mask(id))


def test_labels_of_the_maps_alone():
    scene = make_scene()
    labels = scene.cam_labels(0.4)
    assert labels.shape == scene.size and labels.dtype == np.uint8
    for (row, column), value in np.ndenumerate(scene.cams.argmax(0)):  # cells stand on pixels
        largest = scene.cams[:, row, column].max()
        assert labels[4 * row, 4 * column] == (value + 2 if largest > 0.4 else 0)
    assert len(np.unique(labels)) == 3


def test_the_crf_s_preview_is_nearly_what_it_previews(monkeypatch):
    built = []

    def lattice(image, params):
        built.append((image.shape, params))
        return DenseCRF(image, params)

    monkeypatch.setattr(explore_scene, "DenseCRF", lattice)
    scene = make_scene(size=(120, 166), preview_side=83)
    assert scene.small.shape == (60, 83, 3)
    scores = scene.scores(WALK)
    whole = scene.crf_labels(scores, WALK)
    preview = scene.crf_labels(scores, WALK, preview=True)
    np.testing.assert_array_equal(whole, scene.mask)  # the discs' colours are plain enough
    assert (preview != whole).mean() < 0.3 * (scene.plain_labels(scores) != whole).mean()
    narrow = CrfParams(gaussian_sxy=1.5, bilateral_sxy=5)
    assert built == [((120, 166, 3), WALK.crf), ((60, 83, 3), narrow)]
    scene.crf_labels(scores, WALK, preview=True)
    assert len(built) == 2  # a photo's lattice is built once
    small = make_scene(preview_side=83)
    same = [small.crf_labels(small.scores(WALK), WALK, preview=each) for each in (False, True)]
    np.testing.assert_array_equal(*same)


def test_iou_is_of_the_classes_that_mask_or_labels_show():
    scene = make_scene()
    labels = scene.mask.copy()
    labels[:, :40] = 0  # the house is missed
    scene.mask[0] = 255
    counted = scene.mask != 255
    found = scene.iou(labels)
    assert found.keys() == {"background", "house", "cat"}
    for name, value in found.items():
        k = {"background": 0, "house": 2, "cat": 3}[name]
        mine, theirs = (labels == k) & counted, (scene.mask == k) & counted
        assert value == pytest.approx((mine & theirs).sum() / (mine | theirs).sum())
    assert make_scene(mask=False).iou(labels) is None


def test_the_cell_nearest_to_a_pixel():
    scene = make_scene()  # 60 x 83 pixels, 8 x 11 cells
    assert scene.cells == (8, 11)
    assert scene.cell_at(0, 0) == (0, 0)
    assert scene.cell_at(3, 4) == (0, 1)
    assert scene.cell_at(59, 82) == (7, 10)


def test_pictures_have_the_colours_of_the_legend():
    scene = make_scene()
    picture = pictures.labels(scene, scene.mask)
    house, ground = picture[3 * 20, 3 * 22], picture[0, 0]  # 83 pixels are enlarged three times
    assert picture.shape == (180, 249, 3)
    expected = 0.6 * scene.small[20, 22] + 0.4 * viz.class_colours()[2]
    np.testing.assert_allclose(house, expected, atol=1)
    np.testing.assert_array_equal(ground, scene.small[0, 0])
    colours = ["#" + bytes(viz.class_colours()[k]).hex() for k in scene.classes]
    assert pictures.legend(scene) == dict(zip(("house", "cat"), colours, strict=True))


@pytest.fixture
def panel():
    scenes = {"one": make_scene(0), "two": make_scene(1, mask=False)}

    def open_scene(id):
        if id == "broken":
            raise InputError("photo broken is <missing>")
        return scenes[id]

    return Panel(
        open_scene,
        ["one", "two", "broken"],
        photo_id="one",
        walk=WALK,
        threshold=0.4,
        crf=True,
        pixel=(22, 20),
    )


def changed(panel, act):
    """The names of the pictures that an act changes."""
    before = {name: image.value for name, image in panel.images.items()}
    act()
    return {name for name, image in panel.images.items() if image.value != before[name]}


def test_every_picture_is_there(panel):
    for name in TITLES:
        picture = Image.open(io.BytesIO(panel.images[name].value))
        assert picture.format == "PNG" and max(picture.size) in (249, 255)
    assert "house" in panel.legend.value and "mean IoU" in panel.captions["labels"].value


@pytest.mark.parametrize(
    ("control", "value", "pictures"),
    [
        ("alpha", 30.0, {"share", "walk_labels", "labels"}),
        ("beta", 0.5, {"share", "walk_labels", "labels", "neighbours", "walker"}),
        ("steps", 64, {"share", "walk_labels", "labels", "walker"}),
        ("play", 12, {"share", "walk_labels", "labels", "walker"}),
        ("threshold", 0.8, {"map_labels"}),
        ("crf", False, {"labels"}),
        ("x", 60, {"photo", "surroundings", "neighbours", "walker"}),
        ("y", 45, {"photo", "surroundings", "neighbours", "walker"}),
    ],
)
def test_a_control_changes_the_pictures_that_hang_on_it(panel, control, value, pictures):
    assert changed(panel, lambda: setattr(getattr(panel, control), "value", value)) == pictures


def test_a_click_chooses_a_pixel(panel):
    def click():
        panel.images["photo"].point = [0.75, 1.0]

    assert changed(panel, click) == {"photo", "surroundings", "neighbours", "walker"}
    assert (panel.x.value, panel.y.value) == (62, 59)


def test_without_the_crf_its_labels_are_the_walk_s(panel):
    panel.crf.value = False
    assert panel.images["labels"].value == panel.images["walk_labels"].value
    assert "CRF off" in panel.captions["labels"].value


def test_another_photo(panel):
    def pick():
        panel.photo.value = "two"

    assert changed(panel, pick) >= {"photo", "maps", "borders", "share", "labels", "walker"}
    assert (panel.x.value, panel.y.value) == (41, 30)
    assert "no mask" in panel.captions["labels"].value
    assert "has none" in panel.captions["mask"].value


def test_a_photo_that_cannot_be_opened_is_reported(panel):
    def pick():
        panel.photo.value = "broken"

    assert changed(panel, pick) == set()
    assert "photo broken is &lt;missing&gt;" in panel.status.value
    assert panel.photo.value == "one"


def test_settings_beyond_the_sliders_ends_are_kept():
    walk = Walk(background_alpha=50.0, beta=40.0, steps=7, radius=3, crf_steps=1)
    panel = Panel(
        lambda id: make_scene(),
        ["a"],
        photo_id="b",
        walk=walk,
        threshold=0.1,
        crf=False,
        pixel=(500, 500),
    )
    assert (panel.alpha.value, panel.beta.value, panel.steps.value) == (50.0, 40.0, 7)
    assert (panel.x.value, panel.y.value) == (82, 59)


def save_runs(outputs, classes, dataset="shapes", data_digest="d"):
    """Small untrained networks, in the form of completed stages."""
    torch.manual_seed(0)
    cam = models.build_cam("small", len(classes))
    affinity = models.build_affinity("small", reduced=(8, 8, 8))
    for name, network, arguments in (
        ("cam", cam, {}),
        ("affinity", affinity, {"reduced": [8, 8, 8], "settings": {"radius": 3}}),
    ):
        folder = outputs / f"train_{name}" / "0123456789ab"
        models.save_network(
            folder / "weights.pt",
            network,
            kind=name,
            classes=classes,
            backbone="small",
            **arguments,
        )
        record = {
            **{"stage": f"train_{name}", "fingerprint": folder.name, "data_digest": data_digest},
            **{"parameters": {"dataset": dataset}, "inputs": {}, "metrics": {}, "ended": 1.0},
        }
        (folder / "complete.json").write_text(json.dumps(record))


def test_networks_of_the_latest_runs(tmp_path, tiny_shapes, monkeypatch):
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path))
    data = datasets.open("shapes", tiny_shapes)
    with pytest.raises(InputError, match=r"run first: wsss run experiments/shapes\.yaml") as fault:
        explore_scene.open_networks(data, "shapes")
    assert "train_cam" in str(fault.value) and "\n" not in str(fault.value)
    save_runs(tmp_path, data.classes)  # on other data
    with pytest.raises(InputError, match="holds no completed train_cam"):
        explore_scene.open_networks(data, "shapes")
    save_runs(tmp_path, data.classes, data_digest=data.digest())
    assert explore_scene.open_networks(data, "shapes").settings == {"radius": 3}
    given = {"train_cam_run": str(tmp_path / "train_cam" / "0123456789ab")}
    save_runs(tmp_path, ("fish", "bird"), data_digest=data.digest())
    with pytest.raises(
        InputError, match=r"expected a network of the data's classes.*it \(fish, bird\)"
    ):
        explore_scene.open_networks(data, "shapes", **given)


@pytest.fixture
def place(tmp_path, tiny_shapes, monkeypatch):
    """The notebook with the tiny dataset and untrained networks in its parameters, and the
    environment of a kernel for it.
    """
    data = datasets.open("shapes", tiny_shapes)
    save_runs(tmp_path / "outputs", data.classes, data_digest=data.digest())
    (tmp_path / "work").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += f"\ndata_root = {str(tiny_shapes)!r}\nsteps = 5\ncrf_steps = 2"
    nbformat.write(notebook, tmp_path / "work" / "explore.ipynb")
    own = {
        "WSSS_OUTPUTS": tmp_path / "outputs",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "JUPYTER_CONFIG_DIR": tmp_path / "config",
        "JUPYTER_RUNTIME_DIR": tmp_path / "runtime",
        "JUPYTER_DATA_DIR": tmp_path / "data",
        "JUPYTERLAB_SETTINGS_DIR": tmp_path / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": tmp_path / "workspaces",
        "IPYTHONDIR": tmp_path / "ipython",
        "OMP_NUM_THREADS": "1",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path


def test_it_is_no_stage():
    assert NOTEBOOK not in {stage.path for stage in stages.read_stages().values()}
    parameters = stages.Stage("explore", NOTEBOOK).parameters
    assert parameters["beta"].default == 8.0 and parameters["pixel"].type == "list[int]"


@pytest.mark.slow
def test_the_notebook_runs_headless(place):
    source, target = place / "work" / "explore.ipynb", place / "executed.ipynb"
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", source, target]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    outputs = [
        output.data
        for cell in nbformat.read(target, as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type in ("display_data", "execute_result")
    ]
    assert sum("image/png" in data for data in outputs) == 3
    assert sum("application/vnd.jupyter.widget-view+json" in data for data in outputs) == 1
    assert not (place / "mlflow.db").exists()


@pytest.fixture
def lab(place):
    """The address of a JupyterLab of its own, opened at the notebook."""
    (place / "settings" / "@jupyterlab" / "apputils-extension").mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}  # no question, no network
    settings = place / "settings" / "@jupyterlab" / "apputils-extension"
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    token = secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        f"--ServerApp.root_dir={place / 'work'}",
        f"--IdentityProvider.token={token}",
        "--LabApp.extension_manager=readonly",
    ]
    with (place / "lab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, place / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token={token}"
    finally:
        server.terminate()  # it ends its kernels
        server.wait(60)


def _wait_for(address, server, log):
    for _ in range(600):
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab does not answer: {log.read_text()}")


@pytest.mark.slow
def test_the_panel_in_jupyterlab(place, lab, browser, tiny_shapes):
    """Run all cells, move a slider by keyboard, click on the photo: pictures change."""
    page = browser.new_page(viewport={"width": 1500, "height": 1400})
    page.set_default_timeout(120_000)
    page.goto(lab)
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text(re.compile(r"\| Idle$")).first.wait_for()  # the kernel, in the status bar
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()

    def box(title):
        label = page.locator(".widget-html-content b", has_text=re.compile(f"^{title}$"))
        return page.locator(".widget-vbox").filter(has=label).last

    def source(title):
        return box(title).locator("img").get_attribute("src")

    def wait_for_change(title, before):
        picture = box(title).locator("img")
        deadline = time.monotonic() + 60
        while picture.get_attribute("src") == before:
            assert time.monotonic() < deadline, f"the picture '{title}' stayed as it was"
            page.wait_for_timeout(50)

    share, around, photo = TITLES["share"], TITLES["surroundings"], TITLES["photo"]
    box(photo).locator("img").wait_for()
    page.wait_for_function("document.title.indexOf('[*]') < 0")
    box(photo).scroll_into_view_if_needed()
    before = source(share)
    slider = page.locator(".widget-hslider", has_text="beta").last.get_by_role("slider")
    slider.focus()
    slider.press("ArrowLeft")
    wait_for_change(share, before)
    before = source(around)
    picture = box(photo).locator("img")
    size = picture.bounding_box()
    picture.click(position={"x": size["width"] * 0.75, "y": size["height"] * 0.4})
    wait_for_change(around, before)
    across = page.locator(".widget-text", has_text="pixel x").locator("input").input_value()
    photos = datasets.open("shapes", tiny_shapes)
    width = photos.image(photos.ids("train")[0]).shape[1]
    assert abs(int(across) - 0.75 * width) <= 1
    folder = Path(os.environ.get("WSSS_SCREENSHOTS") or place)
    folder.mkdir(parents=True, exist_ok=True)
    picture.evaluate("image => image.closest('.jp-Cell').scrollIntoView()")
    page.wait_for_timeout(500)  # for what is drawn on scrolling
    page.screenshot(path=folder / "explore.png")
    page.close()
