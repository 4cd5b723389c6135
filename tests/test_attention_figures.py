"""Pictures of what a model looked at; and `vtn attention`."""

import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from example_runs import run, take_stock
from tiny_models import RESNET
from video_files import write_video

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.commands.attention import draw
from vtn_hf.inference import attention_figures
from vtn_hf.inference.attention import look_at


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
    maps = attention_figures.map_frames(model, look, np.array([0, 7]))
    assert maps.shape == (2, 32, 32)
    assert maps.min() == 0 and maps.max() <= 1
    assert (model.vtn.backbone.config.to_dict(), model.vtn.backbone.config._attn_implementation) == before


def test_maps_of_a_grid_are_the_places_attended_to(processor, video):
    torch.manual_seed(0)
    config = VTNConfig(backbone_config=BACKBONES["resnet"], num_attention_heads=2, frame_grid=4, initializer_range=0.5)
    model = VTNForVideoClassification(config).eval()
    look = look_at(model, processor, video)
    maps = attention_figures.map_frames(model, look, np.array([0, 7]))
    assert maps.shape == (2, 32, 32)
    for number, places in zip((0, 7), maps, strict=True):
        row, column = np.unravel_index(look.places[number].argmax(), (4, 4))
        assert places[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].max() == places.max()
    # Half of one frame's attention falls on one of 16 places; another frame's is spread evenly, and looks so.
    look.places = np.full((8, 4, 4), 0.01, np.float32)
    look.places[7, 0, 0] = 0.15
    maps = attention_figures.map_frames(model, look, np.array([0, 7]))
    np.testing.assert_allclose(maps[0], 1 / 8, rtol=1e-5)
    assert maps[1].max() == pytest.approx(1) and maps[1].min() == pytest.approx(1 / 15)


def test_rollout_of_one_layer_is_its_attention(processor, video):
    backbone = BACKBONES["vit"] | {"num_hidden_layers": 1}
    model = VTNForVideoClassification(VTNConfig(backbone_config=backbone, num_attention_heads=2)).eval()
    look = look_at(model, processor, video)
    flow = attention_figures.roll_out(model, look, np.array([3]))
    model.vtn.backbone.set_attn_implementation("eager")
    (attention,) = model.vtn.backbone(look.inputs["pixel_values"][0, 3:4], output_attentions=True).attentions
    torch.testing.assert_close(flow.flatten(), attention[0].mean(0)[0, 1:] / 2)


def test_grad_cam_is_zero_where_the_class_does_not_look(processor, video):
    torch.manual_seed(1)
    model = VTNForVideoClassification(VTNConfig(backbone_config=BACKBONES["resnet"], num_attention_heads=2)).eval()
    look = look_at(model, processor, video)
    assert attention_figures.grad_cam(model, look, np.array([0, 5])).abs().sum() > 0
    model.classifier.out_proj.weight.data.zero_()  # now the scores depend on nothing
    assert attention_figures.grad_cam(model, look, np.array([0, 5])).abs().sum() == 0


def test_a_dollar_in_a_name_is_no_mathematics(model, processor, video, tmp_path):
    look = look_at(model, processor, video)
    name = "$\\frac{ | <b> $"
    attention_figures.plot_attention(look, tmp_path / "attention.png", name)
    assert (tmp_path / "attention.png").stat().st_size


def test_everything_is_drawn(model, processor, video, tmp_path, capsys):
    draw(model, processor, video, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"attention.png", "maps.png", "overlay.mp4"}
    assert capsys.readouterr().out.count("LABEL_") == 4
    with av.open(tmp_path / "overlay.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 20
    # Two seconds of the video are half of its frames; 256 pixels and 64 for the chart.
    assert frames[0].shape == (320, 256, 3)


@pytest.fixture
def folder(model, processor, video, tmp_path, monkeypatch):
    """A working directory with a model and a video, which stay as they are."""
    monkeypatch.chdir(tmp_path)
    for part in (model, processor):
        part.save_pretrained("RUN")
    Path("videos").mkdir()
    for name in ("overlay.mp4", "x.mkv"):
        shutil.copy(video, f"videos/{name}")
    Path("videos/broken.mkv").write_text("no video")
    before = take_stock(tmp_path / "RUN"), take_stock(tmp_path / "videos")
    yield tmp_path
    assert (take_stock(tmp_path / "RUN"), take_stock(tmp_path / "videos")) == before


def test_command_writes_what_it_is_asked_for(folder, capsys):
    arguments = ["--model", "RUN", "videos/x.mkv", "--output_dir", "RUN/../pictures"]
    assert run("attention", *arguments) == 0
    assert sorted(os.listdir("pictures")) == ["attention.png", "maps.png", "overlay.mp4"]
    before = take_stock(Path("pictures"))
    assert run("attention", *arguments) == 2 and "attention.png exists already" in capsys.readouterr().err
    assert take_stock(Path("pictures")) == before
    assert run("attention", *arguments, "--overwrite") == 0


@pytest.mark.parametrize(
    ("source", "output_dir", "status", "message"),
    [
        ("videos/overlay.mp4", "videos", 2, "overlay.mp4 is the input"),
        ("videos/nowhere.mp4", "pictures", 2, "nowhere.mp4: no such video"),
        ("videos/broken.mkv", "pictures", 2, "vtn attention: error: videos/broken.mkv: "),
    ],
)
def test_command_says_what_is_wrong(folder, capsys, source, output_dir, status, message):
    arguments = ["--model", "RUN", source, "--output_dir", output_dir, "--overwrite"]
    assert run("attention", *arguments) == status
    assert message in capsys.readouterr().err
    assert set(os.listdir()) == {"RUN", "videos"}
