"""The 2D backbone: any vision model of transformers, made to give one vector per frame."""

import importlib
import os
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel

from .class_token_vtn import can_encode_class_token, encode_class_token
from .onednn_vtn import through_onednn


_CLASS_TOKEN_NAMES = ("cls_token", "class_token", "class_embedding")

# Where most vision configs keep the width of their pooled output. The order matters: MobileViT has `hidden_sizes` too,
# but pools after its neck.
_FEATURE_SIZE_FIELDS = ("neck_hidden_sizes", "hidden_size", "hidden_sizes", "hidden_dim", "num_features")


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
    if not has_attention_heads(backbone_config):
        # Nothing to choose: the attention asked of the VTN as a whole is that of the temporal encoder alone.
        backbone_config._attn_implementation = None
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


def get_backbone_feature_size(backbone_config: PreTrainedConfig) -> int:
    """
    Returns the width of the one vector that a backbone gives per frame.

    Args:
        backbone_config (`PreTrainedConfig`):
            The configuration of a vision model that `AutoModel` can build.

    Returns:
        `int`: The number of features per frame.

    Raises:
        ValueError: If that model does not turn an image into a feature vector.
    """
    if backbone_config.model_type == "timm_wrapper":
        # An import statement would make timm a requirement of every published checkpoint.
        timm = importlib.import_module("timm")
        model_args = backbone_config.model_args or {}
        # On the meta device, which takes no time. Where a layer follows the pooling, `num_features` is its input.
        with torch.device("meta"):
            return timm.create_model(backbone_config.architecture, pretrained=False, **model_args).head_hidden_size
    for field in _FEATURE_SIZE_FIELDS:
        size = getattr(backbone_config, field, None)
        if size is not None:
            return size if isinstance(size, int) else size[-1]
    # Where no field tells (MobileNet, MobileViTV2, SwiftFormer), building the model does.
    return measure_feature_size(backbone_config)


@torch.no_grad()
def measure_feature_size(backbone_config: PreTrainedConfig) -> int:
    """The number of features per frame, from a run on the meta device, which allocates and computes nothing."""
    image_size = getattr(backbone_config, "image_size", None) or 224
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    with torch.device("meta"):
        backbone = make_backbone(backbone_config).eval()
        frame = torch.empty(1, getattr(backbone_config, "num_channels", 3), height, width)
        return _run(backbone, frame).shape[1]


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


def choose_frames_per_chunk(frames_per_chunk: int | str | None, backbone: PreTrainedModel) -> int | None:
    """
    Frames per call of the backbone at inference, for what [`VTNConfig`] allows: a number or `None`, all at once, as it
    is; for `"auto"`, on a CPU 4 for convolutional networks and 8 for transformers, whose activations then stay in its
    caches, and 64 on other devices.
    """
    if frames_per_chunk != "auto":
        return frames_per_chunk
    if next(backbone.parameters()).device.type != "cpu":
        return 64
    return 4 if is_convolutional(backbone) else 8


def is_convolutional(backbone: PreTrainedModel) -> bool:
    """Whether most of its layers convolve; a ConvNeXt has two linear layers for each convolution, a ViT 72 for one."""
    num_convolutions = sum(isinstance(module, nn.Conv2d) for module in backbone.modules())
    return 2 * num_convolutions >= sum(isinstance(module, nn.Linear) for module in backbone.modules())


def encode_frames(
    backbone: PreTrainedModel,
    frames: torch.Tensor,
    is_frame: torch.Tensor | None = None,
    *,
    chunk_size: int | None = None,
    recompute: bool = False,
) -> torch.Tensor:
    """
    Gives one vector per frame.

    In eval mode the frames go through the backbone in chunks, and of equal frames (frozen pictures, slides, the
    repeats of the original's sampling) only the first does. In training mode they go in chunks if `recompute`, without
    which chunks would save nothing.

    Args:
        backbone (`PreTrainedModel`): What [`make_backbone`] gives.
        frames (`torch.Tensor` of shape `(frames, channels, height, width)`): Normalised pixels.
        is_frame (`torch.BoolTensor` of shape `(frames,)`, *optional*): Which of them to encode; defaults to all.
        chunk_size (`int`, *optional*): Frames per chunk; `None` passes all at once.
        recompute (`bool`, *optional*, defaults to `False`): Whether to compute the activations of each chunk again in
            the backward pass instead of keeping them.

    Returns:
        `torch.Tensor` of shape `(frames to encode, features)`.

    Raises:
        ValueError: If in training the chunks would not be independent, because the backbone normalises over frames.
    """
    if torch.compiler.is_compiling() or backbone.training:
        frames = frames if is_frame is None else frames[is_frame]
        if not recompute or chunk_size is None or torch.compiler.is_compiling():
            return _run(backbone, frames)
        if any(isinstance(module, _BatchNorm) and module.training for module in backbone.modules()):
            raise ValueError(
                f"`frames_per_chunk` is {chunk_size}, but in training {type(backbone).__name__} normalises over all "
                "frames of the batch, so that they cannot be computed in chunks; freeze it or set `frames_per_chunk` "
                "to None."
            )
        return torch.cat(
            # The pixels need no gradient, which the reentrant kind would ask of its inputs.
            [checkpoint(_run, backbone, chunk, use_reentrant=False) for chunk in frames.split(chunk_size)]
        )
    if is_frame is None:
        is_frame = torch.ones(len(frames), dtype=torch.bool)
    numbers = is_frame.nonzero().flatten().tolist()
    # Where pixels get gradients, each frame needs its own.
    first, place = (numbers, None) if frames.requires_grad else find_repeats(frames, numbers)
    chunk_size = chunk_size or len(first)
    features = torch.cat(
        [_run(backbone, frames[first[start : start + chunk_size]]) for start in range(0, len(first), chunk_size)]
    )
    return features if len(first) == len(numbers) else features[place]


def find_repeats(frames: torch.Tensor, numbers: Sequence[int]) -> tuple[list[int], list[int]]:
    """
    Recognises frames with the same pixels, wherever they are.

    Args:
        frames (`torch.Tensor` of shape `(frames, channels, height, width)`): Pixels of any dtype.
        numbers (`Sequence[int]`): Those to look at.

    Returns:
        The number of the first of each set of equal frames; and for each frame the place of its equal among those.
    """
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[frames.element_size()]
    pixels = frames.detach().view(integer)
    # Weighted, so that a picture that only moves does not keep its sum; integers, so that equal frames get equal sums.
    weights = torch.arange(1, 2 * pixels[0].numel(), 2, device=frames.device).reshape(pixels[0].shape)
    sums = torch.empty(len(numbers), dtype=torch.int64, device=frames.device)
    for place, number in enumerate(numbers):
        # Into memory that is there: a small piece after each product would keep its memory from being used again.
        torch.sum(pixels[number] * weights, dim=(0, 1, 2), out=sums[place])
    first, place, seen = [], [], {}
    for number, weighted_sum in zip(numbers, sums.tolist(), strict=True):
        candidates = seen.setdefault(weighted_sum, [])
        match = next((known for known in candidates if torch.equal(pixels[first[known]], pixels[number])), None)
        if match is None:
            match = len(first)
            candidates.append(match)
            first.append(number)
        place.append(match)
    return first, place


def _run(backbone: PreTrainedModel, frames: torch.Tensor) -> torch.Tensor:
    # A layer that is computed again in the backward pass must be computed in the same way then, outside this context.
    is_recomputed = backbone.training and any(
        getattr(module, "gradient_checkpointing", False) for module in backbone.modules()
    )
    return (_encode if is_recomputed else through_onednn(_encode))(backbone, frames)


def _encode(backbone: PreTrainedModel, frames: torch.Tensor) -> torch.Tensor:
    if can_encode_class_token(backbone):
        return encode_class_token(backbone, frames)
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


def has_attention_heads(backbone_config: PreTrainedConfig) -> bool:
    """Whether the backbone has attention that comes in several implementations, unlike a ResNet."""
    return any(hasattr(backbone_config, name) for name in ("num_attention_heads", "num_heads"))


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
