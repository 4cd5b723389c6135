"""Scans of a small collection with bad files in it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from video_files import write_video

from vtn_hf.data.collection import read_collection
from vtn_hf.data.scan import describe_coverage, hash_file, read_scan, scan_video, scan_videos


ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture
def collection(tmp_path):
    """Two classes; of the second, one file is cut short and one is none."""
    frames = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
    for label in ("walk", "run"):
        (tmp_path / "videos" / "train" / label).mkdir(parents=True)
    good = write_video(tmp_path / "videos/train/walk/good.mp4", frames)
    shutil.copy(good, tmp_path / "videos/train/run/copy.mp4")
    (tmp_path / "videos/train/run/cut.mp4").write_bytes(good.read_bytes()[:-2000])
    (tmp_path / "videos/train/run/text.mp4").write_text("no video")
    return tmp_path / "videos"


def test_good_video(collection):
    path = str(collection / "train/walk/good.mp4")
    video = scan_video(path)
    assert (video.path, video.label, video.ok, video.reason) == (path, "walk", True, "")
    assert (video.frames, video.fps, video.duration_sec) == (12, 10, 1.2)
    assert (video.height, video.width, video.rotation) == (32, 48, 0)
    assert video.num_bytes == Path(path).stat().st_size
    assert video.sha256 == hash_file(path)


def test_rotation(videos_dir):
    video = scan_video(str(videos_dir / "decord_video_90.mov"))
    assert (video.height, video.width, video.rotation) == (568, 320, 270)


def test_table(collection, tmp_path, monkeypatch):
    table = tmp_path / "scan.csv"
    paths = [str(path) for path in sorted(collection.rglob("*.mp4"))]
    videos = list(scan_videos(paths, table))
    assert sorted(video.path for video in videos) == paths
    known = read_scan(table)
    assert known == {video.path: video for video in videos}
    assert {Path(path).stem: video.ok for path, video in known.items()} == {
        "good": True,
        "copy": True,
        "cut": False,
        "text": False,
    }
    assert known[paths[0]].label == "run"
    coverage = describe_coverage(videos)
    assert "2 of 4 videos are good (50.00%)" in coverage
    assert "run: 1 of 3 left" in coverage and "walk" not in coverage.split("left")[-1]
    assert f"{paths[1]}: " in coverage

    left = read_collection(collection, scan_table=table)
    assert sorted(Path(video["path"]).stem for video in left.videos["train"]["video"]) == ["copy", "good"]
    bad = {
        Path(path).relative_to(collection).as_posix(): video.reason for path, video in known.items() if not video.ok
    }
    assert left.bad == {"train": bad}

    # What is known is not scanned again, also after a row was left unfinished.
    table.write_text(table.read_text() + "unfinis")
    monkeypatch.setattr("vtn_hf.data.scan.map_files", lambda function, items, *args: [(item, 1 / 0) for item in items])
    assert {video.path: video for video in scan_videos(paths, table)} == known
    assert read_scan(table) == known


def test_unknown_video(collection, tmp_path):
    table = tmp_path / "scan.csv"
    list(scan_videos([str(collection / "train/walk/good.mp4")], table))
    with pytest.raises(ValueError, match="does not know .*scan the collection again"):
        read_collection(collection, scan_table=table)


def run(script, *arguments):
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_scan_script(collection, tmp_path):
    printed = run("scan_videos.py", collection, "--table", tmp_path / "scan.csv", "--num_workers", 1)
    assert "2 of 4 videos are good" in printed
    assert len(read_scan(tmp_path / "scan.csv")) == 4
