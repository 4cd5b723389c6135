"""examples/benchmarks/anytime_filmed.py on drawn videos: folds apart, fewer frames in training, goes on."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_filmed_videos import backbone, collection  # noqa: F401 - fixtures


sys.path.insert(0, str(Path(__file__).parent.parent / "examples/benchmarks"))

import anytime_filmed  # noqa: E402
from filmed import variants  # noqa: E402


def test_all_folds_are_tested_by_what_others_give(collection, backbone, tmp_path, monkeypatch):  # noqa: F811
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
    tiny = {
        "frozen": variants.CHANGES.change(small, {"num_train_epochs": 1}),
        "end to end": variants.END_TO_END.change(small, {"num_train_epochs": 1}),
    }
    monkeypatch.setattr(anytime_filmed, "VARIANTS", tiny)
    cells = []

    class Noted(anytime_filmed.Cell):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            cells.append(self)

    monkeypatch.setattr(anytime_filmed, "Cell", Noted)
    output = tmp_path / "anytime.json"
    for name, more in (("frozen", ["--num_timed", "1"]), ("end to end", [])):
        command = ["words", str(collection), "--output_dir", str(tmp_path), "--output", str(output), "--seeds", "0"]
        command += ["--backbone_name_or_path", str(backbone), "--variant", name, "--frame_size", "16", *more]
        anytime_filmed.main(command)
        for trained, tested in zip(cells[::2], cells[1::2], strict=True):
            assert not {*trained.train, *trained.test} & {*tested.test}
        assert sorted(np.concatenate([cell.test for cell in cells[1::2]])) == list(range(20))
        cells.clear()
        anytime_filmed.main(command)
        assert not cells
    frozen, whole = json.loads(output.read_text())["words"].values()
    assert frozen["all frames, mean of frames"] == whole["all frames, mean of frames"] == 8
    assert frozen["anytime, mean of seconds"] > 0


def test_fewer_frames():
    position_ids, generator = np.arange(0, 40, 2), np.random.default_rng(0)
    counts = set()
    for _ in range(200):
        chosen, places = anytime_filmed.FewerFrames(5)(position_ids, generator)
        assert (np.diff(chosen) > 0).all() and places.tolist() == position_ids[chosen].tolist()
        counts.add(len(chosen))
    assert min(counts) == 5 and max(counts) == 20
    assert anytime_filmed.FewerFrames(5)(position_ids[:3], generator)[0].tolist() == [0, 1, 2]


def test_a_missing_backbone_is_told(capsys):
    with pytest.raises(SystemExit):
        anytime_filmed.main(["words", "VIDEOS", "--output_dir", "RUN", "--variant", "VTN"])
    assert "--backbone_name_or_path is missing" in capsys.readouterr().err


def test_variants_without_training_are_not_offered(capsys):
    with pytest.raises(SystemExit):
        anytime_filmed.main(["words", "VIDEOS", "--output_dir", "RUN", "--variant", "kernel ridge on pixels"])
    assert "invalid choice" in capsys.readouterr().err
