"""Classification of a collection by several processes, killed at any moment and started again."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_models import make_vit_vtn
from video_files import write_video

from vtn_hf import VTNVideoProcessor
from vtn_hf.commands import classify


pytestmark = pytest.mark.slow

NUM_VIDEOS = int(os.environ.get("VTN_TEST_VIDEOS", 300))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model, and videos of which one in twenty is damaged: hard links to a few, which is quicker than to encode."""
    root = tmp_path_factory.mktemp("launched")
    make_vit_vtn(num_frames=4, num_labels=3).save_pretrained(root / "model")
    VTNVideoProcessor(num_frames=4, size=18, crop_size=16).save_pretrained(root / "model")
    generator = np.random.default_rng(0)
    kinds = [
        write_video(root / f"{kind}.mp4", generator.integers(0, 256, (6 + kind, 20, 24, 3), np.uint8))
        for kind in range(10)
    ]
    cut = root / "cut.mp4"
    cut.write_bytes(kinds[0].read_bytes()[:-1500])
    (root / "videos").mkdir()
    for number in range(NUM_VIDEOS):
        os.link(cut if number % 20 == 7 else kinds[number % 10], root / f"videos/{number:05d}.mp4")
    return root


def make_command(root, output, num_processes):
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}", "--master_port=0"]
    launcher = [*launcher, "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"] if num_processes > 1 else []
    arguments = ["--model", "model", "videos", "--output", output, "--num_frames", "4", "--device", "cpu"]
    return [sys.executable, *launcher, "-m", "vtn_hf.commands.classify", *arguments]


def launch(root, output, num_processes):
    path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = make_command(root, output, num_processes)
    with open(root / "log.txt", "a") as log:
        return subprocess.Popen(command, cwd=root, env=environment, start_new_session=True, stdout=log, stderr=log)


def count(root, name):
    return sum(path.read_bytes().count(b"\n") for path in root.glob(f"*{name}*.jsonl"))


def test_killed_and_started_again(root, monkeypatch):
    monkeypatch.chdir(root)
    arguments = ["--model", "model", "videos", "--num_frames", "4", "--device", "cpu"]
    assert classify.main([*arguments, "--output", "one.jsonl"]) == 1
    generator = random.Random(0)
    for _ in range(3):
        before = count(root, "several")
        process = launch(root, "several.jsonl", 4)
        # At any moment after the first results of this run.
        wanted = before + generator.randint(1, NUM_VIDEOS // 5)
        while process.poll() is None and count(root, "several") < wanted:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert before < NUM_VIDEOS
    assert launch(root, "several.jsonl", 4).wait(timeout=400) == 0
    rows, expected = (
        [json.loads(line) for line in Path(name).read_text().splitlines()] for name in ("several.jsonl", "one.jsonl")
    )
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys() and row.get("error") == other.get("error")
        scores, others = ({best["label"]: best["score"] for best in each.get("scores", ())} for each in (row, other))
        # How numbers lie in memory decides on the last digits.
        assert scores == pytest.approx(others, abs=1e-6)
    assert [row["video"] for row in rows] == [f"videos/{number:05d}.mp4" for number in range(NUM_VIDEOS)]
    assert sum("error" in row for row in rows) == sum(number % 20 == 7 for number in range(NUM_VIDEOS))
    assert not list(root.glob(".*.part-*"))
    shutil.rmtree(root / "videos")
