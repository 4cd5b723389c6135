"""
The page of examples/app.py in a real browser: upload a video, press the button, look at what appears.

Needs `pip install gradio playwright` and a Chromium, whose path CHROMIUM names if playwright has none of its own; with
SCREENSHOTS=FOLDER the pictures are kept.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

from drawn_videos.motion_clips import CLASS_NAMES, write_motion_clips
from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor


gradio = pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """The model that SCREENSHOT_MODEL names, or a tiny one."""
    if "SCREENSHOT_MODEL" in os.environ:
        return Path(os.environ["SCREENSHOT_MODEL"])
    root = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    backbone = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    config = VTNConfig(
        backbone_config=backbone,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        id2label=dict(enumerate(CLASS_NAMES)),
    )
    VTNForVideoClassification(config).save_pretrained(root)
    VTNVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def page_url(model_dir):
    from app import make_app

    model = VTNForVideoClassification.from_pretrained(model_dir).eval()
    processor = VTNVideoProcessor.from_pretrained(model_dir)
    page = make_app(model, processor, model_dir.name)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


@pytest.fixture
def page():
    with playwright.sync_playwright() as tools:
        try:
            browser = tools.chromium.launch(
                executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
        except playwright.Error as error:
            pytest.skip(f"no browser: {error}")
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(600_000)  # on a machine that does other things as well
        yield page
        browser.close()


def keep(page, name: str):
    if "SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / name, full_page=True)


def test_a_video_is_classified_in_the_browser(page, page_url, tmp_path):
    video = os.environ.get("SCREENSHOT_VIDEO")
    if video is None:
        root = write_motion_clips(tmp_path / "clips", num_train=1, num_val=0, num_workers=1)
        video = next(root.glob("*/*/*.mp4"))
    page.goto(page_url)
    page.get_by_role("heading", name="Video Transformer Network").wait_for()
    page.locator("input[type=file]").first.wait_for(state="attached")
    keep(page, "app_start.png")
    page.locator("input[type=file]").first.set_input_files(video)
    page.locator("video").first.wait_for()
    page.get_by_role("button", name="Classify").click()
    # The most probable class is the heading of the list, and four pictures appear below.
    page.get_by_test_id("label-output-value").wait_for()
    assert page.get_by_test_id("label-output-value").inner_text().strip() != ""
    for number in range(3):
        picture = page.locator("img[src*='/file=']").nth(number)
        picture.wait_for()
        assert picture.evaluate("image => image.naturalWidth") > 200
    page.locator("video").nth(1).wait_for()
    keep(page, "app_result.png")


def test_what_is_no_video_is_an_error_on_the_page(page, page_url, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    page.goto(page_url)
    page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.mp4")
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("broken.mp4").last.wait_for()
    keep(page, "app_error.png")
