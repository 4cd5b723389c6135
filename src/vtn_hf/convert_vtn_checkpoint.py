"""
Converts checkpoints of the original implementation (PySlowFast with VTN, https://github.com/bomri/SlowFast) to this
package's format and back.

    python -m vtn_hf.convert_vtn_checkpoint VTN_VIT_B_KINETICS.pyth OUT_DIR
    python -m vtn_hf.convert_vtn_checkpoint --to_original MODEL_DIR CHECKPOINT.pyth
"""

import argparse
import pickle
import re
from pathlib import Path

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from .configuration_vtn import VTNConfig
from .data.class_names import read_kinetics_labels
from .model_card import make_model_card
from .modeling_vtn import VTNForVideoClassification
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


class ConversionError(ValueError):
    """A checkpoint cannot be converted; the message says why."""


def convert_state_dict(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Converts the weights of the original's ViT-B-VTN to those of [`VTNForVideoClassification`].

    Args:
        state_dict (`dict[str, torch.Tensor]`): `model_state` of a PySlowFast checkpoint.

    Returns:
        `dict[str, torch.Tensor]`: The same weights under our names.

    Raises:
        ConversionError: If a name is not one of the original's.
    """
    converted = {}
    for name, tensor in state_dict.items():
        if match := _ORIGINAL_PROJECTIONS.match(name):
            layer, kind = match.groups()
            for projection, part in zip("qkv", tensor.chunk(3), strict=True):
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


def convert_config(
    cfg: dict, state_dict: dict[str, torch.Tensor], backbone_num_attention_heads: int | None = None
) -> VTNConfig:
    """
    Reads the configuration of a VTN off a checkpoint.

    Args:
        cfg (`dict`): The checkpoint's own PySlowFast configuration.
        state_dict (`dict[str, torch.Tensor]`): Its weights, under the original's names.
        backbone_num_attention_heads (`int`, *optional*): Heads of the ViT backbone, which the checkpoint does not
            record. Defaults to the ViT family's rule: one per 64 features, and at least the 3 of ViT-Ti.

    Raises:
        ConversionError: If a weight or a field is missing.
    """
    try:
        hidden_size, num_channels, patch_size, _ = state_dict["backbone.patch_embed.proj.weight"].shape
        num_patches = state_dict["backbone.pos_embed"].shape[1] - 1
        num_labels = state_dict["mlp_head.4.weight"].shape[0]
        labels = read_kinetics_labels(400)
        if num_labels != len(labels):
            labels = [f"LABEL_{label}" for label in range(num_labels)]
        vtn = cfg["VTN"]
        return VTNConfig(
            backbone_config={
                "model_type": "vit",
                "hidden_size": hidden_size,
                "num_hidden_layers": _count_layers(state_dict, "backbone.blocks."),
                "num_attention_heads": backbone_num_attention_heads or max(3, hidden_size // 64),
                "intermediate_size": state_dict["backbone.blocks.0.mlp.fc1.weight"].shape[0],
                "image_size": round(num_patches**0.5) * patch_size,
                "patch_size": patch_size,
                "num_channels": num_channels,
                "layer_norm_eps": 1e-6,
            },
            num_hidden_layers=_count_layers(state_dict, "temporal_encoder.encoder.layer."),
            num_attention_heads=vtn["NUM_ATTENTION_HEADS"],
            intermediate_size=state_dict["temporal_encoder.encoder.layer.0.intermediate.dense.weight"].shape[0],
            attention_window=vtn["ATTENTION_WINDOW"],
            max_position_embeddings=vtn["MAX_POSITION_EMBEDDINGS"],
            hidden_dropout_prob=vtn["HIDDEN_DROPOUT_PROB"],
            attention_probs_dropout_prob=vtn["ATTENTION_PROBS_DROPOUT_PROB"],
            classifier_hidden_size=state_dict["mlp_head.1.weight"].shape[0],
            classifier_dropout=cfg["MODEL"]["DROPOUT_RATE"],
            num_frames=cfg["TRAIN"]["EVAL_NUM_FRAMES"],
            id2label=dict(enumerate(labels)),
            label2id={name: label for label, name in enumerate(labels)},
        )
    except KeyError as error:
        raise ConversionError(f"This is not a VTN checkpoint: it lacks {error}.") from error
    except (StrictDataclassError, ValueError) as error:
        raise ConversionError(f"Its cfg and its weights are not those of one VTN: {error}") from error


def _count_layers(state_dict: dict[str, torch.Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state_dict if name.startswith(prefix)})


def read_checkpoint(path: str | Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """
    Reads a checkpoint of the original without running any code that it may hold.

    Returns:
        The PySlowFast configuration, and the weights under the original's names.

    Raises:
        ConversionError: If the file is damaged, would execute code, or is not a PySlowFast checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message goes on to say how to execute the code after all.
        raise ConversionError(f"{path} is not read, because it is no checkpoint or would execute code.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ConversionError(f"{path} cannot be read, it may be truncated: {error}") from error
    if not isinstance(checkpoint, dict) or not {"model_state", "cfg"} <= checkpoint.keys():
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ConversionError(f"{path} is not a PySlowFast checkpoint: it needs `model_state` and `cfg`, got {found}.")
    state_dict = checkpoint["model_state"]
    if not isinstance(state_dict, dict) or not all(isinstance(weight, torch.Tensor) for weight in state_dict.values()):
        raise ConversionError(f"{path} is not a PySlowFast checkpoint: its `model_state` are no named tensors.")
    try:
        cfg = yaml.safe_load(checkpoint["cfg"])
    except (yaml.YAMLError, AttributeError):
        cfg = None
    if not isinstance(cfg, dict):
        raise ConversionError(f"{path} is not a PySlowFast checkpoint: its `cfg` is no mapping in yaml.")
    return cfg, state_dict


def convert_checkpoint(
    checkpoint_path: str | Path, output_dir: str | Path, backbone_num_attention_heads: int | None = None
) -> VTNForVideoClassification:
    """
    Turns a checkpoint of the original into a directory that `pipeline("video-classification")` loads: weights,
    configuration, both processors with the original's preprocessing, and a model card.

    Args:
        checkpoint_path (`str` or `Path`): The `.pyth` file.
        output_dir (`str` or `Path`): Where to write.
        backbone_num_attention_heads (`int`, *optional*): As in [`convert_config`].

    Returns:
        [`VTNForVideoClassification`]: The model, as written.

    Raises:
        ConversionError: If the checkpoint cannot be converted completely.
    """
    cfg, state_dict = read_checkpoint(checkpoint_path)
    try:
        config = convert_config(cfg, state_dict, backbone_num_attention_heads)
        model = VTNForVideoClassification(config)
        model.load_state_dict(convert_state_dict(state_dict), strict=True)
        data = cfg["DATA"]
        preprocessing = {
            "size": {"shortest_edge": data["TRAIN_JITTER_SCALES"][0]},
            "crop_size": {"height": data["TEST_CROP_SIZE"], "width": data["TEST_CROP_SIZE"]},
            "image_mean": data["MEAN"],
            "image_std": data["STD"],
            "pixel_protocol": "pyslowfast",
        }
    except (ConversionError, RuntimeError) as error:
        raise ConversionError(f"{checkpoint_path} cannot be converted. {error}") from error
    except KeyError as error:
        raise ConversionError(f"{checkpoint_path} cannot be converted. Its cfg lacks {error}.") from error
    model.save_pretrained(output_dir)
    VTNVideoProcessor(**preprocessing, num_frames=config.num_frames, frame_sampling="pyslowfast").save_pretrained(
        output_dir
    )
    card = make_model_card(config, str(output_dir), training=_describe(config, Path(checkpoint_path).name))
    card.save(Path(output_dir) / "README.md")
    return model


def revert_checkpoint(model_dir: str | Path, checkpoint_path: str | Path):
    """
    Writes a model of this package as a checkpoint that the original can load: `model_state` under its names, no
    optimiser, and the parts of its configuration that this package knows.

    Raises:
        ConversionError: If the model is one that the original cannot build.
    """
    model, processor = _load_model(model_dir)
    config = model.config
    if config.backbone_config.model_type != "vit" or config.position_embedding_type != "learned":
        raise ConversionError(
            "The original knows ViT backbones and learned positions only, got "
            f"{config.backbone_config.model_type!r} and {config.position_embedding_type!r}."
        )
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
    torch.save(checkpoint, checkpoint_path)


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
    except (OSError, ValueError) as error:
        raise ConversionError(f"{model_dir} cannot be loaded: {error}") from error
    if model_type != VTNConfig.model_type:
        raise ConversionError(f"{model_dir} holds a model of type {model_type!r}, not a VTN.")
    if info["missing_keys"]:
        raise ConversionError(f"{model_dir} lacks the weights {', '.join(sorted(info['missing_keys']))}.")
    return model, processor


def _describe(config: VTNConfig, checkpoint_name: str) -> str:
    description = (
        f"The weights are those of the original implementation (https://github.com/bomri/SlowFast), converted from "
        f"`{checkpoint_name}` by `vtn_hf`. The processors reproduce the original's full-video evaluation: "
        f"{config.num_frames} frames of the first {config.num_frames / 25:g} s, its resizing and its crop."
    )
    if config.num_labels == 400:
        description += (
            "\n\nFor `VTN_VIT_B_KINETICS.pyth` the original's model zoo states 77.72 % top-1 and 93.24 % top-5 on the "
            "Kinetics-400 validation set. These figures are quoted as published; they were not measured again."
        )
    return description


def main(arguments: list[str] | None = None):
    """The command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Converts checkpoints of the original VTN to this package and back.")
    parser.add_argument("source", help="checkpoint to read (a model directory with --to_original)")
    parser.add_argument("target", help="directory to write (a checkpoint with --to_original)")
    parser.add_argument("--to_original", action="store_true", help="convert a model directory to a checkpoint")
    parser.add_argument(
        "--backbone_num_attention_heads",
        type=int,
        help="heads of the ViT backbone, which checkpoints do not record (default: one per 64 features, at least 3)",
    )
    options = parser.parse_args(arguments)
    try:
        if options.to_original:
            revert_checkpoint(options.source, options.target)
            print(f"Wrote {options.target}.")
            return
        model = convert_checkpoint(options.source, options.target, options.backbone_num_attention_heads)
    except ConversionError as error:
        parser.exit(1, f"error: {' '.join(str(error).split())}\n")
    backbone = model.config.backbone_config
    print(
        f"Wrote {options.target}: {model.num_parameters():,} parameters, {model.config.num_labels} classes, "
        f"{model.config.num_hidden_layers} temporal layers on a ViT with {backbone.num_hidden_layers} layers of "
        f"{backbone.num_attention_heads} heads."
    )


if __name__ == "__main__":
    main()
