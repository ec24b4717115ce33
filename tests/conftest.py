"""Small things that several tests need."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from playwright.sync_api import sync_playwright

from wsss.datasets import shapes

# the same examples everywhere; `pytest --hypothesis-profile=default` draws others
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")

# Files that take longest, and begin first: then no process is left with one at the end.
LONGEST = (
    *("test_faults.py", "test_driver.py", "test_own_photos.py", "test_distributed.py"),
    *("test_postgres.py", "test_interruptions.py", "test_launch.py", "test_memory.py"),
)


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors are slower on many threads, and sums differ with their number."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory):
    """A shapes dataset of 12 + 6 photos; read only."""
    return shapes.generate(tmp_path_factory.mktemp("data") / "shapes", train=12, val=6)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """The file of an empty tracking store, to copy: MLflow takes seconds to make one."""
    from wsss.lab.record import mlflow_store  # slow to import

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        mlflow_store.client()
    return path


@pytest.fixture(scope="session")
def voc_sample():
    """The folder with real VOC photos beside the repository, where there is one."""
    root = SHARED / "voc-sample"
    if not root.is_dir():
        pytest.skip("the VOC sample is not beside this checkout")
    return root


@pytest.fixture(scope="session")
def mobilenet_weights():
    """ImageNet weights of MobileNetV2 beside the repository, where there are any."""
    path = SHARED / "weights" / "mobilenet_v2_imagenet.pth"
    if not path.exists():
        pytest.skip("the MobileNetV2 weights are not beside this checkout")
    return path


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, driven by Playwright (``browser.new_page()``), where there is one."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on this machine: install Debian's package of that name")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
