"""Scans of a small collection with bad files in it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from video_files import write_video

from vtn_hf.data.collection import read_collection
from vtn_hf.data.listing import hash_video
from vtn_hf.data.scan import describe_coverage, read_scan, scan_video, scan_videos
from vtn_hf.video_decoding_vtn import DecodeLimits


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
    assert video.sha256 == hash_video(path)


def test_rotation(videos_dir):
    video = scan_video(str(videos_dir / "decord_video_90.mov"))
    assert (video.height, video.width, video.rotation) == (568, 320, 270)


def test_table(collection, tmp_path, here):
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
    here.clear()
    assert {video.path: video for video in scan_videos(paths, table)} == known
    assert here == []
    assert read_scan(table) == known


def test_unknown_video(collection, tmp_path, here):
    table = tmp_path / "scan.csv"
    list(scan_videos([str(collection / "train/walk/good.mp4")], table))
    with pytest.raises(ValueError, match="does not know .*scan the collection again"):
        read_collection(collection, scan_table=table)


def list_files(collection):
    return [str(path) for path in sorted(collection.rglob("*.mp4"))]


@pytest.fixture
def here(monkeypatch):
    """Without other processes; says what was scanned."""
    scanned = []

    def map_files(function, items, *limits):
        scanned.extend(Path(item).stem for item in items)
        return ((item, function(item)) for item in items)

    monkeypatch.setattr("vtn_hf.data.scan.map_files", map_files)
    return scanned


def test_verdicts_that_are_not_about_the_file_are_not_kept(collection, tmp_path, monkeypatch):
    table = tmp_path / "scan.csv"
    results = {"good": TimeoutError("it takes longer than 1 s"), "copy": ChildProcessError("its process ended")}
    monkeypatch.setattr(
        "vtn_hf.data.scan.map_files",
        lambda function, items, *limits: [(item, results.get(Path(item).stem) or function(item)) for item in items],
    )
    videos = list(scan_videos(list_files(collection), table))
    assert {Path(video.path).stem: (video.ok, video.final) for video in videos} == {
        "good": (False, False),
        "copy": (False, False),
        "cut": (False, True),
        "text": (False, True),
    }
    assert "good.mp4: it takes longer than 1 s (another scan tries it again)" in describe_coverage(videos)
    # Until then they are bad.
    assert read_collection(collection, scan_table=table).num_videos == {"train": 0}

    scanned = []
    monkeypatch.setattr(
        "vtn_hf.data.scan.map_files",
        lambda function, items, *limits: [(item, function(item)) for item in items if not scanned.append(item)],
    )
    assert sum(video.ok for video in scan_videos(list_files(collection), table)) == 2
    assert sorted(Path(path).stem for path in scanned) == ["copy", "good"]
    assert read_collection(collection, scan_table=table).num_videos == {"train": 2}


def test_time_and_memory_that_do_not_suffice(collection, here, monkeypatch):
    path = str(collection / "train/walk/good.mp4")
    video = scan_video(path, DecodeLimits(max_decode_sec=1e-6))
    assert not video.ok and not video.final and "max_decode_sec" in video.reason

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("vtn_hf.data.scan.iter_video_frames", fail)
    assert scan_video(path) == replace(video, reason="its memory does not suffice")


def test_files_that_are_not_there_any_more(collection, tmp_path, here):
    paths = list_files(collection)
    Path(paths[0]).unlink()
    Path(paths[1]).unlink()
    Path(paths[1]).symlink_to(tmp_path / "nowhere")
    Path(paths[2]).unlink()
    os.mkfifo(paths[2])
    videos = {Path(video.path).stem: video for video in scan_videos(paths, tmp_path / "scan.csv")}
    assert len(videos) == 4 and videos["good"].ok
    assert (videos["text"].ok, videos["text"].final, videos["text"].reason) == (False, False, "it is no file")
    for name in ("copy", "cut"):
        assert not videos[name].ok and not videos[name].final and "No such file" in videos[name].reason


def test_names_that_are_not_utf8(tmp_path, collection, here):
    path = os.fsdecode(os.fsencode(collection) + b"/train/run/\xff.mp4")
    shutil.copy(collection / "train/walk/good.mp4", path)
    table = tmp_path / "scan.csv"
    videos = list(scan_videos([*list_files(collection), path], table))
    assert path in read_scan(table)
    describe_coverage([replace(video, ok=False) for video in videos]).encode()
    left = read_collection(collection, scan_table=table)
    assert r"train/run/\xff.mp4" in left.videos["train"]["name"][:]


def test_a_file_that_has_changed(collection, tmp_path, here):
    table = tmp_path / "scan.csv"
    list(scan_videos(list_files(collection), table))
    here.clear()
    shutil.copy(collection / "train/walk/good.mp4", collection / "train/run/cut.mp4")
    with pytest.raises(ValueError, match="train/run/cut.mp4 has changed since .*scan.csv was made"):
        read_collection(collection, scan_table=table)
    # Another file has the same content.
    assert sum(video.ok for video in scan_videos(list_files(collection), table)) == 3
    assert here == ["cut"]
    assert read_collection(collection, scan_table=table).num_videos == {"train": 3}


def test_another_file_in_the_place_of_the_table(collection, tmp_path):
    table = tmp_path / "train.csv"
    table.write_text("video,label\na.mp4,a\n")
    with pytest.raises(ValueError, match="train.csv is no table of this version of vtn scan"):
        list(scan_videos(list_files(collection), table))
    assert table.read_text() == "video,label\na.mp4,a\n"
