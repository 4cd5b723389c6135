"""
What `vtn app` shows; and its page in a real browser, where gradio, playwright and a Chromium are installed.

CHROMIUM names the browser if playwright has none of its own; with SCREENSHOTS=FOLDER the pictures are kept.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from example_runs import ROOT, run, take_stock
from tiny_models import RESNET
from video_files import write_video

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.commands import app


# No formula and no markup.
CLASSES = ["walk", "run", "$\\frac{ | <b> $", "sit down"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = VTNConfig(
        backbone_config=RESNET,
        num_attention_heads=2,
        intermediate_size=8,
        id2label=dict(enumerate(CLASSES)),
        initializer_range=0.5,
    )
    return VTNForVideoClassification(config).eval()


@pytest.fixture(scope="module")
def processor():
    return VTNVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, num_frames=20)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two of them, and a file that is none."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("first.mp4", "second.mp4")):
        noise = np.random.default_rng(number).integers(0, 256, (40, 32, 48, 3), dtype=np.uint8)
        write_video(root / name, noise // (1 + 3 * number), fps=10)
    (root / "broken.mp4").write_bytes(b"no video at all")
    before = take_stock(root)
    yield root
    assert take_stock(root) == before


def test_classes_timeline_and_attention_are_shown(model, processor, videos, tmp_path):
    classes, *files = app.Analyst(model, processor, tmp_path)(str(videos / "first.mp4"))
    assert list(classes) == CLASSES and sum(classes.values()) == pytest.approx(1)
    kinds = [Path(path).name.partition("_")[2] for path in files]
    assert kinds == ["timeline.png", "attention.png", "maps.png", "overlay.mp4"]
    assert sorted(files) == sorted(map(str, tmp_path.iterdir())) and all(Path(path).stat().st_size for path in files)


def test_an_error_neither_shows_where_the_file_is_nor_leaves_anything(model, processor, videos, tmp_path, monkeypatch):
    analyse = app.Analyst(model, processor, tmp_path)
    with pytest.raises(ValueError, match="broken.mp4: Invalid data") as error:
        analyse(str(videos / "broken.mp4"))
    assert str(videos) not in str(error.value)
    monkeypatch.setattr("vtn_hf.inference.attention_figures.write_overlay", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        analyse(str(videos / "first.mp4"))
    assert list(tmp_path.iterdir()) == []


def test_two_visitors_at_once_get_what_one_gets(model, processor, videos, tmp_path, monkeypatch):
    analyse = app.Analyst(model, processor, tmp_path)
    paths = [str(videos / name) for name in ("first.mp4", "second.mp4")]
    alone = [analyse(path)[0] for path in paths]
    look_at, inside = app.look_at, []

    def look_slowly(*arguments):
        inside.append(1)
        time.sleep(0.2)
        assert sum(inside) == 1, "two analyses at a time"
        look = look_at(*arguments)
        inside.append(-1)
        return look

    monkeypatch.setattr(app, "look_at", look_slowly)
    together = {}
    threads = [threading.Thread(target=lambda path=path: together.update({path: analyse(path)})) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[path][0] for path in paths] == alone and alone[0] != alone[1]
    assert len(list(tmp_path.iterdir())) == 16


def test_gradio_is_asked_for_at_the_start(monkeypatch, capsys):
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    assert run("app", "--model", "RUN") == 2
    assert "vtn app: error: The page needs gradio: pip install" in capsys.readouterr().err


@pytest.fixture(scope="module")
def server(model, processor, tmp_path_factory):
    """The page's address, as a user starts it, and its temporary folder, in which nothing is left in the end."""
    pytest.importorskip("gradio")
    pytest.importorskip("playwright")
    root = tmp_path_factory.mktemp("server")
    for part in (model, processor):
        part.save_pretrained(root / "RUN")
    (root / "temporary").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vtn_hf.commands.app", "--model", root / "RUN", "--port", port]
    environment = os.environ | {"TMPDIR": str(root / "temporary"), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(list(map(str, command)), env=environment) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10)
                break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}", root / "temporary"
        process.terminate()
        assert process.wait(timeout=60) == 143
    assert list((root / "temporary").iterdir()) == []


def open_page(browser, url: str):
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(300_000)  # on a machine that does other things as well
    page.goto(url)
    page.get_by_role("heading", name="Video Transformer Network").wait_for()
    page.locator("input[type=file]").first.wait_for(state="attached")
    return page


def keep(page, name: str):
    if "SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / name, full_page=True)


def test_two_videos_at_once_in_the_browser(browser, server, model, processor, videos, tmp_path):
    url, temporary = server
    names = ("first.mp4", "second.mp4")
    pages = [open_page(browser, url) for _ in names]
    keep(pages[0], "app_start.png")
    for page, name in zip(pages, names, strict=True):
        page.locator("input[type=file]").first.set_input_files(videos / name)
    for page in pages:
        page.locator("video").first.wait_for()
    for page in pages:
        page.get_by_role("button", name="Classify").click()
    for page, name in zip(pages, names, strict=True):
        page.get_by_test_id("label-output-value").wait_for()
        page.locator("video").nth(1).wait_for()
        classes, *_ = app.Analyst(model, processor, tmp_path)(str(videos / name))
        assert page.get_by_test_id("label-output-value").inner_text().strip() == max(classes, key=classes.get)
        shown = [f"{round(100 * share)}%" for share in sorted(classes.values(), reverse=True)]
        text = page.locator("body").inner_text()
        assert all(share in text for share in shown)
        assert str(temporary) not in text and "RUN" in text and "/RUN" not in text
        pictures = page.locator("img[src*='/file=']")
        for number in range(3):
            pictures.nth(number).wait_for()
            assert pictures.nth(number).evaluate("image => image.naturalWidth") > 200
    keep(pages[0], "app_result.png")
    assert [path.name.startswith("vtn_app_") for path in temporary.iterdir()] == [True]


def test_nothing_but_the_pages_own_files_is_served(browser, server):
    url, temporary = server
    (temporary / "private.mp4").write_text("of somebody else")
    for path in (temporary / "private.mp4", Path("/etc/passwd"), ROOT / "setup.py"):
        with pytest.raises(urllib.error.HTTPError, match="403|404"):
            urllib.request.urlopen(f"{url}/gradio_api/file={path}")
    (temporary / "private.mp4").unlink()


def test_what_is_no_video_is_an_error_on_the_page(browser, server, videos):
    url, temporary = server
    page = open_page(browser, url)
    page.locator("input[type=file]").first.set_input_files(videos / "broken.mp4")
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("broken.mp4: Invalid data").last.wait_for()
    assert str(temporary) not in page.locator("body").inner_text()
    keep(page, "app_error.png")
