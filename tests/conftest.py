"""
What the tests share: the examples' modules, where the reference material lies, and a torchvision that can be imported.

The last must happen before anything imports torchvision, so subprocesses that tests start import this module too.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch


SHARED = Path(__file__).parents[2] / "shared"
# At the end: the folder has a file that is named like the library `evaluate`.
sys.path.append(str(Path(__file__).parents[1] / "examples"))


def declare_torchvision_operators():
    """
    Lets `import torchvision` work where its compiled operators cannot be loaded, as PyPI's CUDA build beside a CPU
    torch: its Python code describes these two unconditionally, which fails unless they are declared.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return
    try:
        for library in Path(spec.origin).parent.glob("_C*"):
            torch.ops.load_library(library)
    except OSError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


declare_torchvision_operators()
# On models this small, several threads spend their time waiting for one another.
torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def find_shared(name: str) -> Path:
    directory = SHARED / name
    if not directory.is_dir():
        pytest.skip(f"{directory} is missing")
    return directory


@pytest.fixture(scope="session")
def shared_dir():
    """`shared_dir(name)` is a folder of reference material; a test that asks for one which is missing is skipped."""
    return find_shared


@pytest.fixture(scope="session")
def reference_dir():
    """Inputs and outputs of the original implementation."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def videos_dir():
    """Real clips."""
    return find_shared("videos")


@pytest.fixture
def browser():
    """Chromium; CHROMIUM names it if playwright has none of its own."""
    playwright = pytest.importorskip("playwright.sync_api")
    flags = "no-sandbox disable-gpu disable-dev-shm-usage no-first-run disable-background-networking disable-sync"
    with playwright.sync_playwright() as tools:
        try:
            browser = tools.chromium.launch(
                executable_path=os.environ.get("CHROMIUM", shutil.which("chromium")),
                args=[f"--{flag}" for flag in flags.split()],
            )
        except playwright.Error as error:
            pytest.skip(f"no browser: {error}")
        yield browser
        browser.close()
