"""What the tests of `vtn classify` and `vtn stream` share: a tiny model, and videos that are easily mixed up."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from example_runs import take_stock
from test_whole_video import PROCESSOR, make_model, make_pictures
from video_files import write_video


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(directory)
    PROCESSOR.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def three_videos(tmp_path_factory):
    """Two of them with names that differ in their endings only, two in their folders only."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("a/x.mp4", "a/x.mkv", "b/x.mp4")):
        (root / name).parent.mkdir(exist_ok=True)
        write_video(root / name, make_pictures(8 + 2 * number, seed=number))
    return root


@pytest.fixture
def videos(three_videos, tmp_path, monkeypatch):
    """The same and a file that is no video, in a working directory of their own; none of it may change."""
    root = shutil.copytree(three_videos, tmp_path / "videos")
    (root / "b/broken.mp4").write_bytes(b"no video")
    (tmp_path / "link.mp4").symlink_to(root / "a/x.mp4")
    os.link(root / "a/x.mp4", tmp_path / "hard.mp4")
    monkeypatch.chdir(tmp_path)
    before = take_stock(root)
    yield Path("videos")
    assert take_stock(root) == before


def read(path: Path) -> list[dict]:
    if path.suffix == ".csv":
        return list(csv.DictReader(path.read_text().splitlines()))
    return json.loads(path.read_text()) if path.suffix == ".json" else list(map(json.loads, path.open()))
