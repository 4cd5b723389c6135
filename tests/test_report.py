"""The report of a run: what it counts and what it shows."""

import csv
from pathlib import Path

import numpy as np
import pytest

from vtn_hf.training.report import format_classes, write_report


NAMES = ["jump", "run", "sit"]
LABELS = np.array([0, 0, 0, 1, 1])
PREDICTIONS = np.array([0, 1, 1, 1, 1])
LOG = [
    {"epoch": 0.5, "loss": 2.0, "step": 1},
    {"epoch": 1.0, "eval_loss": 1.5, "eval_top1": 0.6, "eval_top5": 1.0, "step": 2},
]


def test_the_report_counts_each_video_and_shows_all(tmp_path: Path):
    pytest.importorskip("matplotlib")
    page = write_report(tmp_path / "report", LOG, NAMES, LABELS, PREDICTIONS, {"eval_top1": 0.6}, {"a.mp4": "cut off"})

    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.md",
        "curves.png",
        "confusion_matrix.png",
        "confusion_matrix.csv",
    }
    rows = list(csv.reader((tmp_path / "report/confusion_matrix.csv").open()))
    assert rows == [["", *NAMES], ["jump", "1", "2", "0"], ["run", "0", "2", "0"], ["sit", "0", "0", "0"]]
    assert page == (tmp_path / "report/report.md").read_text()
    for line in ("| eval_top1 | 0.6 |", "![Curves](curves.png)", "could not be read: 1", "- a.mp4: cut off"):
        assert line in page


def test_classes_with_their_mistakes():
    confusion = np.array([[1, 2, 0], [0, 2, 0], [0, 0, 0]])
    assert format_classes(confusion, NAMES).splitlines()[2:] == [
        "| jump | 3 | 0.333 | 1.000 | run (2) |",
        "| run | 2 | 1.000 | 0.500 | – |",
        "| sit | 0 | – | – | – |",
    ]


def test_without_matplotlib_it_says_what_is_missing(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    page = write_report(tmp_path, LOG, NAMES, LABELS, PREDICTIONS, {})
    assert "pip install matplotlib" in page and not list(tmp_path.glob("*.png"))


def test_many_classes_are_drawn_too(tmp_path: Path):
    pytest.importorskip("matplotlib")
    labels = np.arange(400)
    write_report(tmp_path, [], [str(label) for label in labels], labels, labels, {})
    assert (tmp_path / "confusion_matrix.png").stat().st_size < 200_000
