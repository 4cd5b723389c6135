"""examples/benchmarks/engine_accuracy.py on drawn videos: that it compares what it says."""

import json
import sys
from pathlib import Path

import pytest
from test_filmed_videos import backbone, collection  # noqa: F401 - fixtures

from vtn_hf.optimization import engine


pytest.importorskip("openvino")
sys.path.insert(0, str(Path(__file__).parent.parent / "examples/benchmarks"))

import engine_accuracy  # noqa: E402
from filmed import variants  # noqa: E402


def test_engines_are_compared_with_plain_pytorch(collection, backbone, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(engine, "CACHE_DIR", tmp_path / "cache")
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
    monkeypatch.setattr(engine_accuracy, "VARIANTS", {"VTN": variants.SMALL.change(small, {"num_train_epochs": 1})})
    output = tmp_path / "accuracy.json"
    command = ["words", str(collection), "--backbone_name_or_path", str(backbone), "--frame_size", "16"]
    engine_accuracy.main([*command, "--output_dir", str(tmp_path), "--output", str(output), "--seeds", "0"])
    rows = json.loads(output.read_text())["words"]
    plain = rows.pop("plain PyTorch")
    assert plain["features differ by"] == plain["logits differ by"] == plain["other answers"] == 0
    assert rows["OpenVINO, float32"]["features differ by"] < 1e-4 < rows["OpenVINO, bfloat16"]["features differ by"]
    assert all(row["least cosine"] > 0.99 for row in rows.values())
    assert rows["OpenVINO, float32"]["top-1"] == plain["top-1"]
    assert "| optimised PyTorch |" in capsys.readouterr().out
