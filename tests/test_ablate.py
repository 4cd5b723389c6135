"""Tests of examples/ablate.py on a few videos."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import ablate  # noqa: E402
from ablation_report import TABLES, format_spread  # noqa: E402
from baselines import WindowedClassifier  # noqa: E402


@pytest.fixture(scope="module")
def backbone_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    backbone = {
        "model_type": "resnet",
        "layer_type": "basic",
        "embedding_size": 4,
        "hidden_sizes": [4, 8],
        "depths": [1, 1],
    }
    VTNForVideoClassification(VTNConfig(backbone_config=backbone, num_attention_heads=2)).save_pretrained(root)
    VTNVideoProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(root)
    return root


def test_grid_runs_resumes_and_reports(backbone_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "NUM_VIDEOS", {"order": (6, 3)})
    monkeypatch.setattr(ablate, "VIDEOS_PER_SHARD", 4)
    monkeypatch.setattr(ablate, "BACKBONE_STEPS", 2)
    monkeypatch.setitem(ablate.TASK_TRAINING["order"], "num_train_epochs", 1)
    command = ["ablate", "--backbone", backbone_dir, "--output_dir", tmp_path / "runs", "--report_dir", tmp_path]
    command += [
        "--num_workers",
        "1",
        "--tasks",
        "order",
        "--seeds",
        "0",
        "--only",
        "^(base|clips of 16 over 64|no layer|fine-tuned.*)$",
    ]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    ablate.main()

    cells = {path.parent.parent.name: path for path in tmp_path.glob("runs/cells/order/*/seed0/result.json")}
    assert set(cells) == {"base", "clips of 16 over 64", "no layer", "fine-tuned for one epoch more"}
    result = json.loads(cells["base"].read_text())
    assert set(result["top1"]) == {"whole video", "clips"}
    assert all(round(top1 * 3) == pytest.approx(top1 * 3) for top1 in result["top1"].values())
    assert "| 2 (base) |" in (tmp_path / "ablations.md").read_text()
    assert (tmp_path / "figures/ablations.png").exists()

    def backbone_of(name):
        return VTNForVideoClassification.from_pretrained(cells[name].parent).vtn.backbone.state_dict()

    original = VTNForVideoClassification.from_pretrained(tmp_path / "runs/backbone").vtn.backbone.state_dict()
    assert all(weights.equal(original[name]) for name, weights in backbone_of("base").items())
    changed = backbone_of("fine-tuned for one epoch more")
    assert not all(weights.equal(original[name]) for name, weights in changed.items())

    cells["base"].unlink()
    written = {name: path.stat().st_mtime_ns for name, path in cells.items() if name != "base"}
    ablate.main()
    assert cells["base"].exists()
    assert written == {name: cells[name].stat().st_mtime_ns for name in written}


def test_frames_are_chosen_one_per_part():
    everything = np.arange(100)
    assert ablate.choose_frames(everything, 4).tolist() == [12, 37, 62, 87]
    assert ablate.choose_frames(everything, 4, offset=0).tolist() == [0, 25, 50, 75]
    assert ablate.choose_frames(everything, 4, span=20, place=1, offset=0).tolist() == [80, 85, 90, 95]
    # Of frames 0, 2, 4, … the last one before the place wanted.
    assert ablate.choose_frames(np.arange(0, 100, 2), 4, span=20, place=0, offset=0).tolist() == [0, 2, 5, 7]


def test_without_global_attention_nothing_reaches_beyond_the_windows():
    torch.manual_seed(0)
    config = VTNConfig(
        backbone_config={"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]},
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_window=4,
        initializer_range=0.5,
    )
    model = WindowedClassifier(config).eval()
    first = torch.randn(1, 20, 8)
    second = first.clone()
    second[:, 0] = torch.randn(8)
    states = [model.vtn(inputs_embeds=features).last_hidden_state for features in (first, second)]
    difference = (states[0] - states[1])[0].abs().sum(dim=-1)
    assert difference[0] == 0  # the class token
    assert difference[1:6].min() > 0 and difference[6:].max() < 1e-5


def test_every_row_of_the_report_is_trained():
    assert {variant for rows in TABLES.values() for _, variant, _ in rows} <= set(ablate.VARIANTS)


def test_spread_names_what_is_missing():
    assert format_spread([0.5, 0.6, 0.7]) == "0.600 ± 0.100"
    assert format_spread([0.5, 0.7]) == "0.600 ± 0.141 (2 seeds)"
    assert format_spread([0.5]) == "0.500 (1 seed)"
    assert format_spread([]) == "–"
