"""The pixels that image models were trained on, by what stands beside their weights."""

import json

import numpy as np
import pytest
import torch

from vtn_hf import VTNImageProcessor, VTNVideoProcessor


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}

# As on the Hub: google/vit-base-patch16-224 (and as saved before transformers 4.22), openai/clip-vit-base-patch32,
# facebook/convnext-tiny-224 and -384, facebook/dinov2-base, microsoft/beit-base (crop of a square), facebook/deit-*.
BACKBONES = {
    "vit": ({"size": {"height": 224, "width": 224}, "resample": 2, **HALF}, 256, 224, 2),
    "vit_384": ({"size": {"height": 384, "width": 384}, "do_resize": True, "resample": 2, **HALF}, 439, 384, 2),
    "vit_old": ({"size": 224, "do_resize": True, "do_normalize": True, "resample": 2, **HALF}, 256, 224, 2),
    "clip": (
        {
            "size": {"shortest_edge": 224},
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "resample": 3,
            **CLIP,
        },
        224,
        224,
        3,
    ),
    "clip_old": ({"size": 224, "crop_size": 224, "do_center_crop": True, "resample": 3, **CLIP}, 224, 224, 3),
    "convnext": ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3, **IMAGENET}, 256, 224, 3),
    "convnext_large": ({"size": {"shortest_edge": 384}, "crop_pct": 0.96, "resample": 3, **IMAGENET}, 400, 384, 3),
    "convnext_without_crop_pct": (
        {"size": {"shortest_edge": 224}, "crop_pct": None, "resample": 3, **IMAGENET},
        256,
        224,
        3,
    ),
    "dinov2": (
        {
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "resample": 3,
            **IMAGENET,
        },
        256,
        224,
        3,
    ),
    "crop_switched_off": (
        {
            "size": {"height": 224, "width": 224},
            "crop_size": {"height": 192, "width": 192},
            "do_center_crop": False,
            "resample": 2,
            **HALF,
        },
        256,
        224,
        2,
    ),
    "square_then_crop": (
        {
            "size": {"height": 248, "width": 248},
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "resample": 3,
            **IMAGENET,
        },
        248,
        224,
        3,
    ),
}


@pytest.mark.parametrize("style", BACKBONES)
def test_settings_of_a_backbone(tmp_path, style):
    config, short_side, crop_side, resample = BACKBONES[style]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    processor = VTNImageProcessor.from_backbone_pretrained(str(tmp_path))
    assert dict(processor.size) == {"shortest_edge": short_side}
    assert dict(processor.crop_size) == {"height": crop_side, "width": crop_side}
    assert processor.resample == resample
    assert processor.image_mean == tuple(config["image_mean"])
    assert processor.image_std == tuple(config["image_std"])
    assert processor.pixel_protocol == "transformers"
    frames = np.zeros((1, 30, 40, 3), dtype=np.uint8)
    pixel_values = processor(frames, return_tensors="pt").pixel_values
    assert pixel_values.shape == (1, 1, 3, crop_side, crop_side)
    expected = -torch.tensor(config["image_mean"]) / torch.tensor(config["image_std"])
    torch.testing.assert_close(pixel_values[0, 0, :, 0, 0], expected)


def test_settings_of_a_backbone_can_be_overridden(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(BACKBONES["clip"][0]))
    processor = VTNImageProcessor.from_backbone_pretrained(tmp_path, size={"shortest_edge": 60}, resample=2)
    assert dict(processor.size) == {"shortest_edge": 60}
    assert (processor.resample, processor.image_mean) == (2, tuple(CLIP["image_mean"]))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"size": {"height": 6, "width": 6}, "do_normalize": False, **HALF}, 0.2),
        ({"size": {"height": 6, "width": 6}, "do_rescale": False, **HALF}, (51 - 0.5) / 0.5),
        ({"size": {"height": 6, "width": 6}, "rescale_factor": 1 / 102, **HALF}, 0),
    ],
)
def test_value_range_of_a_backbone(tmp_path, config, expected):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    frames = np.full((1, 8, 8, 3), 51, dtype=np.uint8)
    pixel_values = VTNImageProcessor.from_backbone_pretrained(tmp_path)(frames, return_tensors="pt").pixel_values
    torch.testing.assert_close(pixel_values, torch.full((1, 1, 3, 6, 6), float(expected)))


def test_backbone_without_settings(tmp_path):
    with pytest.raises(OSError, match="preprocessor_config.json"):
        VTNImageProcessor.from_backbone_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"longest_edge": 800}, **HALF}))
    with pytest.raises(ValueError, match="does not tell a picture size.*800"):
        VTNImageProcessor.from_backbone_pretrained(tmp_path)


def test_processors_of_a_timm_model_on_the_hub(tmp_path):
    """timm keeps what transformers has in preprocessor_config.json in config.json."""
    pretrained_cfg = {
        "input_size": [3, 160, 160],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "crop_pct": 0.8,
        "interpolation": "bicubic",
    }
    config = {"architecture": "resnet10t", "num_classes": 10, "pretrained_cfg": pretrained_cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = VTNVideoProcessor.from_backbone_pretrained(tmp_path)
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert (processor.crop_size.height, processor.size.shortest_edge, processor.resample) == (160, 200, 3)
