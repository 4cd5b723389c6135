"""
Converts checkpoints of the original implementation (PySlowFast with VTN, https://github.com/bomri/SlowFast) to this
package's format and back.

    python -m vtn_hf.convert_vtn_checkpoint VTN_VIT_B_KINETICS.pyth OUT_DIR
    python -m vtn_hf.convert_vtn_checkpoint --to_original MODEL_DIR CHECKPOINT.pyth
"""

import argparse
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, ViTConfig

from .configuration_vtn import VTNConfig
from .data.class_names import read_kinetics_labels
from .model_card import escape, make_model_card
from .modeling_vtn import VTNForVideoClassification
from .outputs import check_outputs, writing, writing_folder
from .pyslowfast import ConversionError, read_checkpoint
from .video_processing_vtn import VTNVideoProcessor


# (ours, the original's), read from left to right or from right to left. A digit stands for a layer's number.
_PREFIXES = (
    ("vtn.backbone.layers.#.layernorm_before.", "backbone.blocks.#.norm1."),
    ("vtn.backbone.layers.#.layernorm_after.", "backbone.blocks.#.norm2."),
    ("vtn.backbone.layers.#.attention.o_proj.", "backbone.blocks.#.attn.proj."),
    ("vtn.backbone.layers.#.mlp.", "backbone.blocks.#.mlp."),
    ("vtn.backbone.layernorm.", "backbone.norm."),
    ("vtn.backbone.embeddings.patch_embeddings.projection.", "backbone.patch_embed.proj."),
    ("vtn.backbone.embeddings.position_embeddings", "backbone.pos_embed"),
    ("vtn.backbone.embeddings.cls_token", "backbone.cls_token"),
    ("vtn.temporal_encoder.embeddings.cls_token", "cls_token"),
    ("vtn.temporal_encoder.embeddings.norm.", "temporal_encoder.embeddings.LayerNorm."),
    ("vtn.temporal_encoder.embeddings.", "temporal_encoder.embeddings."),
    ("vtn.temporal_encoder.layers.#.attention.output.", "temporal_encoder.encoder.layer.#.attention.output.dense."),
    ("vtn.temporal_encoder.layers.#.attention_norm.", "temporal_encoder.encoder.layer.#.attention.output.LayerNorm."),
    ("vtn.temporal_encoder.layers.#.attention.", "temporal_encoder.encoder.layer.#.attention.self."),
    ("vtn.temporal_encoder.layers.#.mlp.fc1.", "temporal_encoder.encoder.layer.#.intermediate.dense."),
    ("vtn.temporal_encoder.layers.#.mlp.fc2.", "temporal_encoder.encoder.layer.#.output.dense."),
    ("vtn.temporal_encoder.layers.#.mlp_norm.", "temporal_encoder.encoder.layer.#.output.LayerNorm."),
    ("classifier.norm.", "mlp_head.0."),
    ("classifier.dense.", "mlp_head.1."),
    ("classifier.out_proj.", "mlp_head.4."),
)

# timm keeps the three projections of a ViT layer in one matrix.
_OUR_PROJECTIONS = re.compile(r"^vtn\.backbone\.layers\.(\d+)\.attention\.q_proj\.(weight|bias)$")
_ORIGINAL_PROJECTIONS = re.compile(r"^backbone\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)$")


# Heads of ViT-Ti, -S, -B and -L, by width, number of layers and width of the MLP.
_VIT_HEADS = {(192, 12, 768): 3, (384, 12, 1536): 6, (768, 12, 3072): 12, (1024, 24, 4096): 16}


def convert_state_dict(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Converts the weights of the original's ViT-B-VTN to those of [`VTNForVideoClassification`].

    Args:
        state_dict (`dict[str, torch.Tensor]`): `model_state` of a PySlowFast checkpoint.

    Returns:
        `dict[str, torch.Tensor]`: The same weights under our names.

    Raises:
        ConversionError: If a name is not one of the original's, or a weight has no dimensions.
    """
    converted = {}
    for name, tensor in state_dict.items():
        if match := _ORIGINAL_PROJECTIONS.match(name):
            layer, kind = match.groups()
            if tensor.ndim == 0:
                raise ConversionError(f"The weight {name} is a single number.")
            for projection, part in zip("qkv", tensor.tensor_split(3), strict=True):
                converted[f"vtn.backbone.layers.{layer}.attention.{projection}_proj.{kind}"] = part.clone()
        else:
            converted[_rename(name, [(theirs, ours) for ours, theirs in _PREFIXES])] = tensor
    return converted


def revert_state_dict(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Converts the weights of a [`VTNForVideoClassification`] with a ViT backbone to the original's: the inverse of
    [`convert_state_dict`].

    Raises:
        ConversionError: If a weight has no counterpart in the original.
    """
    reverted = {}
    for name, tensor in state_dict.items():
        if match := _OUR_PROJECTIONS.match(name):
            layer, kind = match.groups()
            names = [name.replace("q_proj", f"{projection}_proj") for projection in "qkv"]
            reverted[f"backbone.blocks.{layer}.attn.qkv.{kind}"] = torch.cat([state_dict[part] for part in names])
        elif re.match(r"^vtn\.backbone\.layers\.\d+\.attention\.[kv]_proj\.", name) is None:
            reverted[_rename(name, _PREFIXES)] = tensor
    return reverted


def _rename(name: str, rules: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> str:
    number = re.search(r"\.(\d+)\.", name)
    for old, new in rules:
        if number is not None:
            old, new = (prefix.replace("#", number.group(1)) for prefix in (old, new))
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise ConversionError(f"There is no counterpart for the weight {name!r}.")


def _read_config(cfg: dict, state_dict: dict[str, torch.Tensor]) -> VTNConfig:
    """The configuration but for the heads of the backbone, which change no shape: it gets one."""
    hidden_size, num_channels, patch_size, _ = _get_shape(state_dict, "backbone.patch_embed.proj.weight", 4)
    num_patches = _get_shape(state_dict, "backbone.pos_embed", 3)[1] - 1
    num_labels, classifier_hidden_size = _get_shape(state_dict, "mlp_head.4.weight", 2)
    backbone_config = {
        "model_type": "vit",
        "hidden_size": hidden_size,
        "num_hidden_layers": _count_layers(state_dict, "backbone.blocks."),
        "num_attention_heads": 1,
        "intermediate_size": _get_shape(state_dict, "backbone.blocks.0.mlp.fc1.weight", 2)[0],
        "image_size": round(num_patches**0.5) * patch_size,
        "patch_size": patch_size,
        "num_channels": num_channels,
        "layer_norm_eps": 1e-6,
    }
    first_layer = "temporal_encoder.encoder.layer.0.intermediate.dense.weight"
    fields = {
        "num_hidden_layers": _count_layers(state_dict, "temporal_encoder.encoder.layer."),
        "num_attention_heads": _get_field(cfg, "VTN", "NUM_ATTENTION_HEADS"),
        "intermediate_size": _get_shape(state_dict, first_layer, 2)[0],
        "attention_window": _get_field(cfg, "VTN", "ATTENTION_WINDOW"),
        "max_position_embeddings": _get_field(cfg, "VTN", "MAX_POSITION_EMBEDDINGS"),
        "hidden_dropout_prob": _get_field(cfg, "VTN", "HIDDEN_DROPOUT_PROB"),
        "attention_probs_dropout_prob": _get_field(cfg, "VTN", "ATTENTION_PROBS_DROPOUT_PROB"),
        "classifier_hidden_size": classifier_hidden_size,
        "classifier_dropout": _get_field(cfg, "MODEL", "DROPOUT_RATE"),
        "num_frames": _get_field(cfg, "TRAIN", "EVAL_NUM_FRAMES"),
    }
    labels = read_kinetics_labels(400)
    if num_labels != len(labels):
        labels = [f"LABEL_{label}" for label in range(num_labels)]
    fields["id2label"], fields["label2id"] = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    try:
        return VTNConfig(backbone_config=backbone_config, **fields)
    except (StrictDataclassError, ValueError) as error:
        raise ConversionError(f"Its cfg and its weights are not those of one VTN: {error}") from error


def _get_shape(state_dict: dict[str, torch.Tensor], name: str, num_dimensions: int) -> tuple[int, ...]:
    if name not in state_dict:
        raise ConversionError(f"This is not a VTN checkpoint: it lacks the weight {name}.")
    shape = tuple(state_dict[name].shape)
    if len(shape) != num_dimensions or 0 in shape:
        raise ConversionError(f"The weight {name} has the shape {shape}, where {num_dimensions} dimensions are right.")
    return shape


def _get_field(cfg: dict, section: str, name: str) -> Any:
    fields = cfg.get(section)
    if not isinstance(fields, dict) or fields.get(name) is None:
        raise ConversionError(f"This is not a VTN checkpoint: its cfg lacks {section}.{name}.")
    return fields[name]


def _count_layers(state_dict: dict[str, torch.Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state_dict if name.startswith(prefix)})


def _find_num_heads(vit: ViTConfig, num_heads: int | None) -> int:
    sizes = (vit.hidden_size, vit.num_hidden_layers, vit.intermediate_size)
    if num_heads is None and sizes not in _VIT_HEADS:
        raise ConversionError(
            f"It does not record the heads of its backbone, and a ViT of width {sizes[0]} with {sizes[1]} layers is "
            "none whose heads are known; give them (--backbone_num_attention_heads)."
        )
    num_heads = _VIT_HEADS[sizes] if num_heads is None else num_heads
    if num_heads < 1 or vit.hidden_size % num_heads != 0:
        raise ConversionError(f"The width of its backbone, {vit.hidden_size}, cannot be split into {num_heads} heads.")
    return num_heads


def convert_checkpoint(
    checkpoint_path: str | Path,
    output_dir: str | Path,
    backbone_num_attention_heads: int | None = None,
    overwrite: bool = False,
) -> VTNForVideoClassification:
    """
    Turns a checkpoint of the original into a directory that `pipeline("video-classification")` loads: weights,
    configuration, both processors with the original's preprocessing, and a model card.

    Args:
        checkpoint_path (`str` or `Path`): The `.pyth` file.
        output_dir (`str` or `Path`): Where to write; what lies there stays.
        backbone_num_attention_heads (`int`, *optional*): Heads of the ViT backbone, which the checkpoint does not
            record. Defaults to those of ViT-Ti, -S, -B and -L, if it is one of them.
        overwrite (`bool`, *optional*, defaults to `False`): Whether files of the same names may be replaced.

    Returns:
        [`VTNForVideoClassification`]: The model, as written.

    Raises:
        ConversionError: If the checkpoint cannot be converted completely, or the directory cannot be written.
    """
    cfg, state_dict = read_checkpoint(checkpoint_path)
    try:
        config = _read_config(cfg, state_dict)
        weights = convert_state_dict(state_dict)
        model = _build(config)
        _compare(model.state_dict(), weights)
        processor = _make_processor(cfg)
        num_heads = _find_num_heads(config.backbone_config, backbone_num_attention_heads)
    except ConversionError as error:
        raise ConversionError(f"{checkpoint_path} cannot be converted. {error}") from error
    model.config.backbone_config.num_attention_heads = num_heads
    model.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    card = make_model_card(config, str(output_dir), training=_describe(config, Path(checkpoint_path).name))
    try:
        with writing_folder(output_dir) as unfinished:
            model.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
            card.save(unfinished / "README.md")
            check_outputs([Path(output_dir, path.name) for path in unfinished.iterdir()], overwrite=overwrite)
    except (OSError, ValueError) as error:
        raise ConversionError(f"Nothing was written. {error}") from error
    return VTNForVideoClassification.from_pretrained(output_dir)


def _build(config: VTNConfig) -> VTNForVideoClassification:
    """A model without weights: nothing is allocated for sizes that may be absurd."""
    try:
        with torch.device("meta"):
            return VTNForVideoClassification(config)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ConversionError(f"Its cfg and its weights are not those of one VTN: {error}") from error


def _compare(expected: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]):
    problems = [f"{name} is missing" for name in sorted(expected.keys() - weights.keys())]
    problems += [f"{name} is unknown" for name in sorted(weights.keys() - expected.keys())]
    problems += [
        f"{name} has the shape {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if weights[name].shape != expected[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ConversionError(f"Its weights are not those of one VTN: {'; '.join(problems[:5])}{more}.")


def _make_processor(cfg: dict) -> VTNVideoProcessor:
    """The original's full-video evaluation."""
    side = _get_field(cfg, "DATA", "TEST_CROP_SIZE")
    scales = _get_field(cfg, "DATA", "TRAIN_JITTER_SCALES")
    try:
        if not type(side) is type(scales[0]) is int:
            raise TypeError(f"sides of pictures are whole numbers, got {side} and {scales[0]}.")
        return VTNVideoProcessor(
            size={"shortest_edge": scales[0]},
            crop_size={"height": side, "width": side},
            image_mean=_get_field(cfg, "DATA", "MEAN"),
            image_std=_get_field(cfg, "DATA", "STD"),
            pixel_protocol="pyslowfast",
            num_frames=_get_field(cfg, "TRAIN", "EVAL_NUM_FRAMES"),
            frame_sampling="pyslowfast",
        )
    except ConversionError:
        raise
    except (ValueError, TypeError, LookupError) as error:
        raise ConversionError(f"Its cfg does not describe a preprocessing: {error}") from error


def revert_checkpoint(model_dir: str | Path, checkpoint_path: str | Path, overwrite: bool = False):
    """
    Writes a model of this package as a checkpoint that the original can load: `model_state` under its names, no
    optimiser, and the parts of its configuration that this package knows.

    Args:
        model_dir (`str` or `Path`): A model of this package.
        checkpoint_path (`str` or `Path`): The `.pyth` file to write, outside of `model_dir`.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a file of this name may be replaced.

    Raises:
        ConversionError: If the model is one that the original cannot build, or the file cannot be written.
    """
    model, processor = _load_model(model_dir)
    config = model.config
    if config.backbone_config.model_type != "vit" or config.position_embedding_type != "learned":
        raise ConversionError(
            "The original knows ViT backbones and learned positions only, got "
            f"{config.backbone_config.model_type!r} and {config.position_embedding_type!r}."
        )
    if config.frame_grid is not None:
        raise ConversionError(
            f"The original reads one vector per frame, but this model has `frame_grid` {config.frame_grid}."
        )
    if config.frame_changes:
        raise ConversionError("The original reads features, but this model their changes (`frame_changes`).")
    if config.position_overflow == "stretch":
        raise ConversionError("The original's positions are numbers of frames, but this model's are stretched.")
    if config.backbone_config.layer_norm_eps != 1e-6:
        raise ConversionError(
            "The original's ViT has layer norms of epsilon 1e-06, and its checkpoints do not record another; got "
            f"{config.backbone_config.layer_norm_eps}."
        )
    checkpoint = {
        "epoch": 0,
        "model_state": revert_state_dict(model.state_dict()),
        "optimizer_state": {},
        "cfg": yaml.safe_dump(_make_cfg(config, processor)),
    }
    try:
        check_outputs([checkpoint_path], inputs=[model_dir], overwrite=overwrite)
        with writing(checkpoint_path) as unfinished:
            torch.save(checkpoint, unfinished)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConversionError(f"Nothing was written. {error}") from error


def _make_cfg(config: VTNConfig, processor: VTNVideoProcessor) -> dict:
    """The parts of the original's configuration that this package knows."""
    return {
        "MODEL": {
            "MODEL_NAME": "VTN",
            "ARCH": "VIT",
            "NUM_CLASSES": config.num_labels,
            "DROPOUT_RATE": config.classifier_dropout,
        },
        "VTN": {
            "HIDDEN_DIM": config.hidden_size,
            "MLP_DIM": config.classifier_hidden_size,
            "NUM_ATTENTION_HEADS": config.num_attention_heads,
            "NUM_HIDDEN_LAYERS": config.num_hidden_layers,
            "INTERMEDIATE_SIZE": config.intermediate_size,
            "ATTENTION_WINDOW": list(config.attention_windows),
            "MAX_POSITION_EMBEDDINGS": config.max_position_embeddings,
            "HIDDEN_DROPOUT_PROB": config.hidden_dropout_prob,
            "ATTENTION_PROBS_DROPOUT_PROB": config.attention_probs_dropout_prob,
        },
        "DATA": {
            "MEAN": list(processor.image_mean),
            "STD": list(processor.image_std),
            "TEST_CROP_SIZE": processor.crop_size.height,
            "TRAIN_CROP_SIZE": processor.crop_size.height,
            "TRAIN_JITTER_SCALES": [processor.size.shortest_edge] * 2,
        },
        "TRAIN": {"EVAL_NUM_FRAMES": config.num_frames, "EVAL_FULL_VIDEO": True},
    }


def _load_model(model_dir: str | Path) -> tuple[VTNForVideoClassification, VTNVideoProcessor]:
    try:
        model_type = AutoConfig.from_pretrained(model_dir).model_type
        if model_type == VTNConfig.model_type:
            model, info = VTNForVideoClassification.from_pretrained(model_dir, dtype="auto", output_loading_info=True)
            processor = VTNVideoProcessor.from_pretrained(model_dir)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise ConversionError(f"{model_dir} cannot be loaded: {error}") from error
    if model_type != VTNConfig.model_type:
        raise ConversionError(f"{model_dir} holds a model of type {model_type!r}, not a VTN.")
    if info["missing_keys"]:
        raise ConversionError(f"{model_dir} lacks the weights {', '.join(sorted(info['missing_keys']))}.")
    return model, processor


def _describe(config: VTNConfig, checkpoint_name: str) -> str:
    description = (
        f"The weights are those of the original implementation (https://github.com/bomri/SlowFast), converted from "
        f"{escape(checkpoint_name)} by `vtn_hf`. The processors reproduce the original's full-video evaluation: "
        f"{config.num_frames} frames of the first {config.num_frames / 25:g} s, its resizing and its crop."
    )
    if config.num_labels == 400:
        description += (
            "\n\nFor `VTN_VIT_B_KINETICS.pyth` the original's model zoo states 77.72 % top-1 and 93.24 % top-5 on the "
            "Kinetics-400 validation set. These figures are quoted as published; they were not measured again."
        )
    return description


def add_arguments(parser: argparse.ArgumentParser):
    """What to convert, and to what."""
    parser.add_argument("source", help="checkpoint to read (a model directory with --to_original)")
    parser.add_argument("target", help="directory to write (a checkpoint with --to_original)")
    parser.add_argument("--to_original", action="store_true", help="convert a model directory to a checkpoint")
    parser.add_argument(
        "--backbone_num_attention_heads",
        type=int,
        help="heads of the ViT backbone, which checkpoints do not record (default: known for ViT-Ti, -S, -B and -L)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def convert(options: argparse.Namespace):
    """
    Converts as the arguments say, and prints what was written.

    Raises:
        ConversionError: If that is not possible.
    """
    if options.to_original:
        revert_checkpoint(options.source, options.target, options.overwrite)
        print(f"Wrote {options.target}.")
        return
    heads = options.backbone_num_attention_heads
    model = convert_checkpoint(options.source, options.target, heads, options.overwrite)
    backbone = model.config.backbone_config
    print(
        f"Wrote {options.target}: {model.num_parameters():,} parameters, {model.config.num_labels} classes, "
        f"{model.config.num_hidden_layers} temporal layers on a ViT with {backbone.num_hidden_layers} layers of "
        f"{backbone.num_attention_heads} heads."
    )


def main(arguments: list[str] | None = None):
    """The command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Converts checkpoints of the original VTN to this package and back.")
    add_arguments(parser)
    try:
        convert(parser.parse_args(arguments))
    except ConversionError as error:
        parser.exit(1, f"error: {' '.join(str(error).split())}\n")


if __name__ == "__main__":
    main()
