"""`vtn prepare` on a small collection with bad files in it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from example_runs import map_here, run, run_process, take_stock
from video_files import write_video

from vtn_hf.commands import prepare
from vtn_hf.data.scan import scan_video


FRAMES = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
OPTIONS = ("--short_side", 16, "--num_workers", 1)


@pytest.fixture
def collection(tmp_path):
    """Two classes; of the second, one file is cut short and one is none. None of it may change."""
    root = tmp_path / "videos"
    for label in ("walk", "run"):
        (root / "train" / label).mkdir(parents=True)
    good = write_video(root / "train/walk/good.mp4", FRAMES)
    shutil.copy(good, root / "train/run/good.mp4")
    write_video(root / "train/run/good.mkv", FRAMES[:8])
    (root / "train/run/cut.mp4").write_bytes(good.read_bytes()[:-2000])
    (root / "train/run/text.mp4").write_text("no video")
    before = take_stock(root)
    yield root
    assert take_stock(root) == before


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(prepare, "map_files", map_here)


def list_files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_a_collection_is_prepared_by_processes(collection, tmp_path):
    target = tmp_path / "prepared"
    result = run_process("prepare", "--data_dir", collection, "--output_dir", target, *OPTIONS)
    assert result.returncode == 1 and result.stdout.count("failed: ") == 2
    failed = (target / "failed.csv").read_text().splitlines()
    assert failed[0] == "path,reason" and [line.split(",")[0] for line in failed[1:]] == [
        str(collection / "train/run/cut.mp4"),
        str(collection / "train/run/text.mp4"),
    ]
    assert list_files(target) == [
        "failed.csv",
        "settings.json",
        "train/run/good.mkv.mp4",
        "train/run/good.mp4",
        "train/walk/good.mp4",
    ]
    video = scan_video(str(target / "train/walk/good.mp4"))
    assert (video.ok, video.frames, video.fps, video.height, video.width) == (True, 12, 10, 16, 24)
    assert scan_video(str(target / "train/run/good.mkv.mp4")).frames == 8


def test_what_is_done_is_kept_and_what_is_older_than_its_source_is_made_again(collection, tmp_path, here, capsys):
    target = tmp_path / "prepared"
    shutil.copytree(collection, tmp_path / "copy")
    assert run("prepare", "--data_dir", tmp_path / "copy", "--output_dir", target, *OPTIONS) == 1
    done = take_stock(target / "train")
    assert run("prepare", "--data_dir", tmp_path / "copy", "--output_dir", target, *OPTIONS) == 1
    assert "3 of 5 videos are done already" in capsys.readouterr().out
    assert take_stock(target / "train") == done

    later = (target / "train/walk/good.mp4").stat().st_mtime + 1
    write_video(tmp_path / "copy/train/walk/good.mp4", FRAMES[:6])
    os.utime(tmp_path / "copy/train/walk/good.mp4", (later, later))
    (tmp_path / "copy/train/run/good.mkv").unlink()
    assert run("prepare", "--data_dir", tmp_path / "copy", "--output_dir", target, *OPTIONS) == 1
    printed = capsys.readouterr().out
    assert "1 of 4 videos are done already" in printed
    assert (
        f"1 videos have no source (any more); remove them if they are not wanted: {target}/train/run/good.mkv"
        in printed
    )
    assert scan_video(str(target / "train/walk/good.mp4")).frames == 6


def test_other_settings_are_refused_or_everything_is_made_again(collection, tmp_path, here, capsys):
    target = tmp_path / "prepared"
    assert run("prepare", "--data_dir", collection, "--output_dir", target, *OPTIONS) == 1
    before = take_stock(target / "train")
    assert run("prepare", "--data_dir", collection, "--output_dir", target, "--short_side", 8) == 2
    assert "was made with short_side 16, not 8." in capsys.readouterr().err
    assert take_stock(target / "train") == before
    assert run("prepare", "--data_dir", collection, "--output_dir", target, "--short_side", 8, "--overwrite") == 1
    assert scan_video(str(target / "train/walk/good.mp4")).height == 8


def test_a_stopped_run_leaves_whole_files(collection, tmp_path, here, monkeypatch, capsys):
    target, encoded = tmp_path / "prepared", []
    fit = prepare._fit

    def stop_at_the_second_file(*arguments):
        encoded.append(arguments)
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(prepare, "_fit", stop_at_the_second_file)
    assert run("prepare", "--data_dir", collection, "--output_dir", target, *OPTIONS) == 130
    assert "Stopped; the same command goes on." in capsys.readouterr().err
    assert list_files(target) == ["failed.csv", "settings.json", "train/run/good.mkv.mp4"]
    assert "cut.mp4" in (target / "failed.csv").read_text()
    assert run("prepare", "--data_dir", collection, "--output_dir", target, *OPTIONS) == 1
    assert "1 of 5 videos are done already" in capsys.readouterr().out
    assert len(list_files(target)) == 5


@pytest.mark.parametrize(
    ("root", "target", "message"),
    [
        ("videos", "videos/prepared", "lies inside the input"),
        ("videos", "videos", "is the input"),
        ("videos", "link", "is the input"),
        ("videos/train", "other", "other exists already"),
        ("nowhere", "prepared", "nowhere: no such file or folder"),
        ("empty", "prepared", "empty: no videos there"),
    ],
)
def test_what_cannot_be_is_refused(collection, tmp_path, monkeypatch, capsys, root, target, message):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("videos")
    Path("empty").mkdir()
    Path("other").mkdir()
    Path("other/file").touch()
    before = set(os.listdir())
    assert run("prepare", "--data_dir", root, "--output_dir", target) == 2
    assert message in capsys.readouterr().err
    assert set(os.listdir()) == before and os.listdir("other") == ["file"]
