"""No command changes what it reads: names, contents, permissions and times of whole folders, before and after."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from example_runs import SETTINGS, as_flags, map_here, run, take_stock
from tiny_models import RESNET_VTN
from video_files import write_video

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.commands import app, prepare


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a collection, a model and a backbone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "map_files", map_here)
    noise = np.random.default_rng(0).integers(0, 256, (8, 24, 32, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for number, name in enumerate(("walk/x.mp4", "walk/x.mkv", "run fast/x.mp4", "run fast/ü 1.avi")):
            path = Path("videos", split, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, np.roll(noise, number))
        os.link(f"videos/{split}/walk/x.mp4", f"videos/{split}/walk/hard.mp4")
        Path(f"videos/{split}/walk/link.mp4").symlink_to("x.mp4")
    Path("videos/train/walk/broken.mp4").write_bytes(b"no video")
    Path("videos/notes.txt").write_text("precious")
    model = VTNForVideoClassification(VTNConfig(**RESNET_VTN, id2label={0: "run fast", 1: "walk"}, num_frames=4))
    model.save_pretrained("RUN")
    model.vtn.backbone.save_pretrained("BACKBONE")
    processor = VTNVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, num_frames=4)
    for place in ("RUN", "BACKBONE"):
        processor.save_pretrained(place)
    return tmp_path


EXTRACT = ["--data_dir", "videos", "--backbone_name_or_path", "BACKBONE", "--num_workers", "0", "--device", "cpu"]
EVALUATE = ["--model", "RUN", "--data_dir", "videos", "--num_workers", "0"]
TRAIN = as_flags(SETTINGS | {"max_steps": 1, "data_dir": "videos"})
# Beside the arguments: what an output is called, and whether the broken video makes the exit status 1.
COMMANDS = {
    "classify": (
        ["--model", "RUN", "videos", "videos/train/*/*.mp4", "--save_video", "copies"],
        "--output",
        "out.json",
        1,
    ),
    "stream": (["--model", "RUN", "videos/val/walk/x.mp4"], "--output", "out.csv", 0),
    "prepare": (["--data_dir", "videos"], "--output_dir", "out", 1),
    "scan": (["--data_dir", "videos", "--num_workers", "1"], "--output", "out.csv", 1),
    "attention": (["--model", "RUN", "videos/val/walk/link.mp4"], "--output_dir", "out", 0),
    "extract": (EXTRACT, "--output_dir", "out", 0),
    "evaluate": (EVALUATE, "--output_dir", "out", 0),
    "train": (TRAIN, "--output_dir", "out", 0),
}


def take_stock_of_inputs() -> dict[str, dict]:
    return {name: take_stock(Path(name)) for name in ("videos", "RUN", "BACKBONE")}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_changes_nothing_that_it_reads(folder, command):
    arguments, flag, output, status = COMMANDS[command]
    before = take_stock_of_inputs()
    assert run(command, *arguments, flag, output) == status
    assert take_stock_of_inputs() == before
    assert Path(output).exists()


@pytest.mark.parametrize("output", ["videos/val/walk/x.mp4", "link/val/walk/x.mp4", "videos/val", "videos"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_not_write_where_it_reads(folder, command, output):
    """Also if it is asked to."""
    if command == "attention" and not output.endswith("mp4"):
        return  # it reads a file, and may write beside it
    Path("link").symlink_to("videos")
    arguments, flag, *_ = COMMANDS[command]
    before = take_stock_of_inputs()
    assert run(command, *arguments, flag, output) not in (0, None)
    assert take_stock_of_inputs() == before


def test_the_app_changes_no_upload(folder):
    before = take_stock_of_inputs()
    model, processor = VTNForVideoClassification.from_pretrained("RUN"), VTNVideoProcessor.from_pretrained("RUN")
    Path("page").mkdir()
    app.Analyst(model.eval(), processor, Path("page"))("videos/val/walk/x.mp4")
    assert take_stock_of_inputs() == before


def test_a_stock_tells_of_every_change(folder):
    before = take_stock(Path("videos"))
    path = Path("videos/val/walk/x.mp4")
    os.utime(path, ns=(0, 0))
    assert take_stock(Path("videos")) != before
    assert json.dumps(list(before)) == json.dumps(list(take_stock(Path("videos"))))
