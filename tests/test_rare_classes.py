"""examples/rare_classes.py on a few videos."""

import csv
import json
from pathlib import Path

import pytest
import rare_classes

from drawn_videos.motion_clips import CLASS_NAMES, TIME_REVERSED
from vtn_hf.data.collection import read_collection


def test_lists(tmp_path: Path):
    for split, number in (("train", 40), ("val", 3)):
        for name in CLASS_NAMES:
            (tmp_path / "clips" / split / name).mkdir(parents=True)
            for each in range(number):
                (tmp_path / "clips" / split / name / f"{each}.mp4").touch()
    rare_classes.write_lists(tmp_path / "clips", tmp_path / "lists")
    counts = read_collection(tmp_path / "lists").counts
    assert counts["val"] == dict.fromkeys(CLASS_NAMES, 3)
    for name in CLASS_NAMES:
        assert sorted((counts["train"][name], counts["train"][TIME_REVERSED[name]])) == [2, 40]


@pytest.mark.slow
def test_main(tmp_path: Path):
    small = ["--num_train", "200", "--num_val", "20", "--num_workers", "0", "--seeds", "1"]
    small += ["--num_train_epochs", "1", "--num_feature_epochs", "1"]
    arguments = [str(tmp_path / "runs"), "--output", str(tmp_path / "rare.json"), *small]
    assert rare_classes.main(arguments) == 0
    results = json.loads((tmp_path / "rare.json").read_text())
    assert [result["class_balance"] for result in results] == ["none", "sampler", "loss"]
    for result in results:
        assert result["all"] == pytest.approx((result["frequent"] + result["rare"]) / 2, abs=1e-3)
    with open(tmp_path / "runs/sampler_0/report/classes.csv", newline="") as file:
        assert sum(int(row["videos"]) for row in csv.DictReader(file)) == 20
    assert rare_classes.main(arguments) == 0
    assert json.loads((tmp_path / "rare.json").read_text()) == results
