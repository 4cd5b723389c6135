"""`vtn new` from a folder of a few videos to a classifier, stopped once."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from example_runs import map_here, run, take_stock
from transformers import Dinov2Config, Dinov2Model, pipeline
from video_files import write_video

from vtn_hf import VTNVideoProcessor
from vtn_hf.commands import extract, train


COLOURS = {"red": (250, 20, 20), "green": (20, 250, 20), "blue": (20, 20, 250)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of four videos that any model tells apart, a damaged one, and an image model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vtn_hf.data.scan.map_files", map_here)
    monkeypatch.setattr(extract, "map_files", map_here)
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        Path("VIDEOS", name).mkdir(parents=True)
        for number in range(4):
            noise = generator.integers(-20, 20, (6, 24, 32, 3)) + np.array(colour)
            write_video(f"VIDEOS/{name}/{number}.mp4", noise.clip(0, 255).astype(np.uint8))
    Path("VIDEOS/red/damaged.mp4").write_bytes(b"no video")
    sizes = {"size": {"height": 16, "width": 16}, "crop_size": {"height": 16, "width": 16}}
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    Dinov2Model(config).save_pretrained("BACKBONE")
    VTNVideoProcessor(**sizes).save_pretrained("BACKBONE")
    return tmp_path


COMMAND = ("--data_dir", "VIDEOS", "--output_dir", "MINE", "--backbone_name_or_path", "BACKBONE", "--device", "cpu")


def test_from_videos_to_a_classifier_with_a_stop(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    before, steps = take_stock(folder / "VIDEOS"), []

    class StoppedTrainer(train.VTNTrainer):
        def training_step(self, *args, **kwargs):
            steps.append(self.state.global_step)
            if len(steps) == 8:
                raise KeyboardInterrupt
            return super().training_step(*args, **kwargs)

    monkeypatch.setattr(train, "VTNTrainer", StoppedTrainer)
    assert run("new", *COMMAND) == 130
    printed = capsys.readouterr()
    assert "Stopped; the same command goes on." in printed.err
    assert "12 of 13 videos are good" in printed.out and "damaged.mp4" in printed.out
    assert "    vtn extract --data_dir MINE/split --scan_table MINE/scan.csv --output_dir MINE/features" in printed.out
    features = take_stock(folder / "MINE/features/train")

    assert run("new", *COMMAND) == 0
    printed = capsys.readouterr().out
    assert "The videos are split already" in printed and "Going on from MINE/checkpoint-5" in printed
    assert "train: 9 of 9 videos are done already." in printed
    assert take_stock(folder / "MINE/features/train") == features
    assert steps[8] == 5 and take_stock(folder / "VIDEOS") == before

    results = json.loads(Path("MINE/eval_results.json").read_text())
    assert results["eval_top1"] == 1 and "top1 on the videos held out: 1.000" in printed
    assert "confusion" in Path("MINE/report/index.html").read_text()
    (best, *_) = pipeline("video-classification", model="MINE")("VIDEOS/green/0.mp4")
    assert best["label"] == "green"

    # Everything is done; and what is printed does a step alone.
    assert run("new", *COMMAND) == 0
    printed = capsys.readouterr().out
    assert "MINE is finished; nothing is left to do." in printed
    (words,) = (line.split() for line in printed.splitlines() if line.startswith("    vtn train "))
    assert run("train", *words[2:]) == 0
    shutil.rmtree("MINE/features")
    assert run("train", *words[2:]) == 2


def test_mistakes_are_those_of_the_step(folder: Path, capsys: pytest.CaptureFixture):
    assert run("new", "--data_dir", "NOWHERE", "--output_dir", "MINE") == 2
    assert capsys.readouterr().err == "vtn scan: error: NOWHERE is not a folder.\n"
    assert run("new", *COMMAND, "--backbone_name_or_path", "no/such/model") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("vtn extract: error: ")
