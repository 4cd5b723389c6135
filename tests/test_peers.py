"""Tests of examples/benchmarks/peers.py and tradeoff.py on tiny models: that they run, not how fast anything is."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from drawn_videos.event_videos import write_event_videos
from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor


sys.path.insert(0, str(Path(__file__).parent.parent / "examples/benchmarks"))

import peers  # noqa: E402
import tradeoff  # noqa: E402


def build_vtn():
    backbone = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    return VTNForVideoClassification(VTNConfig(backbone_config=backbone, num_attention_heads=2, intermediate_size=8))


def build_videomae():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return VideoMAEForVideoClassification(VideoMAEConfig(image_size=32, num_frames=4, **sizes))


def test_rounds_are_added_and_reported(tmp_path, monkeypatch, capsys):
    models = {
        "VTN": peers.Model(build_vtn, 8, 4, 32, 1, 78.0, "nowhere"),
        "VTN, few frames": peers.Model(build_vtn, 3, 4, 32, 1, None, "nowhere"),
        "VideoMAE": peers.Model(build_videomae, 4, 4, 32, 15, 80.0, "nowhere"),
    }
    monkeypatch.setattr(peers, "MODELS", models)
    # The memory is measured in processes that import the module anew, and know nothing of the tiny models.
    monkeypatch.setattr(peers, "measure_memory_apart", lambda name: 1.0)
    output, figure = tmp_path / "peers.json", tmp_path / "figures/peers.png"
    command = ["peers", "--output", str(output), "--figure", str(figure), "--num_rounds", "1"]
    monkeypatch.setattr(sys, "argv", command)
    peers.main()
    peers.main()

    rows = json.loads(output.read_text())["models"]
    assert [len(row[name]) for row in rows.values() for name in ("clip_sec", "step_sec")] == [2] * 6
    assert all(row["multiply_adds_g_per_clip"] > 0 and row["parameters_m"] > 0 for row in rows.values())
    printed = capsys.readouterr().out
    assert "| VTN | 1 × 8 |" in printed and "| – |" in printed and "| VideoMAE | 15 × 4 |" in printed
    assert figure.exists()

    results = json.loads(output.read_text())
    results["machine"]["cpu"] = "another one"
    output.write_text(json.dumps(results))
    with pytest.raises(ValueError, match="holds timings of .*another one"):
        peers.main()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, model in peers.MODELS.items() if model.top1])
def test_the_peers_are_built_as_published(name):
    counted = peers.count(name)
    assert counted["multiply_adds_g_per_clip"] > 100
    assert 80 < counted["parameters_m"] < 400


def test_memory_is_measured_in_a_process_of_its_own():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux")
    assert peers.read_status("VmHWM") >= peers.read_status("VmRSS") > 0


def test_tradeoff_measures_and_draws(tmp_path, monkeypatch):
    torch.manual_seed(0)
    root = write_event_videos("order", tmp_path / "videos", num_train=1, num_val=2, num_workers=1)
    build_vtn().save_pretrained(tmp_path / "model")
    processor = VTNVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "model")
    cells = {
        "250 frames": {"whole video": [0.9], "8 frames": [0.3], "250 frames": [0.9]},
        "base": {"whole video": [0.8]},
    }
    (tmp_path / "ablations.json").write_text(json.dumps({"order": cells}))
    command = ["tradeoff", "--model", tmp_path / "model", "--videos", root / "val"]
    command += ["--ablations", tmp_path / "ablations.json", "--output", tmp_path / "tradeoff.json"]
    monkeypatch.setattr(sys, "argv", [str(part) for part in [*command, "--figure", tmp_path / "tradeoff.png"]])
    tradeoff.main()

    rows = json.loads((tmp_path / "tradeoff.json").read_text())["frames"]
    assert list(rows) == [str(num_frames) for num_frames in tradeoff.FRAME_COUNTS]
    multiply_adds = [row["multiply_adds_m"] for row in rows.values()]
    assert multiply_adds == sorted(multiply_adds)
    assert (tmp_path / "tradeoff.png").exists()
