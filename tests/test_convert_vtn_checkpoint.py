"""Conversion of the original's checkpoints, against outputs of the original."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, ViTConfig

import vtn_hf
from vtn_hf import VTNConfig, VTNForVideoClassification, VTNImageProcessor, VTNModel, VTNVideoProcessor
from vtn_hf.convert_vtn_checkpoint import (
    ConversionError,
    _find_num_heads,
    convert_checkpoint,
    convert_state_dict,
    main,
    read_checkpoint,
    revert_checkpoint,
    revert_state_dict,
)


# What the reference checkpoint has, and does not tell.
HEADS = 3
CASES = ("clip16", "short5", "long60_wrap", "single")
TOLERANCE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def checkpoint_path(reference_dir):
    return reference_dir / "checkpoint.pyth"


@pytest.fixture(scope="module")
def expected(reference_dir):
    return load_file(reference_dir / "expected.safetensors")


@pytest.fixture(scope="module")
def converted_dir(checkpoint_path, tmp_path_factory):
    directory = tmp_path_factory.mktemp("converted")
    convert_checkpoint(checkpoint_path, directory, HEADS)
    return directory


@pytest.fixture
def checkpoint(checkpoint_path):
    """The reference checkpoint, free to be changed."""
    return torch.load(checkpoint_path, weights_only=True)


def save(checkpoint, tmp_path):
    path = tmp_path / "changed.pyth"
    torch.save(checkpoint, path)
    return path


def edit_cfg(checkpoint, **sections):
    cfg = yaml.safe_load(checkpoint["cfg"])
    for section, fields in sections.items():
        cfg[section].update(fields)
    checkpoint["cfg"] = yaml.safe_dump(cfg)


# The original's numbers


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_originals(converted_dir, expected, case, attention):
    model = VTNForVideoClassification.from_pretrained(converted_dir, attn_implementation=attention)
    inputs = {"pixel_values": expected[f"{case}.pixel_values"], "position_ids": expected[f"{case}.frame_index"]}
    with torch.no_grad():
        outputs = model.vtn(**inputs)
        logits = model(**inputs).logits
    torch.testing.assert_close(outputs.frame_embeds, expected[f"{case}.frame_features"], **TOLERANCE)
    torch.testing.assert_close(outputs.last_hidden_state, expected[f"{case}.temporal_last_hidden_state"], **TOLERANCE)
    torch.testing.assert_close(logits, expected[f"{case}.logits"], **TOLERANCE)


FRESH_PROCESS = """
import sys
import conftest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForVideoClassification
import vtn_hf

model_dir, inputs, outputs = sys.argv[1:]
inputs = load_file(inputs)
model = AutoModelForVideoClassification.from_pretrained(model_dir)
logits = {}
for case in sorted({name.split(".")[0] for name in inputs}):
    with torch.no_grad():
        logits[case] = model(
            pixel_values=inputs[f"{case}.pixel_values"], position_ids=inputs[f"{case}.frame_index"]
        ).logits
save_file(logits, outputs)
"""


def test_converted_directory_in_a_fresh_process(converted_dir, reference_dir, expected, tmp_path):
    paths = [str(Path(vtn_hf.__file__).parents[1]), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [
            sys.executable,
            "-c",
            FRESH_PROCESS,
            converted_dir,
            reference_dir / "expected.safetensors",
            tmp_path / "logits",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
    )
    logits = load_file(tmp_path / "logits")
    assert logits.keys() == set(CASES)
    for case in CASES:
        torch.testing.assert_close(logits[case], expected[f"{case}.logits"], **TOLERANCE)


def test_configuration_is_read_off_the_checkpoint(converted_dir, reference_dir):
    config = VTNConfig.from_pretrained(converted_dir)
    sizes = json.loads((reference_dir / "config.json").read_text())
    backbone = config.backbone_config
    assert {
        "img": backbone.image_size,
        "patch": backbone.patch_size,
        "dim": backbone.hidden_size,
        "depth": backbone.num_hidden_layers,
        "heads": backbone.num_attention_heads,
        "tlayers": config.num_hidden_layers,
        "theads": config.num_attention_heads,
        "inter": config.intermediate_size,
        "maxpos": config.max_position_embeddings,
        "classes": config.num_labels,
        "mlp_dim": config.classifier_hidden_size,
    } == {name: value for name, value in sizes.items() if name not in ("window", "note")}
    assert config.attention_windows == (sizes["window"],) * sizes["tlayers"]
    assert (config.hidden_size, backbone.intermediate_size, backbone.layer_norm_eps) == (48, 192, 1e-6)
    assert (config.num_frames, config.classifier_dropout) == (250, 0.5)


def test_fields_of_the_cfg_are_used(checkpoint, tmp_path):
    edit_cfg(
        checkpoint,
        VTN={"ATTENTION_WINDOW": [2, 4, 8], "HIDDEN_DROPOUT_PROB": 0.2, "ATTENTION_PROBS_DROPOUT_PROB": 0.3},
        MODEL={"DROPOUT_RATE": 0.25},
        TRAIN={"EVAL_NUM_FRAMES": 64},
    )
    config = convert_checkpoint(save(checkpoint, tmp_path), tmp_path, HEADS).config
    assert config.attention_windows == (2, 4, 8)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.3)
    assert (config.classifier_dropout, config.num_frames) == (0.25, 64)


def test_heads_of_the_backbone_can_be_given(checkpoint_path, tmp_path):
    model = convert_checkpoint(checkpoint_path, tmp_path, backbone_num_attention_heads=6)
    assert model.config.backbone_config.num_attention_heads == 6


def test_processors_have_the_constants_of_the_cfg(checkpoint, tmp_path):
    edit_cfg(
        checkpoint,
        DATA={
            "MEAN": [0.1, 0.2, 0.3],
            "STD": [0.4, 0.5, 0.6],
            "TEST_CROP_SIZE": 24,
            "TRAIN_JITTER_SCALES": [40, 50],
        },
        TRAIN={"EVAL_NUM_FRAMES": 64},
    )
    convert_checkpoint(save(checkpoint, tmp_path), tmp_path, HEADS)
    for processor_class in (VTNImageProcessor, VTNVideoProcessor):
        processor = processor_class.from_pretrained(tmp_path)
        assert list(processor.image_mean) == [0.1, 0.2, 0.3]
        assert list(processor.image_std) == [0.4, 0.5, 0.6]
        assert processor.size.shortest_edge == 40
        assert (processor.crop_size.height, processor.crop_size.width) == (24, 24)
        assert processor.pixel_protocol == "pyslowfast"
    assert (processor.num_frames, processor.frame_sampling) == (64, "pyslowfast")


# The way back


def test_state_dict_round_trip_is_exact(checkpoint):
    original = checkpoint["model_state"]
    converted = convert_state_dict(original)
    # Each of the two layers' joint projections becomes three.
    assert len(converted) == len(original) + 2 * 2 * 2
    reverted = revert_state_dict(converted)
    assert reverted.keys() == original.keys()
    assert all(torch.equal(reverted[name], tensor) for name, tensor in original.items())
    assert convert_state_dict(reverted).keys() == converted.keys()


def test_state_dict_functions_leave_their_argument_alone(checkpoint):
    original = checkpoint["model_state"]
    names, copies = list(original), {name: tensor.clone() for name, tensor in original.items()}
    converted = convert_state_dict(original)
    for tensor in converted.values():
        assert tensor.is_contiguous()
    revert_state_dict(converted)
    assert list(original) == names and all(torch.equal(original[name], copies[name]) for name in names)


def test_checkpoint_round_trip_is_exact(converted_dir, checkpoint, tmp_path):
    revert_checkpoint(converted_dir, tmp_path / "back.pyth")
    cfg, state_dict = read_checkpoint(tmp_path / "back.pyth")
    assert state_dict.keys() == checkpoint["model_state"].keys()
    assert all(torch.equal(state_dict[name], tensor) for name, tensor in checkpoint["model_state"].items())
    original_cfg = yaml.safe_load(checkpoint["cfg"])
    differences = {
        f"{section}.{name}": (value, original_cfg[section][name])
        for section, fields in cfg.items()
        for name, value in fields.items()
        if original_cfg[section][name] != value
    }
    # The original uses the smaller scale in evaluation, and we know no other.
    assert differences == {"DATA.TRAIN_JITTER_SCALES": ([256, 256], [256, 320])}

    model = convert_checkpoint(tmp_path / "back.pyth", tmp_path / "again", HEADS)
    first = VTNForVideoClassification.from_pretrained(converted_dir)
    assert model.config.to_diff_dict().keys() == first.config.to_diff_dict().keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in first.state_dict().items())


VIT = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16}
VIT |= {"layer_norm_eps": 1e-6}
RESNET = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}


def save_model(directory, model_class=VTNForVideoClassification, backbone=VIT, **fields):
    config = VTNConfig(
        backbone_config=backbone, num_attention_heads=2, intermediate_size=8, num_hidden_layers=1, **fields
    )
    model_class(config).save_pretrained(directory)
    VTNVideoProcessor().save_pretrained(directory)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"backbone": RESNET}, "ViT backbones and learned positions only, got 'resnet' and 'learned'"),
        ({"position_embedding_type": "none"}, "ViT backbones and learned positions only, got 'vit' and 'none'"),
        ({"backbone": VIT | {"layer_norm_eps": 1e-12}}, "epsilon 1e-06.*got 1e-12"),
        ({"hidden_size": 12}, "no counterpart for the weight 'vtn.projection.weight'"),
        ({"frame_changes": True}, "reads features, but this model their changes"),
        ({"position_overflow": "stretch"}, "positions are numbers of frames, but this model's are stretched"),
        ({"frame_grid": 2}, "reads one vector per frame, but this model has `frame_grid` 2"),
        ({"model_class": VTNModel}, "classifier.out_proj.weight"),
    ],
    ids=["backbone", "positions", "epsilon", "projection", "changes", "stretched", "grid", "no_head"],
)
def test_models_that_the_original_cannot_build_are_not_reverted(fields, message, tmp_path):
    save_model(tmp_path, **fields)
    with pytest.raises(ConversionError, match=message):
        revert_checkpoint(tmp_path, tmp_path / "back.pyth")
    assert not (tmp_path / "back.pyth").exists()


def test_other_models_are_not_reverted(tmp_path):
    AutoModel.from_config(AutoConfig.for_model(**VIT)).save_pretrained(tmp_path)
    with pytest.raises(ConversionError, match="'vit'"):
        revert_checkpoint(tmp_path, tmp_path / "back.pyth")


# Strictness


def remove(name):
    return lambda weights: weights.pop(name)


def add(name):
    return lambda weights: weights.update({name: torch.zeros(3)})


def rename(old, new):
    return lambda weights: weights.update({new: weights.pop(old)})


def reshape(name, shape):
    return lambda weights: weights.update({name: torch.zeros(shape)})


def cut(name):
    return lambda weights: weights.update({name: weights[name][:-1]})


TEMPORAL_LAYER = "temporal_encoder.encoder.layer.1"


@pytest.mark.parametrize(
    "change, message",
    [
        (remove("backbone.blocks.1.norm2.bias"), r"layers\.1\.layernorm_after\.bias"),
        (remove("backbone.blocks.0.attn.qkv.bias"), r"layers\.0\.attention\.q_proj\.bias"),
        (remove("backbone.pos_embed"), r"backbone\.pos_embed"),
        (remove("backbone.patch_embed.proj.weight"), r"backbone\.patch_embed\.proj\.weight"),
        (remove("cls_token"), r"temporal_encoder\.embeddings\.cls_token"),
        (
            remove(f"{TEMPORAL_LAYER}.attention.self.value_global.weight"),
            r"layers\.1\.attention\.value_global\.weight",
        ),
        (remove("mlp_head.1.bias"), r"classifier\.dense\.bias"),
        (remove("mlp_head.4.weight"), r"mlp_head\.4\.weight"),
        (add("backbone.head.weight"), r"backbone\.head\.weight"),
        (add("backbone.blocks.0.attn.q_norm.weight"), r"backbone\.blocks\.0\.attn\.q_norm\.weight"),
        (add(f"{TEMPORAL_LAYER}.attention.self.relative.weight"), r"layers\.1\.attention\.relative\.weight"),
        (add("temporal_encoder.embeddings.word_embeddings.weight"), r"word_embeddings\.weight"),
        (add("mlp_head.7.weight"), r"mlp_head\.7\.weight"),
        (add("cls_token_2"), r"cls_token_2"),
        (rename("cls_token", "class_token"), r"class_token"),
        (rename("backbone.norm.weight", "backbone.fc_norm.weight"), r"backbone\.fc_norm\.weight"),
        (cut("temporal_encoder.embeddings.position_embeddings.weight"), r"position_embeddings\.weight.*63.*64"),
        (cut("backbone.blocks.0.attn.qkv.weight"), r"layers\.0\.attention\.v_proj\.weight.*47.*48"),
        (cut("mlp_head.4.bias"), r"classifier\.out_proj\.bias.*6.*7"),
        (reshape("backbone.patch_embed.proj.weight", (48, 192)), r"patch_embed.*\(48, 192\).*4 dimensions"),
        (reshape("backbone.pos_embed", (17, 48)), r"pos_embed.*\(17, 48\).*3 dimensions"),
        (reshape("backbone.pos_embed", (1, 0, 48)), r"pos_embed.*\(1, 0, 48\)"),
        (reshape("mlp_head.4.weight", ()), r"mlp_head\.4\.weight.*\(\)"),
        (reshape("backbone.blocks.0.mlp.fc1.weight", ()), r"fc1\.weight.*\(\)"),
        (reshape("backbone.blocks.0.attn.qkv.bias", ()), r"qkv\.bias.*single number"),
        (reshape("backbone.blocks.0.attn.qkv.weight", (2, 48)), r"v_proj\.weight.*\(0, 48\).*\(48, 48\)"),
        (reshape("cls_token", ()), r"cls_token.*\(\).*\(1, 1, 48\)"),
    ],
)
def test_weights_must_be_the_originals_exactly(checkpoint, tmp_path, change, message):
    change(checkpoint["model_state"])
    path = save(checkpoint, tmp_path)
    with pytest.raises(ConversionError, match=f"(?s){message}"):
        convert_checkpoint(path, tmp_path / "out", HEADS)
    assert not (tmp_path / "out").exists()


# Files that are something else

# Files that are no checkpoints of a VTN, and what the message must say of them.
BAD_FILES = {
    "half": "truncated",
    "without_end": "truncated",
    "empty": "truncated|no checkpoint",
    "text": "no checkpoint",
    "html": "no checkpoint",
    "state_dict_only": "not a PySlowFast checkpoint.*conv1.weight",
    "tensor": "not a PySlowFast checkpoint.*Tensor",
    "another_model": "not a VTN checkpoint.*patch_embed",
    "weights_in_a_list": "not a PySlowFast checkpoint.*model_state",
    "cfg_without_vtn": "not a VTN checkpoint.*VTN",
    "cfg_empty": "not a PySlowFast checkpoint.*cfg",
    "cfg_no_yaml": "not a PySlowFast checkpoint.*cfg",
    "cfg_a_number": "not a PySlowFast checkpoint.*cfg",
    "missing": "No such file",
    "directory": "directory",
}


@pytest.fixture(scope="module")
def bad_files(checkpoint_path, tmp_path_factory):
    directory = tmp_path_factory.mktemp("bad")
    content = checkpoint_path.read_bytes()
    checkpoint = torch.load(checkpoint_path, weights_only=True)
    resnet = {"conv1.weight": torch.zeros(4, 3, 7, 7), "fc.bias": torch.zeros(4)}
    contents = {
        "half": content[: len(content) // 2],
        "without_end": content[:-100],
        "empty": b"",
        "text": b"This is no checkpoint.\n" * 20,
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "state_dict_only": resnet,
        "tensor": torch.zeros(3),
        "another_model": {**checkpoint, "model_state": resnet},
        "weights_in_a_list": {**checkpoint, "model_state": [1, 2]},
        "cfg_without_vtn": {**checkpoint, "cfg": "MODEL: {ARCH: VIT}"},
        "cfg_empty": {**checkpoint, "cfg": ""},
        "cfg_no_yaml": {**checkpoint, "cfg": "VTN: [1, 2"},
        "cfg_a_number": {**checkpoint, "cfg": 3},
    }
    for name, thing in contents.items():
        path = directory / name
        path.write_bytes(thing) if isinstance(thing, bytes) else torch.save(thing, path)
    (directory / "directory").mkdir()
    return directory


@pytest.mark.parametrize("name", BAD_FILES)
def test_other_files_are_refused(bad_files, name, tmp_path):
    with pytest.raises(ConversionError, match=f"(?s){re.escape(str(bad_files / name))}.*({BAD_FILES[name]})"):
        convert_checkpoint(bad_files / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "sections, message",
    [
        ({"VTN": {"NUM_ATTENTION_HEADS": 5}}, "48.*5"),
        ({"VTN": {"ATTENTION_WINDOW": [6, 6, 7]}}, "even and positive.*7"),
        ({"VTN": {"ATTENTION_WINDOW": [6]}}, "1 entries for 3 layers"),
        ({"VTN": {"MAX_POSITION_EMBEDDINGS": 65}}, "position_embeddings.*64.*65"),
        ({"VTN": {"NUM_ATTENTION_HEADS": "four"}}, "num_attention_heads"),
        ({"VTN": {"MAX_POSITION_EMBEDDINGS": 10**12}}, "position_embeddings.*64.*10{12}"),
        ({"VTN": {"MAX_POSITION_EMBEDDINGS": 10**30}}, "not those of one VTN"),
        ({"VTN": {"HIDDEN_DROPOUT_PROB": 2}}, "hidden_dropout_prob.*2"),
        ({"TRAIN": {"EVAL_NUM_FRAMES": -1}}, "num_frames.*-1"),
        ({"DATA": {"TRAIN_JITTER_SCALES": 256}}, "preprocessing"),
        ({"DATA": {"TRAIN_JITTER_SCALES": []}}, "preprocessing"),
        ({"DATA": {"TEST_CROP_SIZE": 3.7}}, "preprocessing.*3.7"),
        ({"DATA": {"MEAN": None}}, "lacks DATA.MEAN"),
        ({"VTN": {"NUM_ATTENTION_HEADS": None}}, "lacks VTN.NUM_ATTENTION_HEADS"),
        ({"DATA": {"TEST_CROP_SIZE": 0}}, "preprocessing.*crop_size"),
        ({"DATA": {"MEAN": ["a", "b", "c"]}}, "preprocessing"),
    ],
    ids=str,
)
def test_cfg_that_does_not_fit_is_refused(checkpoint, tmp_path, sections, message):
    edit_cfg(checkpoint, **sections)
    with pytest.raises(ConversionError, match=f"(?s){message}"):
        convert_checkpoint(save(checkpoint, tmp_path), tmp_path / "out", HEADS)


@pytest.mark.parametrize(
    "section, field", [("DATA", "MEAN"), ("DATA", "TRAIN_JITTER_SCALES"), ("VTN", "ATTENTION_WINDOW")]
)
def test_cfg_that_lacks_a_field_is_refused(checkpoint, tmp_path, section, field):
    cfg = yaml.safe_load(checkpoint["cfg"])
    del cfg[section][field]
    checkpoint["cfg"] = yaml.safe_dump(cfg)
    with pytest.raises(ConversionError, match=field):
        convert_checkpoint(save(checkpoint, tmp_path), tmp_path / "out", HEADS)
    assert not (tmp_path / "out").exists()


# Labels and card


def test_400_classes_are_those_of_kinetics(checkpoint, tmp_path):
    weights = checkpoint["model_state"]
    weights["mlp_head.4.weight"], weights["mlp_head.4.bias"] = torch.zeros(400, 40), torch.arange(400.0)
    path = tmp_path / "VTN_VIT_B_KINETICS.pyth"
    torch.save(checkpoint, path)
    convert_checkpoint(path, tmp_path / "out", HEADS)
    config = VTNConfig.from_pretrained(tmp_path / "out")
    assert config.num_labels == 400
    assert [config.id2label[label] for label in (0, 1, 399)] == ["abseiling", "air drumming", "zumba"]
    assert config.label2id["air drumming"] == 1
    card = ModelCard.load(tmp_path / "out" / "README.md")
    # As https://github.com/bomri/SlowFast's model zoo states them.
    assert "77.72 % top-1 and 93.24 % top-5" in card.text
    assert "as published" in card.text and "not measured again" in card.text
    # Nothing in the metadata may pass for a measurement.
    assert card.data.pipeline_tag == "video-classification" and card.data.eval_results is None


def test_kinetics_labels_are_in_the_order_of_the_label_map(shared_dir):
    lines = (shared_dir("kinetics") / "label_map_k400.txt").read_text().splitlines()
    assert vtn_hf.convert_vtn_checkpoint.read_kinetics_labels(400) == lines


def test_other_classes_stay_unnamed_and_nothing_is_claimed_for_them(converted_dir):
    assert VTNConfig.from_pretrained(converted_dir).id2label[6] == "LABEL_6"
    card = (converted_dir / "README.md").read_text()
    assert "checkpoint.pyth" in card and "77.72" not in card


# The command


def run_command(monkeypatch, *arguments):
    """`python -m vtn_hf.convert_vtn_checkpoint`, without the seconds of starting another Python."""
    monkeypatch.setattr(sys, "argv", ["convert_vtn_checkpoint", *map(str, arguments)])
    monkeypatch.delitem(sys.modules, "vtn_hf.convert_vtn_checkpoint", raising=False)
    runpy.run_module("vtn_hf.convert_vtn_checkpoint", run_name="__main__")


def test_command(checkpoint_path, tmp_path, monkeypatch, capsys):
    run_command(monkeypatch, checkpoint_path, tmp_path / "out", "--backbone_num_attention_heads", HEADS)
    weights = torch.load(checkpoint_path, weights_only=True)["model_state"]
    report = capsys.readouterr().out
    assert f"{sum(weight.numel() for weight in weights.values()):,} parameters, 7 classes, 3 temporal layers" in report
    assert "on a ViT with 2 layers of 3 heads" in report
    assert {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".py"} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
    }
    run_command(monkeypatch, "--to_original", tmp_path / "out", tmp_path / "back.pyth")
    _, state_dict = read_checkpoint(tmp_path / "back.pyth")
    assert state_dict.keys() == weights.keys()


@pytest.mark.parametrize("name", BAD_FILES)
def test_command_fails_with_one_line(bad_files, name, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([str(bad_files / name), str(tmp_path / "out")])
    assert exit_info.value.code == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ")
    assert len(output.err.splitlines()) == 1, output.err


def test_command_fails_with_one_line_where_weights_do_not_fit(checkpoint, tmp_path, capsys):
    checkpoint["model_state"]["backbone.blocks.0.attn.extra.weight"] = torch.zeros(1)
    del checkpoint["model_state"]["mlp_head.1.bias"]
    with pytest.raises(SystemExit) as exit_info:
        main([str(save(checkpoint, tmp_path)), str(tmp_path / "out")])
    assert exit_info.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_command_back_fails_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--to_original", str(tmp_path), str(tmp_path / "back.pyth")])
    assert exit_info.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(tmp_path) in error and len(error.splitlines()) == 1


# Outputs


def read_all(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_lies_in_the_output_folder_stays(checkpoint_path, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    # The second is what transformers clears away when it saves into a folder.
    for name in ("notes.txt", "model-00001-of-00002.safetensors"):
        (out / name).write_text("mine")
    convert_checkpoint(checkpoint_path, out, HEADS)
    assert (out / "notes.txt").read_text() == (out / "model-00001-of-00002.safetensors").read_text() == "mine"
    before = read_all(tmp_path)
    with pytest.raises(ConversionError, match="Nothing was written.* exists already"):
        convert_checkpoint(checkpoint_path, out, HEADS)
    assert read_all(tmp_path) == before
    (out / "config.json").write_text("old")
    convert_checkpoint(checkpoint_path, out, HEADS, overwrite=True)
    assert read_all(tmp_path) == before


def test_an_output_that_is_a_file_is_refused(checkpoint_path, converted_dir, tmp_path, capsys):
    target = tmp_path / "file"
    target.write_text("mine")
    back = tmp_path / "folder"
    back.mkdir()
    for arguments in (
        [checkpoint_path, target, "--backbone_num_attention_heads", HEADS],
        [checkpoint_path, target, "--backbone_num_attention_heads", HEADS, "--overwrite"],
        [checkpoint_path, target / "below", "--backbone_num_attention_heads", HEADS],
        ["--to_original", converted_dir, target],
        ["--to_original", converted_dir, back, "--overwrite"],
        ["--to_original", converted_dir, converted_dir / "model.safetensors", "--overwrite"],
    ):
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        assert exit_info.value.code == 1
        error = capsys.readouterr().err.splitlines()
        assert error[-1].startswith("error: Nothing was written.")
    assert read_all(tmp_path) == {Path("file"): b"mine"}
    main(["--to_original", str(converted_dir), str(target), "--overwrite"])
    assert read_checkpoint(target)


# Heads


def test_heads_that_cannot_be_known_are_asked_for(checkpoint_path, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(checkpoint_path), str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert "a ViT of width 48 with 2 layers" in error and "--backbone_num_attention_heads" in error
    for heads in (5, 0, -3):
        with pytest.raises(ConversionError, match=f"48, cannot be split into {heads} heads"):
            convert_checkpoint(checkpoint_path, tmp_path / "out", heads)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size, heads", [((192, 12, 768), 3), ((768, 12, 3072), 12), ((768, 8, 2304), None)])
def test_heads_of_known_vits(size, heads):
    """768 features in 8 layers were once a ViT-S of timm, which had 8 heads."""
    vit = ViTConfig(**dict(zip(("hidden_size", "num_hidden_layers", "intermediate_size"), size, strict=True)))
    if heads is not None:
        assert _find_num_heads(vit, None) == heads
        return
    with pytest.raises(ConversionError, match="none whose heads are known"):
        _find_num_heads(vit, None)


def test_name_of_the_checkpoint_is_text_in_the_card(checkpoint_path, tmp_path):
    odd = tmp_path / "`a` <b> $c$.pyth"
    odd.write_bytes(checkpoint_path.read_bytes())
    convert_checkpoint(odd, tmp_path / "out", HEADS)
    assert r"\`a\` &lt;b&gt; \$c\$.pyth" in (tmp_path / "out/README.md").read_text()
