"""examples/benchmarks/claims.py on tiny models: that it counts, adds rounds and reports, not how fast anything is."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import RESNET_VTN

from vtn_hf import VTNConfig, VTNForVideoClassification


pytest.importorskip("torchvision")
sys.path.insert(0, str(Path(__file__).parent.parent / "examples/benchmarks"))

import claims  # noqa: E402


def build():
    return VTNForVideoClassification(VTNConfig(**RESNET_VTN))


def make_clip(num_frames):
    return {"pixel_values": torch.rand(1, num_frames, 3, 16, 16)}


def test_it_counts_adds_rounds_and_reports(tmp_path, monkeypatch, capsys):
    models = {
        "ViT-B-VTN": claims.Model(build, make_clip, 8, 4, 1, 78.0, "nowhere"),
        "views": claims.Model(build, make_clip, 8, 4, 3, 80.0, "nowhere"),
    }
    monkeypatch.setattr(claims, "MODELS", models)
    monkeypatch.setattr(claims, "RECIPES", {"ViT-B-VTN": claims.Recipe(25, 1, "a paper")})
    output = tmp_path / "claims.json"

    claims.main(["--output", str(output)])
    counted = json.loads(output.read_text())
    # Counts are the same on every machine, timings are not.
    output.write_text(json.dumps(counted | {"machine": {"cores": 1000}}))
    claims.main(["--output", str(output), "--num_rounds", "2"])
    assert json.loads(output.read_text())["machine"] == counted["machine"]

    rows = json.loads(output.read_text())["models"]
    assert [len(row[name]) for row in rows.values() for name in ("clip_sec", "step_sec")] == [2] * 4
    assert rows["ViT-B-VTN"]["multiply_adds_g_per_test_clip"] > rows["ViT-B-VTN"]["multiply_adds_g_per_train_clip"] > 0
    printed = capsys.readouterr().out
    # Three views are three times as much; of a model without a recipe the training is not known.
    assert "| views | 80.0 | 3 × 8 |" in printed and "(3.00 ×) | – |" in printed

    output.write_text(json.dumps(json.loads(output.read_text()) | {"machine": {"cores": 1000}}))
    with pytest.raises(ValueError, match="'cores': 1000"):
        claims.main(["--output", str(output), "--num_rounds", "1"])


def test_what_torchvision_publishes_is_quoted():
    swin = claims.MODELS["Swin3D-B"]
    assert (swin.num_views, swin.num_frames, round(swin.top1, 1)) == (12, 32, 79.4)
    assert "clips_per_video=12" in swin.protocol and swin.published_ops == pytest.approx(140.667)
