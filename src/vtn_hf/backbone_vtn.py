"""The 2D backbone: any vision model of transformers, made to give one vector per frame."""

import os

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel


_CLASS_TOKEN_NAMES = ("cls_token", "class_token", "class_embedding")


def make_backbone(backbone_config: PreTrainedConfig) -> PreTrainedModel:
    """
    Builds a backbone with random weights.

    Args:
        backbone_config (`PreTrainedConfig`): Of a vision model that `AutoModel` can build.

    Raises:
        ValueError: If that model does not turn an image into a feature vector.
    """
    if hasattr(backbone_config, "mask_ratio"):
        backbone_config.mask_ratio = 0.0  # a masked autoencoder hides patches in eval mode too
    # Not in the dtype in which the image model happens to be stored, but in that of the rest of the VTN.
    backbone = AutoModel.from_config(backbone_config, dtype=torch.get_default_dtype())
    _drop_untrained_pooler(backbone)
    if backbone.main_input_name != "pixel_values":
        raise ValueError(
            f"A backbone reads `pixel_values`, but {type(backbone).__name__} reads `{backbone.main_input_name}`."
        )
    if "video" in backbone.input_modalities:
        raise ValueError(f"A backbone reads single frames, but {type(backbone).__name__} reads video clips.")
    if backbone_config.is_encoder_decoder:
        raise ValueError(
            f"{type(backbone).__name__} is no backbone: it has a decoder, whose queries are not features of the frame."
        )
    return backbone


def load_backbone_config(backbone_name_or_path: str | os.PathLike) -> PreTrainedConfig:
    """The configuration of a vision model, or of the vision tower of a model that has one (CLIP, SigLIP)."""
    config = AutoConfig.from_pretrained(backbone_name_or_path)
    return getattr(config, "vision_config", config)


def load_backbone(backbone_name_or_path: str | os.PathLike) -> PreTrainedModel:
    """The vision model that [`load_backbone_config`] describes, with its weights."""
    backbone, info = AutoModel.from_pretrained(
        backbone_name_or_path,
        config=load_backbone_config(backbone_name_or_path),
        dtype="auto",
        output_loading_info=True,
    )
    _drop_untrained_pooler(backbone)
    if missing := sorted(info["missing_keys"] & backbone.state_dict().keys()):
        raise ValueError(f"{backbone_name_or_path} lacks weights of {type(backbone).__name__}: {', '.join(missing)}.")
    return backbone


def encode_frames(backbone: PreTrainedModel, frames: torch.Tensor, chunk_size: int | None = None) -> torch.Tensor:
    """
    Gives one vector per frame.

    In eval mode the frames go through the backbone in chunks, and of equal frames that follow each other (frozen
    pictures, the repeats of the original's sampling) only the first does.

    Args:
        backbone (`PreTrainedModel`): What [`make_backbone`] gives.
        frames (`torch.Tensor` of shape `(frames, channels, height, width)`): Normalised pixels.
        chunk_size (`int`, *optional*): Frames per chunk; `None` passes all at once.

    Returns:
        `torch.Tensor` of shape `(frames, features)`.
    """
    if backbone.training or torch.compiler.is_compiling():
        return _run(backbone, frames)
    is_new = [True] + [not torch.equal(*pair) for pair in zip(frames[:-1], frames[1:], strict=True)]
    is_new = torch.tensor(is_new, device=frames.device)
    pictures = frames if is_new.all() else frames[is_new]
    features = [_run(backbone, chunk) for chunk in pictures.split(chunk_size or len(pictures))]
    return torch.cat(features)[is_new.cumsum(0) - 1]


def _run(backbone: PreTrainedModel, frames: torch.Tensor) -> torch.Tensor:
    if backbone.config.model_type == "siglip2_vision_model":
        return _pool(backbone, backbone(**_cut_into_patches(frames, backbone.config.patch_size)))
    return _pool(backbone, backbone(pixel_values=frames))


def _pool(backbone: PreTrainedModel, outputs: ModelOutput) -> torch.Tensor:
    """One vector per frame, `(frames, features)`, by the rule that [`VTNModel`] states."""
    pooled_output = getattr(outputs, "pooler_output", None)
    if pooled_output is not None:
        return pooled_output.flatten(1)
    last_hidden_state = getattr(outputs, "last_hidden_state", None)
    if last_hidden_state is None:
        raise ValueError(
            f"{type(backbone).__name__} gives no feature vector: its outputs are {', '.join(outputs.keys())}, without "
            "`pooler_output` and `last_hidden_state`."
        )
    if last_hidden_state.ndim == 4:
        return last_hidden_state.mean(dim=(2, 3))
    return last_hidden_state[:, 0] if has_class_token(backbone) else last_hidden_state.mean(dim=1)


def has_class_token(backbone: PreTrainedModel) -> bool:
    """Whether the first token of the backbone stands for the whole image."""
    return any(name.split(".")[-1] in _CLASS_TOKEN_NAMES for name, _ in backbone.named_parameters())


def _drop_untrained_pooler(backbone: PreTrainedModel):
    """Removes BERT's pooler, a dense layer and a tanh, which image checkpoints carry untrained."""
    if isinstance(getattr(getattr(backbone, "pooler", None), "dense", None), nn.Linear):
        backbone.pooler = None


def _cut_into_patches(frames: torch.Tensor, patch_size: int) -> dict[str, torch.Tensor]:
    """What SigLIP 2 (NaFlex) takes for images: `(frames, patches, patch_size ** 2 * channels)` and their grid."""
    num_frames, num_channels, height, width = frames.shape
    rows, columns = height // patch_size, width // patch_size
    patches = frames[..., : rows * patch_size, : columns * patch_size]
    patches = patches.reshape(num_frames, num_channels, rows, patch_size, columns, patch_size)
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int32, device=frames.device),
        "spatial_shapes": torch.tensor([[rows, columns]], device=frames.device).expand(num_frames, -1),
    }
