"""
The code blocks of the documents run as they are printed: the Python of a page in one go, then its commands (slowly).

A page's commands run in a folder with a tiny model and a few videos under the names that the documents use. A block
below a line `<!-- not run: WHY -->` is left out; so is what installs something.
"""

import contextlib
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import make_vit_vtn
from transformers import Dinov2Config, Dinov2Model

import vtn_cli
from drawn_videos.motion_clips import CLASS_NAMES, write_motion_clips
from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.scan import scan_videos


ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")] + sorted(ROOT.glob("docs/**/*.md"))
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def list_blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The line and the text of each block that is to run."""
    text = page.read_text(encoding="utf-8")
    blocks = [match for match in BLOCK.finditer(text) if match[2] == language and match[1] is None]
    return [(text[: match.start(3)].count("\n"), match[3]) for match in blocks]


def list_pages(language: str) -> list:
    pages = [page for page in PAGES if list_blocks(page, language)]
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def write_backbone(folder: Path) -> dict[str, dict[str, int]]:
    """A tiny image model, as on the Hub; returns the sizes of its pictures."""
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    Dinov2Model(config).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    settings = {"image_processor_type": "BitImageProcessor", **sizes}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return sizes


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies in the folder of somebody who reads the documents."""
    folder = tmp_path_factory.mktemp("documents")
    write_motion_clips(folder / "VIDEOS", num_train=20, num_val=10, num_workers=1)
    (folder / "VIDEOS/motion_clips.json").unlink()
    for name in ("video.mp4", "recording.mp4"):
        shutil.copy(next((folder / "VIDEOS").glob("val/*/*.mp4")), folder / name)
    sizes = write_backbone(folder / "facebook/dinov2-small")
    for name in ("runs/quickstart/model", "me/my-vtn", "RUN"):
        model = make_vit_vtn(num_labels=10)
        model.config.id2label = dict(enumerate(CLASS_NAMES))
        model.config.label2id = {label: number for number, label in enumerate(CLASS_NAMES)}
        model.save_pretrained(folder / name)
        VTNVideoProcessor(**sizes, num_frames=16).save_pretrained(folder / name)
    with contextlib.chdir(folder):
        list(scan_videos(map(str, Path("VIDEOS").glob("*/*/*.mp4")), Path("scan.csv")))
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test is."""
    shutil.copytree(template, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("page", list_pages("python"))
def test_python_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    for each in (VTNForVideoClassification, VTNVideoProcessor):
        monkeypatch.setattr(each, "push_to_hub", lambda self, name: self.save_pretrained(name))
    # What a page may take as given.
    names = {
        "torch": torch,
        "path": "me/my-vtn",
        "model": VTNForVideoClassification.from_pretrained("me/my-vtn").eval(),
        "processor": VTNVideoProcessor.from_pretrained("me/my-vtn"),
        "camera": [(np.zeros((16, 16, 3), dtype=np.uint8), number / 10) for number in range(20)],
    }
    for line, block in list_blocks(page, "python"):
        # Errors are then shown with the lines of the page.
        exec(compile("\n" * line + block, page, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", list_pages("bash"))
def test_commands_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "examples"), *sys.path])
    for _, block in list_blocks(page, "bash"):
        for command in block.replace("\\\n", " ").splitlines():
            run(shlex.split(command, comments=True), monkeypatch)


def run(command: list[str], monkeypatch: pytest.MonkeyPatch):
    """Runs a command of the documents in this process."""
    if command[:1] == ["make"]:
        assert f"\n{command[1]}:" in (ROOT / "Makefile").read_text()
        return
    if not command or command[0] in ("pip", "git", "export"):
        return
    if "--output_dir" in command:
        shutil.rmtree(command[command.index("--output_dir") + 1], ignore_errors=True)
    if command[0] == "vtn":
        on_cpu = ["--device", "cpu"] if command[1] == "train" else []
        assert not vtn_cli.main(command[1:] + on_cpu), command
        return
    words = command[2:] if command[0] == "accelerate" else command[1:]
    while words[0].startswith("--"):  # an option of the launcher, with its value
        words = words[2:]
    if words[0] == "-m":
        run_module, (name, *arguments) = runpy.run_module, words[1:]
    else:
        run_module, (name, *arguments) = runpy.run_path, words
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    try:
        run_module(name, run_name="__main__")
    except SystemExit as end:
        assert not end.code, command


def test_links_lead_somewhere():
    # Those below docs/ are checked when the pages are built.
    for page in (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")):
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{page.name}: {link}"
