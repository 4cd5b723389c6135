"""examples/event_attention.py on two event videos and one that is none."""

import json

import event_attention
import pytest
import torch
from tiny_models import make_vit_vtn

from drawn_videos.event_videos import write_event_videos
from vtn_hf import VTNVideoProcessor


def test_attention_on_events_is_measured(tmp_path, capsys):
    root = write_event_videos("order", tmp_path / "order", num_train=1, num_val=2, num_workers=1)
    model = make_vit_vtn(num_labels=4)
    for layer in model.vtn.temporal_encoder.layers:  # attention that is spread evenly
        torch.nn.init.zeros_(layer.attention.query_global.weight)
        torch.nn.init.zeros_(layer.attention.query_global.bias)
    model.save_pretrained(tmp_path / "RUN")
    VTNVideoProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        tmp_path / "RUN"
    )
    (root / "val/broken").mkdir()
    (root / "val/broken/broken.mp4").write_text("no video")
    arguments = ["--model", str(tmp_path / "RUN"), "--output_dir", str(tmp_path / "out")]
    assert event_attention.main([*arguments, "--data_dir", str(root / "val")]) == 1
    errors = capsys.readouterr().err
    assert "1 of 3 videos failed" in errors and "broken.mp4" in errors
    measured = json.loads((tmp_path / "out/event_attention.json").read_text())
    assert measured["num_videos"] == 2
    assert 2 * 12 / 320 <= measured["chance"] <= 2 * 20 / 256
    assert measured["ratio"] == pytest.approx(1, abs=1e-3)

    video = next(root.glob("val/[!b]*/*.mp4"))
    assert event_attention.main([*arguments, "--video", str(video)]) == 0
    assert (tmp_path / "out/attention.png").is_file()
