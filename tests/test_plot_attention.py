"""Tests of examples/plot_attention.py and of what examples/app.py shows."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tiny_models import RESNET
from video_files import write_video

from drawn_videos.event_videos import write_event_videos
from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.inference.attention import look_at


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import app  # noqa: E402
import plot_attention  # noqa: E402


BACKBONES = {
    "resnet": RESNET,
    "vit": {
        "model_type": "vit",
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 32,
        "patch_size": 8,
    },
}


@pytest.fixture(scope="module", params=list(BACKBONES))
def model(request):
    torch.manual_seed(0)
    config = VTNConfig(
        backbone_config=BACKBONES[request.param],
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=4,
        initializer_range=0.5,
    )
    return VTNForVideoClassification(config).eval()


@pytest.fixture(scope="module")
def processor():
    return VTNVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, num_frames=20)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), dtype=np.uint8)
    return write_video(tmp_path_factory.mktemp("video") / "video.mkv", frames, fps=10)


def test_maps_tell_what_the_class_depends_on(model, processor, video):
    look = look_at(model, processor, video)
    before = model.vtn.backbone.config.to_dict(), model.vtn.backbone.config._attn_implementation
    maps = plot_attention.map_frames(model, look, np.array([0, 7]))
    assert maps.shape == (2, 32, 32)
    assert maps.min() == 0 and maps.max() <= 1
    assert (model.vtn.backbone.config.to_dict(), model.vtn.backbone.config._attn_implementation) == before


def test_rollout_of_one_layer_is_its_attention(processor, video):
    backbone = BACKBONES["vit"] | {"num_hidden_layers": 1}
    model = VTNForVideoClassification(VTNConfig(backbone_config=backbone, num_attention_heads=2)).eval()
    look = look_at(model, processor, video)
    flow = plot_attention.roll_out(model, look, np.array([3]))
    model.vtn.backbone.set_attn_implementation("eager")
    (attention,) = model.vtn.backbone(look.inputs["pixel_values"][0, 3:4], output_attentions=True).attentions
    torch.testing.assert_close(flow.flatten(), attention[0].mean(0)[0, 1:] / 2)


def test_grad_cam_is_zero_where_the_class_does_not_look(processor, video):
    torch.manual_seed(1)
    model = VTNForVideoClassification(VTNConfig(backbone_config=BACKBONES["resnet"], num_attention_heads=2)).eval()
    look = look_at(model, processor, video)
    assert plot_attention.grad_cam(model, look, np.array([0, 5])).abs().sum() > 0
    model.classifier.out_proj.weight.data.zero_()  # now the scores depend on nothing
    assert plot_attention.grad_cam(model, look, np.array([0, 5])).abs().sum() == 0


def test_a_dollar_in_a_name_is_no_mathematics(model, processor, video, tmp_path):
    look = look_at(model, processor, video)
    name = "$\\frac{ | <b> $"
    plot_attention.plot_attention(look, tmp_path / "attention.png", name)
    labels = model.config.id2label
    model.config.id2label = {label: f"{name}{label}" for label in labels}
    app.plot_timeline(model, look, tmp_path / "timeline.png")
    model.config.id2label = labels
    assert len(list(tmp_path.iterdir())) == 2


def test_everything_is_drawn(model, processor, video, tmp_path, capsys):
    plot_attention.draw(model, processor, video, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"attention.png", "maps.png", "overlay.mp4"}
    assert capsys.readouterr().out.count("LABEL_") == 4
    with av.open(tmp_path / "overlay.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 20
    # Two seconds of the video are half of its frames; 256 pixels and 64 for the chart.
    assert frames[0].shape == (320, 256, 3)


def test_attention_on_events_is_measured(model, tmp_path):
    root = write_event_videos("order", tmp_path / "order", num_train=1, num_val=2, num_workers=1)
    processor = VTNVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for layer in model.vtn.temporal_encoder.layers:  # attention that is spread evenly
        torch.nn.init.zeros_(layer.attention.query_global.weight)
        torch.nn.init.zeros_(layer.attention.query_global.bias)
    measured = plot_attention.measure_events(model, processor, sorted(root.glob("val/*/*.mp4")))
    assert measured["num_videos"] == 2
    assert 2 * 12 / 320 <= measured["chance"] <= 2 * 20 / 256
    assert measured["ratio"] == pytest.approx(1, abs=1e-3)


def test_app_shows_classes_timeline_and_attention(model, processor, video):
    classes, *files = app.analyse(model, processor, str(video))
    assert sum(classes.values()) == pytest.approx(1)
    assert [Path(path).name for path in files] == ["timeline.png", "attention.png", "maps.png", "overlay.mp4"]
    assert all(Path(path).stat().st_size > 0 for path in files)
