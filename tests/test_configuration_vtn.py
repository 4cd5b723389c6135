"""Fields, defaults and rules of the configuration."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, ResNetConfig, ViTConfig

from vtn_hf import VTNConfig
from vtn_hf.configuration_vtn import get_backbone_feature_size


TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
}


def make_config(**fields):
    return VTNConfig(**{"backbone_config": TINY_VIT, "num_attention_heads": 4, **fields})


def test_defaults_are_those_of_the_main_model():
    config = VTNConfig()
    expected = {
        "hidden_size": 768,
        "num_hidden_layers": 3,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "attention_window": 18,
        "max_position_embeddings": 288,
        "position_embedding_type": "learned",
        "position_overflow": "wrap",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "classifier_hidden_size": 768,
        "classifier_dropout": 0.5,
        "num_frames": 250,
        "frames_per_chunk": "auto",
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.model_type == "vtn"
    assert config.attention_windows == (18, 18, 18)


def test_default_backbone_is_vit_base_as_timm_builds_it():
    backbone = VTNConfig().backbone_config
    assert isinstance(backbone, ViTConfig)
    assert (backbone.image_size, backbone.patch_size, backbone.hidden_size, backbone.num_hidden_layers) == (
        224,
        16,
        768,
        12,
    )
    assert backbone.layer_norm_eps == 1e-6


@pytest.mark.parametrize(
    "backbone, size",
    [
        (TINY_VIT, 24),
        (ViTConfig(hidden_size=36), 36),
        ({"model_type": "resnet", "hidden_sizes": [8, 16, 16, 40]}, 40),
        ({"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 1, 1]}, 32),
        ({"model_type": "mobilevit", "neck_hidden_sizes": [4, 4, 8, 8, 12, 16, 20]}, 20),
        ({"model_type": "efficientnet", "hidden_dim": 44}, 44),
    ],
    ids=["dict", "config", "resnet", "swin", "mobilevit", "efficientnet"],
)
def test_hidden_size_comes_from_the_backbone(backbone, size):
    config = VTNConfig(backbone_config=backbone, num_attention_heads=2)
    assert (config.hidden_size, config.classifier_hidden_size) == (size, size)
    assert get_backbone_feature_size(config.backbone_config) == size


def test_given_sizes_win_over_the_backbone():
    config = make_config(hidden_size=32)
    assert (config.hidden_size, config.classifier_hidden_size) == (32, 32)
    assert make_config(hidden_size=32, classifier_hidden_size=7).classifier_hidden_size == 7


def test_model_that_is_no_backbone_is_refused():
    with pytest.raises(ValueError, match="CLIPModel reads `input_ids`"):
        VTNConfig(backbone_config=AutoConfig.for_model("clip"))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attention_window": [2, 4, 32], "frames_per_chunk": 8, "position_embedding_type": "sinusoidal"},
        {"backbone_config": ResNetConfig(hidden_sizes=[8, 8, 8, 12], depths=[1, 1, 1, 1]), "hidden_size": 16},
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        {"id2label": {0: "up", 1: "down"}, "label2id": {"up": 0, "down": 1}},
    ],
    ids=["plain", "windows", "backbone", "multi_label", "names"],
)
def test_json_round_trip(fields, tmp_path):
    config = make_config(**fields)
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["backbone_config"]["model_type"] == config.backbone_config.model_type
    for loaded in (
        VTNConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        VTNConfig.from_dict(config.to_dict()),
        VTNConfig(**json.loads(config.to_json_string(use_diff=False))),
    ):
        assert type(loaded) is VTNConfig
        assert type(loaded.backbone_config) is type(config.backbone_config)
        assert loaded.attention_windows == config.attention_windows
        differences = {
            name: (value, loaded.to_dict()[name])
            for name, value in config.to_dict().items()
            if loaded.to_dict()[name] != value
        }
        # transformers notes the version and the origin of a configuration when it is loaded or saved.
        assert not differences.keys() - {"transformers_version", "_name_or_path"}


def test_overriding_a_field_at_load(tmp_path):
    make_config().save_pretrained(tmp_path)
    config = VTNConfig.from_pretrained(tmp_path, num_frames=16, frames_per_chunk=4, attn_implementation="eager")
    assert (config.num_frames, config.frames_per_chunk, config.attention_window) == (16, 4, 18)
    assert (config._attn_implementation, config.backbone_config._attn_implementation) == ("eager", "eager")


def test_one_window_per_layer():
    assert make_config(attention_window=[2, 4, 6]).attention_windows == (2, 4, 6)
    assert make_config(attention_window=(2, 4, 6)).attention_windows == (2, 4, 6)
    assert make_config(attention_window=6, num_hidden_layers=2).attention_windows == (6, 6)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"attention_window": 17}, "`attention_window` must be even and positive, got 17"),
        ({"attention_window": 0}, "`attention_window` must be even and positive, got 0"),
        ({"attention_window": -2}, "`attention_window` must be even and positive, got -2"),
        ({"attention_window": [2, 4, 5]}, r"`attention_window` must be even and positive, got \[2, 4, 5\]"),
        ({"attention_window": [2, 4]}, "`attention_window` has 2 entries for 3 layers"),
        ({"attention_window": []}, "`attention_window` has 0 entries for 3 layers"),
        ({"num_attention_heads": 5}, r"`hidden_size` \(24\) must be a multiple of `num_attention_heads` \(5\)"),
        ({"hidden_size": 30}, r"`hidden_size` \(30\) must be a multiple of `num_attention_heads` \(4\)"),
        ({"position_overflow": "stop"}, "must be one of wrap, spread, got 'stop'"),
        ({"position_embedding_type": "rotary"}, "must be one of learned, sinusoidal, none, got 'rotary'"),
        ({"frames_per_chunk": 0}, '`frames_per_chunk` must be "auto", at least 1, or None, got 0'),
        ({"frames_per_chunk": "all"}, "`frames_per_chunk` must be \"auto\", at least 1, or None, got 'all'"),
        ({"num_frames": 0}, "`num_frames` must be at least 1, got 0"),
        ({"hidden_size": 0}, "`hidden_size` must be at least 1, got 0"),
        ({"num_attention_heads": 0}, "`num_attention_heads` must be at least 1, got 0"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` must be at least 1, got 0"),
        ({"num_hidden_layers": -1}, "`num_hidden_layers` must be at least 1, got -1"),
        ({"intermediate_size": 0}, "`intermediate_size` must be at least 1, got 0"),
        ({"classifier_hidden_size": 0}, "`classifier_hidden_size` must be at least 1, got 0"),
        ({"max_position_embeddings": 2}, "`max_position_embeddings` must be at least 3, got 2"),
        ({"backbone_config": {"hidden_size": 8, "depth": 1}}, r"needs a `model_type`.*\['depth', 'hidden_size'\]"),
        ({"backbone_config": {"model_type": "no_such_model"}}, "no_such_model"),
    ],
)
def test_contradictions_are_refused_with_the_numbers(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        make_config(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_window": "18"},
        {"attention_window": 4.0},
        {"num_frames": 2.5},
        {"position_embedding_type": None},
        {"backbone_config": "google/vit-base-patch16-224"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_wrong_types_are_refused_with_the_field(fields):
    with pytest.raises(StrictDataclassError, match=f"field '{next(iter(fields))}'"):
        make_config(**fields)
