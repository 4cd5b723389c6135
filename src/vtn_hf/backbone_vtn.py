"""The 2D backbone: any vision model of transformers, made to give one vector per frame, or a grid beside it."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel


_CLASS_TOKEN_NAMES = ("cls_token", "class_token", "class_embedding", "cls_register_token")
# What stands before the patches beside it.
_PREFIX_NAMES = (*_CLASS_TOKEN_NAMES, "distillation_token", "dist_token", "register_tokens", "reg_token")

# Where most vision configs keep the width of their pooled output. The order matters: MobileViT has `hidden_sizes` too,
# but pools after its neck.
_FEATURE_SIZE_FIELDS = ("neck_hidden_sizes", "hidden_size", "hidden_sizes", "hidden_dim", "num_features")


def make_backbone(backbone_config: PreTrainedConfig) -> PreTrainedModel:
    """Builds a backbone with random weights; ValueError if it does not turn an image into a feature vector."""
    if hasattr(backbone_config, "mask_ratio"):
        backbone_config.mask_ratio = 0.0  # a masked autoencoder hides patches in eval mode too
    if not has_attention_heads(backbone_config):
        # Nothing to choose: the attention asked of the VTN as a whole is that of the temporal encoder alone.
        backbone_config._attn_implementation = None
    # Not in the dtype in which the image model happens to be stored, but in that of the rest of the VTN.
    backbone = AutoModel.from_config(backbone_config, dtype=torch.get_default_dtype())
    drop_untrained_pooler(backbone)
    name = type(backbone).__name__
    if backbone.main_input_name != "pixel_values":
        raise ValueError(f"A backbone reads `pixel_values`, but {name} reads `{backbone.main_input_name}`.")
    if "video" in backbone.input_modalities:
        raise ValueError(f"A backbone reads single frames, but {name} reads video clips.")
    if backbone_config.is_encoder_decoder:
        raise ValueError(f"{name} is no backbone: it has a decoder, whose queries are not features of the frame.")
    return backbone


def get_backbone_feature_size(backbone_config: PreTrainedConfig) -> int:
    """The width of a frame's vector; ValueError as in [`make_backbone`]."""
    is_timm = backbone_config.model_type == "timm_wrapper"
    for field in () if is_timm else _FEATURE_SIZE_FIELDS:
        size = getattr(backbone_config, field, None)
        if size is not None:
            return size if isinstance(size, int) else size[-1]
    # Where no field tells (MobileNet, MobileViTV2, SwiftFormer), the model does; on the meta device it takes no time.
    with torch.device("meta"), torch.no_grad():
        backbone = make_backbone(backbone_config).eval()
        if is_timm:
            return backbone.timm_model.head_hidden_size
        return encode(backbone, torch.empty(1, *get_frame_shape(backbone_config))).shape[1]


def get_frame_shape(backbone_config: PreTrainedConfig) -> tuple[int, int, int]:
    """Channels, height and width of the frames that a backbone takes; 224 x 224 where it takes any size."""
    image_size = getattr(backbone_config, "image_size", None) or 224
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return getattr(backbone_config, "num_channels", 3), height, width


def choose_frames_per_chunk(
    frames_per_chunk: int | str | None, backbone: PreTrainedModel, num_pixels: int = 224 * 224
) -> int | None:
    """
    Frames of so many pixels per call of the backbone at inference, for what [`VTNConfig`] allows: a number or `None`,
    all at once, as it is; for `"auto"`, 64, but on a CPU at most the pixels of 2 frames of 224 x 224 for convolutional
    networks, and of 8 for transformers, whose activations then stay in its caches.
    """
    if frames_per_chunk != "auto":
        return frames_per_chunk
    if next(backbone.parameters()).device.type != "cpu":
        return 64
    # `vtn_hf.optimize` says there what suits the modules that it has put into a backbone.
    num_frames = getattr(backbone, "frames_per_call", None) or (2 if is_convolutional(backbone) else 8)
    return min(max(1, round(num_frames * 224 * 224 / num_pixels)), 64)


def is_convolutional(backbone: PreTrainedModel) -> bool:
    """Whether most of its layers convolve; a ConvNeXt has two linear layers for each convolution, a ViT 72 for one."""
    num_convolutions = sum(isinstance(module, nn.Conv2d) for module in backbone.modules())
    return 2 * num_convolutions >= sum(isinstance(module, nn.Linear) for module in backbone.modules())


def normalizes_over_frames(backbone: PreTrainedModel) -> bool:
    """Whether a frame's features depend on the other frames: batch normalisation in training mode."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return any(isinstance(module, kinds) and module.training for module in backbone.modules())


def encode_frames(
    backbone: PreTrainedModel,
    frames: torch.Tensor,
    numbers: torch.Tensor | None = None,
    *,
    chunk_size: int | str | None = None,
    recompute: bool = False,
    frame_grid: int | None = None,
) -> torch.Tensor:
    """
    As [`encode`], in chunks unless a graph is compiled or exported; zeros for frames that are not among `numbers`.

    Args:
        backbone (`PreTrainedModel`): What [`make_backbone`] gives.
        frames (`torch.Tensor` of shape `(frames, channels, height, width)`): Normalised pixels.
        numbers (`torch.LongTensor` of shape `(frames to encode,)`, *optional*): Which of them to encode; defaults to
            all.
        chunk_size (`int` or `str`, *optional*): Frames per call of the backbone, as `frames_per_chunk` in
            [`VTNConfig`].
        recompute (`bool`): Whether a chunk's activations are computed again in the backward pass instead of kept.
        frame_grid (`int`, *optional*): As in [`VTNConfig`].

    Raises:
        ValueError: If a frame's features depend on the others, so that there can be no chunks.
    """
    if numbers is None and (chunk_size is None or torch.compiler.is_compiling()):
        return encode(backbone, frames, frame_grid)
    chunk_size = choose_frames_per_chunk(chunk_size, backbone, frames.shape[-2] * frames.shape[-1])
    if chunk_size is not None and normalizes_over_frames(backbone):
        reason = f"in training {type(backbone).__name__} normalises over all frames of the batch"
        advice = 'which cannot be cut into chunks; freeze it or set `frames_per_chunk` to "auto"'
        raise ValueError(f"`frames_per_chunk` is {chunk_size}, but {reason}, {advice}.")
    size = chunk_size or len(frames)
    parts = [slice(first, first + size) for first in range(0, len(frames), size)]
    # The pixels need no gradient, which the reentrant kind would ask of its inputs.
    run = partial(checkpoint, encode, use_reentrant=False) if recompute and chunk_size else encode
    features = None
    for part in parts if numbers is None else numbers.split(size):
        encoded = run(backbone, frames[part], frame_grid)
        # Into memory that is there: pieces between the activations would keep theirs from being used again.
        features = encoded.new_zeros(len(frames), *encoded.shape[1:]) if features is None else features
        features[part] = encoded
    return features


def encode(backbone: PreTrainedModel, frames: torch.Tensor, frame_grid: int | None = None) -> torch.Tensor:
    """
    One vector per frame, `(frames, features)`, of all frames at once; with a grid `(frames, 1 + frame_grid ** 2,
    features)`, the vector first, then the places row by row.
    """
    if backbone.config.model_type == "siglip2_vision_model":
        outputs = backbone(**_cut_into_patches(frames, backbone.config.patch_size))
    else:
        outputs = backbone(pixel_values=frames)
    vector = _pool(backbone, outputs)
    # Pixtral takes all for one sequence. Not `len`, which would fix the number in an exported graph.
    if vector.shape[0] != frames.shape[0]:
        counts = f"of {frames.shape[0]} frames it gives {vector.shape[0]} vector(s)"
        raise ValueError(f"{type(backbone).__name__} is no backbone: {counts}.")
    if frame_grid is None:
        return vector
    feature_map = _find_feature_map(backbone, outputs, frames.shape[2:], vector.shape[1])
    if feature_map.shape[1] != vector.shape[1] or min(feature_map.shape[2:]) < frame_grid:
        num_features, rows, columns = feature_map.shape[1:]
        found = f"{type(backbone).__name__} gives a map of {rows} x {columns} places with {num_features} features"
        needs = f"at least as many places on either side, with the {vector.shape[1]} features of the pooled vector"
        raise ValueError(f"`frame_grid` is {frame_grid}, but {found}; it takes {needs}.")
    places = nn.functional.adaptive_avg_pool2d(feature_map, frame_grid).flatten(2).transpose(1, 2)
    return torch.cat([vector[:, None], places], dim=1)


def _pool(backbone: PreTrainedModel, outputs: ModelOutput) -> torch.Tensor:
    """One vector per frame, `(frames, features)`, by the rule that [`VTNModel`] states."""
    pooled, states = (getattr(outputs, name, None) for name in ("pooler_output", "last_hidden_state"))
    if pooled is not None:
        return pooled.flatten(1)
    if states is None:
        found = f"its outputs are {', '.join(outputs.keys())}, without `pooler_output` and `last_hidden_state`"
        raise ValueError(f"{type(backbone).__name__} gives no feature vector: {found}.")
    if states.ndim == 4:
        return states.mean(dim=(2, 3))
    return states[:, 0] if has_class_token(backbone) else states.mean(dim=1)


def _find_feature_map(
    backbone: PreTrainedModel, outputs: ModelOutput, sides: torch.Size, num_features: int
) -> torch.Tensor:
    """The features of each place in frames of these sides, `(frames, features, rows, columns)`."""
    states, name = getattr(outputs, "last_hidden_state", None), type(backbone).__name__
    if states is None:
        raise ValueError(f"{name} has no grid of features: it gives no `last_hidden_state`; leave `frame_grid` out.")
    if states.ndim == 4:
        # DiNAT and timm's Swin have channels last.
        is_last = states.shape[1] != num_features == states.shape[3]
        return states.permute(0, 3, 1, 2) if is_last else states
    patches = states[:, count_prefix_tokens(backbone) :]
    if (order := getattr(outputs, "ids_restore", None)) is not None:  # a masked autoencoder shuffles them
        patches = patches.gather(1, order[..., None].expand_as(patches))
    rows = _count_rows(patches.shape[1], *sides)
    if rows is None:  # there are others among them, as the detection tokens of a YOLOS
        tokens = f"{patches.shape[1]} tokens of a frame of {sides[0]} x {sides[1]} pixels fill no rows and columns"
        raise ValueError(f"{name} has no grid of features: {tokens}; leave `frame_grid` out.")
    return patches.transpose(1, 2).unflatten(2, (rows, -1))


def _count_rows(num_patches: int, height: int, width: int) -> int | None:
    """The rows of so many square patches of a frame, where those that its edges cut through count or do not."""
    for cut_patches in (0, 1):
        for size in range(1, max(height, width) + 1):
            rows, columns = ((side + cut_patches * (size - 1)) // size for side in (height, width))
            if rows * columns == num_patches:
                return rows
    return None


def count_prefix_tokens(backbone: PreTrainedModel) -> int:
    """How many tokens stand before the patches of a transformer, for the whole image: class token and registers."""
    if backbone.config.model_type == "dinov3_convnext":  # its pooled vector, which is no parameter
        return 1
    # (1, tokens, features), (tokens, features), or (features,) for one token
    return sum(token.numel() // token.shape[-1] for token in _find_tokens(backbone, _PREFIX_NAMES))


def _find_tokens(backbone: PreTrainedModel, names: tuple[str, ...]) -> list[nn.Parameter]:
    """Learned tokens that stand among the patches; an attention pooling has some that do not."""
    paths = ((name.split("."), parameter) for name, parameter in backbone.named_parameters())
    return [parameter for path, parameter in paths if path[-1] in names and "head" not in path]


def has_attention_heads(backbone_config: PreTrainedConfig) -> bool:
    """Whether the backbone has attention that comes in several implementations, unlike a ResNet."""
    return any(hasattr(backbone_config, name) for name in ("num_attention_heads", "num_heads"))


def has_class_token(backbone: PreTrainedModel) -> bool:
    """Whether the first token of the backbone stands for the whole image."""
    return bool(_find_tokens(backbone, _CLASS_TOKEN_NAMES))


def drop_untrained_pooler(backbone: PreTrainedModel):
    """Removes BERT's pooler, a dense layer and a tanh, which image checkpoints carry untrained."""
    if isinstance(getattr(getattr(backbone, "pooler", None), "dense", None), nn.Linear):
        backbone.pooler = None


def _cut_into_patches(frames: torch.Tensor, patch_size: int) -> dict[str, torch.Tensor]:
    """What SigLIP 2 (NaFlex) takes for images: `(frames, patches, patch_size ** 2 * channels)` and their grid."""
    rows, columns = (side // patch_size for side in frames.shape[2:])
    patches = frames[..., : rows * patch_size, : columns * patch_size]
    patches = patches.unflatten(3, (columns, patch_size)).unflatten(2, (rows, patch_size))
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int32, device=frames.device),
        "spatial_shapes": torch.tensor([[rows, columns]], device=frames.device).expand(len(frames), -1),
    }
