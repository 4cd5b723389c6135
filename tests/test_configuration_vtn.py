"""Fields, defaults and rules of the configuration."""

import json

import pytest
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForVideoClassification, ResNetConfig, ViTConfig

import vtn_hf
from vtn_hf import VTNConfig, VTNForVideoClassification
from vtn_hf.backbone_vtn import get_backbone_feature_size


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
        ({"position_overflow": "stop"}, "must be one of wrap, spread, stretch, got 'stop'"),
        ({"position_embedding_type": "rotary"}, "must be one of learned, sinusoidal, none, got 'rotary'"),
        ({"frames_per_chunk": 0}, '`frames_per_chunk` must be "auto", at least 1, or None, got 0'),
        ({"frames_per_chunk": "all"}, "`frames_per_chunk` must be \"auto\", at least 1, or None, got 'all'"),
        ({"frames_per_chunk": -1}, '`frames_per_chunk` must be "auto", at least 1, or None, got -1'),
        ({"num_frames": -1}, "`num_frames` must be at least 1, got -1"),
        ({"num_labels": 0}, "`num_labels` must be at least 1, got 0"),
        ({"num_labels": -1}, "`num_labels` must be at least 1, got -1"),
        ({"num_labels": 2.5}, "`num_labels` must be at least 1, got 2.5"),
        ({"num_labels": True}, "`num_labels` must be at least 1, got True"),
        ({"num_labels": "3"}, "`num_labels` must be at least 1, got '3'"),
        ({"hidden_size": -24}, "`hidden_size` must be at least 1, got -24"),
        ({"hidden_dropout_prob": 1.5}, "`hidden_dropout_prob` must be between 0 and 1, got 1.5"),
        ({"attention_probs_dropout_prob": -1}, "`attention_probs_dropout_prob` must be between 0 and 1, got -1"),
        ({"classifier_dropout": float("nan")}, "`classifier_dropout` must be between 0 and 1, got nan"),
        ({"layer_norm_eps": -1e-5}, "`layer_norm_eps` must be at least 0, got -1e-05"),
        ({"layer_norm_eps": float("nan")}, "`layer_norm_eps` must be at least 0, got nan"),
        ({"initializer_range": float("inf")}, "`initializer_range` must be at least 0, got inf"),
        ({"hidden_act": "gelo"}, "`hidden_act` must be one of gelu, .*, got 'gelo'"),
        ({"problem_type": "classification"}, "`problem_type` must be one of .*, got 'classification'"),
        ({"id2label": {}}, "`id2label` must be the names of the classes 0, 1, …, got {}"),
        ({"id2label": {"1": "up", "2": "down"}}, "`id2label` must be the names of the classes 0, 1, …, got {1: 'up'"),
        ({"id2label": {"up": 0, "down": 1}}, "`id2label` must be the names of the classes 0, 1, …, got {'up'"),
        ({"id2label": ["up", "down"]}, "`id2label` must be the names of the classes 0, 1, …, got \\['up'"),
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
        {"attention_window": [2, True, 4]},
        {"num_frames": 2.5},
        {"num_frames": True},
        {"hidden_size": True},
        {"hidden_dropout_prob": "0.1"},
        {"position_embedding_type": None},
        {"backbone_config": "google/vit-base-patch16-224"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_wrong_types_are_refused_with_the_field(fields):
    with pytest.raises(StrictDataclassError, match=f"field '{next(iter(fields))}'"):
        make_config(**fields)


@pytest.mark.parametrize(
    "width, num_heads",
    [(768, 12), (384, 12), (192, 12), (1152, 12), (1024, 16), (1280, 20), (2048, 32), (1408, 22), (320, 5)]
    # 64 does not divide these: heads of 40, 50, 40 features, and one where there are fewer than 64 in all.
    + [(1000, 25), (100, 2), (40, 1), (16, 1)],
)
def test_number_of_heads_suits_the_width(width, num_heads, tmp_path):
    VTNConfig(hidden_size=width).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_attention_heads"] == num_heads
    assert VTNConfig.from_pretrained(tmp_path).num_attention_heads == num_heads
    assert VTNConfig(hidden_size=width, num_attention_heads=1).num_attention_heads == 1


@pytest.mark.parametrize(
    "name, hint",
    [
        ("num_atention_heads", "did you mean num_attention_heads"),
        ("hiddensize", "did you mean hidden_size"),
        ("n_frames", "did you mean num_frames"),
        ("attention_windows", "did you mean attention_window"),
        ("num_label", "did you mean num_labels"),
        ("id2labels", "did you mean id2label"),
        ("banana", "its fields are backbone_config, hidden_size, .*, problem_type"),
    ],
)
def test_unknown_fields_are_refused_with_the_closest(name, hint):
    with pytest.raises(ValueError, match=f"VTNConfig has no field '{name}'; {hint}"):
        make_config(**{name: 6})


def test_a_misspelt_override_is_refused(tmp_path):
    model = VTNForVideoClassification(make_config())
    model.save_pretrained(tmp_path)
    mistake = {"num_atention_heads": 6}
    message = "no field 'num_atention_heads'; did you mean num_attention_heads"
    for load in (
        VTNConfig.from_pretrained,
        AutoConfig.from_pretrained,
        VTNForVideoClassification.from_pretrained,
        AutoModelForVideoClassification.from_pretrained,
        VTNForVideoClassification.from_backbone_pretrained,
    ):
        model.vtn.backbone.save_pretrained(tmp_path / "backbone")
        path = tmp_path / "backbone" if load.__name__ == "from_backbone_pretrained" else tmp_path
        with pytest.raises(ValueError, match=message):
            load(path, **mistake)
    with pytest.raises(ValueError, match="`num_frames` must be at least 1, got -1"):
        AutoModelForVideoClassification.from_pretrained(tmp_path, num_frames=-1)
    with pytest.raises(StrictDataclassError, match="must be a multiple of `num_attention_heads`"):
        VTNConfig.from_pretrained(tmp_path, num_attention_heads=5)
    # What `from_pretrained` of a model takes is none of the configuration's fields.
    _, unused = VTNConfig.from_pretrained(tmp_path, ignore_mismatched_sizes=True, return_unused_kwargs=True)
    assert unused == {"ignore_mismatched_sizes": True}


TRANSFORMERS_FIELDS = {
    "attn_implementation": "eager",
    "torch_dtype": "float16",
    "quantization_config": {"quant_method": "torchao"},
    "task_specific_params": {"video": {"num_beams": 2}},
    "auto_map": {"AutoConfig": "configuration_vtn.VTNConfig"},
    "architectures": ["VTNModel"],
    "name_or_path": "me/vtn",
}


@pytest.mark.parametrize("name", TRANSFORMERS_FIELDS)
def test_fields_of_transformers_are_accepted(name):
    config = make_config(**{name: TRANSFORMERS_FIELDS[name]})
    if name != "attn_implementation":
        assert str(getattr(config, name)).removeprefix("torch.") == str(TRANSFORMERS_FIELDS[name])


def test_a_file_of_another_release_is_read(tmp_path, caplog):
    """What is unknown in it is kept; what looks like a mistake is told, for files are written by hand, too."""
    make_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    # Of a trainer, of older and of later releases of transformers.
    others = {"my_run": "a", "pruned_heads": {}, "tie_word_embeddings": True, "is_causal": [1]}
    path.write_text(json.dumps(stored | others))
    transformers.logging.enable_propagation()
    try:
        with caplog.at_level("WARNING"):
            config = VTNConfig.from_pretrained(tmp_path)
            assert VTNConfig(**config.to_dict()).my_run == "a"
        assert caplog.messages == []
        config.save_pretrained(tmp_path)
        assert json.loads(path.read_text()) == stored | others
        path.write_text(json.dumps(stored | {"num_atention_heads": 6}))
        with caplog.at_level("WARNING"):
            assert VTNConfig.from_pretrained(tmp_path).num_attention_heads == 4
        assert caplog.messages == ["VTNConfig has no field 'num_atention_heads'; did you mean num_attention_heads?"]
    finally:
        transformers.logging.disable_propagation()


def test_a_handwritten_file_with_a_mistake_is_refused(tmp_path):
    (tmp_path / "vtn.json").write_text('{"model_type": "vtn", "num_atention_heads": 6}')
    with pytest.raises(ValueError, match="did you mean num_attention_heads"):
        VTNConfig.from_pretrained(tmp_path / "vtn.json")


def test_class_indices_are_integers_however_they_are_given(tmp_path):
    names = {"0": "up", "1": "down", "2": "still"}
    config = make_config(id2label=names)
    assert config.id2label == {0: "up", 1: "down", 2: "still"}
    make_config().save_pretrained(tmp_path)
    assert VTNConfig.from_pretrained(tmp_path, id2label=names).id2label == config.id2label
    config.id2label = names
    assert config.id2label == {0: "up", 1: "down", 2: "still"}


def test_the_version_that_wrote_it_stands_in_the_file(tmp_path):
    make_config(vtn_hf_version="0.0.1").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["vtn_hf_version"] == vtn_hf.__version__
