"""
The Video Transformer Network: a 2D backbone per frame, a temporal encoder over the frames, a classification head.

The temporal encoder computes what Longformer computes with one global token, the class token ("Video Transformer
Network", https://huggingface.co/papers/2102.00719, section 3.2), but only what VTN needs of it. In shape comments:

    B  videos in the batch         T  frames per video          N  1 + T, the class token and the frames
    F  features of the backbone    H  hidden size               h  attention heads, d = H / h features each
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_vtn import VTNConfig, get_backbone_feature_size


@dataclass
class VTNModelOutput(ModelOutput):
    """
    What [`VTNModel`] returns.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, 1 + frames, hidden_size)`):
            Output of the last layer of the temporal encoder, the class token first.
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`):
            The class token of `last_hidden_state`.
        frame_embeds (`torch.FloatTensor` of shape `(batch, frames, backbone features)`):
            What the backbone gave for each frame, or the `inputs_embeds`; zeros at padding frames.
        hidden_states (`tuple` of `torch.FloatTensor` of shape `(batch, 1 + frames, hidden_size)`, *optional*):
            Input of the first layer and output of each layer, with `output_hidden_states=True`.
        attentions (`tuple` of `torch.FloatTensor` of shape `(batch, heads, 1 + frames, 1 + frames)`, *optional*):
            Attention weights of each layer, with `output_attentions=True` on the eager attention; row 0 is the class
            token, the other rows are the frames, whose weights are zero outside of their window.
        global_attentions (`tuple` of `torch.FloatTensor` of shape `(batch, heads, 1 + frames)`, *optional*):
            Attention weights of the class token over itself and the frames in each layer, with
            `output_attentions=True` on any attention implementation.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    frame_embeds: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    global_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class VTNVideoClassifierOutput(ModelOutput):
    """
    What [`VTNForVideoClassification`] returns.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Classification or regression loss, when labels were given.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`):
            Class scores before the softmax or sigmoid.
        hidden_states, attentions, global_attentions (`tuple` of `torch.FloatTensor`, *optional*):
            As in [`VTNModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    global_attentions: tuple[torch.FloatTensor, ...] | None = None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reference attention, with the signature of transformers' attention functions and a boolean mask."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    output = torch.matmul(nn.functional.dropout(weights, p=dropout, training=module.training), value)
    return output.transpose(1, 2).contiguous(), weights


def make_local_mask(
    num_frames: int, window: int, block_size: int, attention_mask: torch.Tensor | None, device: torch.device
) -> torch.Tensor:
    """
    Says which keys each frame may attend to, when frames come in blocks as [`split_into_blocks`] makes them.

    Args:
        num_frames (`int`): T.
        window (`int`): Two-sided window.
        block_size (`int`): Queries per block.
        attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for frames, 0 for padding.
        device (`torch.device`): Where to make it.

    Returns:
        `torch.BoolTensor` of shape `(B or 1, blocks, block_size, 1 + block_size + window)`: The first key is the class
        token, which every frame may attend to.
    """
    half = window // 2
    num_blocks = (num_frames + block_size - 1) // block_size
    query = torch.arange(block_size, device=device)[:, None]
    key = torch.arange(block_size + window, device=device)[None, :] - half
    in_window = (key - query).abs() <= half
    if attention_mask is None:
        is_frame = torch.ones(1, num_frames, dtype=torch.bool, device=device)
    else:
        is_frame = attention_mask.bool()
    is_frame = nn.functional.pad(is_frame, (half, half + num_blocks * block_size - num_frames))
    is_frame = is_frame.unfold(1, block_size + window, block_size)
    # (B, blocks, block_size, block_size + window)
    local_mask = in_window & is_frame[:, :, None, :]
    return nn.functional.pad(local_mask, (1, 0), value=True)


def split_into_blocks(states: torch.Tensor, block_size: int, half_window: int) -> torch.Tensor:
    """
    Cuts the frames of keys or values into overlapping blocks, each with `half_window` more frames on either side and
    the class token in front: `(B, N, H)` to `(B, blocks, 1 + block_size + 2 * half_window, H)`.
    """
    num_frames = states.shape[1] - 1
    num_blocks = (num_frames + block_size - 1) // block_size
    tail = num_blocks * block_size - num_frames
    frames = nn.functional.pad(states[:, 1:], (0, 0, half_window, half_window + tail))
    frames = frames.unfold(1, block_size + 2 * half_window, block_size).transpose(2, 3)
    class_token = states[:, None, :1].expand(-1, num_blocks, -1, -1)
    return torch.cat([class_token, frames], dim=2)


class VTNAttention(nn.Module):
    """
    Sliding-window attention for the frames and global attention for the class token.

    A frame attends to the frames at most half a window away and to the class token. The class token attends to
    everything, through query, key and value projections of its own.
    """

    def __init__(self, config: VTNConfig, window: int):
        super().__init__()
        self.config = config
        self.window = window
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.query_global = nn.Linear(config.hidden_size, config.hidden_size)
        self.key_global = nn.Linear(config.hidden_size, config.hidden_size)
        self.value_global = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        local_mask: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        class_token_only: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, N, H)`): The class token, then the frames.
            local_mask (`torch.BoolTensor`): What [`make_local_mask`] gives.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for frames, 0 for padding.
            class_token_only (`bool`, *optional*, defaults to `False`): Leave out what only the frames need.

        Returns:
            The output `(B, N, H)`, or `(B, 1, H)` for the class token only; the attention weights `(B, h, N, N)`, if
            the attention implementation gives any; the attention weights of the class token `(B, h, N)`.
        """
        class_token, global_weights = self.attend_globally(hidden_states, attention_mask)
        if class_token_only:
            return self.output(class_token) + self._zero_from_unused(), None, global_weights
        frames, local_weights = self.attend_locally(hidden_states, local_mask)
        if attention_mask is not None:
            # As Longformer does: nothing is attended to from padding.
            frames = frames * attention_mask[..., None].to(frames.dtype)
        output = self.output(torch.cat([class_token, frames], dim=1))
        weights = None
        if local_weights is not None:
            weights = torch.cat([global_weights[:, :, None], local_weights], dim=2)
        return output, weights, global_weights

    def _zero_from_unused(self) -> torch.Tensor | float:
        """
        Zero, computed from the local projections, so that they get a gradient (of zero, as Longformer's do) when only
        the class token is asked for: distributed training waits for the gradient of every parameter.
        """
        unused = [
            parameter.flatten()[0]
            for projection in (self.query, self.key, self.value)
            for parameter in projection.parameters()
            if parameter.requires_grad
        ]
        return 0.0 * torch.stack(unused).sum() if unused and torch.is_grad_enabled() else 0.0

    def attend_locally(
        self, hidden_states: torch.Tensor, local_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output `(B, T, H)` of the frames and, if available, their weights `(B, h, T, N)`."""
        batch_size, num_frames = hidden_states.shape[0], hidden_states.shape[1] - 1
        num_blocks, block_size = local_mask.shape[1:3]
        half_window = self.window // 2

        query = self.query(hidden_states[:, 1:])
        query = nn.functional.pad(query, (0, 0, 0, num_blocks * block_size - num_frames))
        key = split_into_blocks(self.key(hidden_states), block_size, half_window)
        value = split_into_blocks(self.value(hidden_states), block_size, half_window)
        # (B * blocks, h, block_size or 1 + block_size + window, d)
        query, key, value = (
            states.reshape(batch_size * num_blocks, -1, self.num_heads, self.head_dim).transpose(1, 2)
            for states in (query, key, value)
        )
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention_interface(
            self,
            query,
            key,
            value,
            local_mask.expand(batch_size, -1, -1, -1).flatten(0, 1)[:, None],
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
        )
        output = output.reshape(batch_size, num_blocks * block_size, -1)[:, :num_frames]
        if weights is not None:
            # One block holds the whole video: drop the keys beyond its two ends.
            weights = torch.cat([weights[..., :1], weights[..., 1 + half_window :][..., :num_frames]], dim=-1)
        return output, weights

    def attend_globally(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output `(B, 1, H)` of the class token and its weights `(B, h, N)`."""
        query = self._split_heads(self.query_global(hidden_states[:, 0])) * self.scaling
        scores = self._score_globally(query, hidden_states)
        if attention_mask is not None:
            is_padding = nn.functional.pad(attention_mask == 0, (1, 0))
            scores = scores.masked_fill(is_padding[:, None], torch.finfo(scores.dtype).min)
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        dropped = nn.functional.dropout(weights, p=self.attention_dropout, training=self.training)
        return self._average_globally(dropped, hidden_states).flatten(1)[:, None], weights

    def _score_globally(self, query: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Scores `(B, h, N)` of all tokens for the class token's query `(B, h, d)`."""
        if not _is_plain_linear(self.key_global):
            return torch.einsum("bhd,bnhd->bhn", query, self._split_heads(self.key_global(hidden_states)))
        # There is one query per video, so W_key goes into it instead of onto every frame:
        # (W_key x + b) · q = x · (W_keyᵀ q) + b · q
        weight, bias = self._split_heads(self.key_global.weight.T), self._split_heads(self.key_global.bias)
        folded_query = torch.einsum("bhd,chd->bhc", query, weight)
        return torch.matmul(folded_query, hidden_states.transpose(1, 2)) + (query * bias).sum(-1, keepdim=True)

    def _average_globally(self, weights: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Averages `(B, h, d)` of all tokens' global values by weights `(B, h, N)`."""
        if not _is_plain_linear(self.value_global):
            return torch.einsum("bhn,bnhd->bhd", weights, self._split_heads(self.value_global(hidden_states)))
        # For the same reason W_value comes after the average: Σ p (W_value x + b) = W_value (Σ p x) + b Σ p
        weight, bias = self._split_heads(self.value_global.weight.T), self._split_heads(self.value_global.bias)
        average = torch.matmul(weights, hidden_states)
        return torch.einsum("bhc,chd->bhd", average, weight) + bias * weights.sum(-1, keepdim=True)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(…, H)` to `(…, h, d)`."""
        return states.unflatten(-1, (self.num_heads, self.head_dim))


def _is_plain_linear(module: nn.Module) -> bool:
    """Whether the weight is all there is to it: no adapter, no quantisation, no shard, not offloaded."""
    return (
        type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module.weight.device.type != "meta"
        and not hasattr(module, "_hf_hook")
    )


class VTNMLP(nn.Module):
    """The feed-forward network of a layer."""

    def __init__(self, config: VTNConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class VTNLayer(GradientCheckpointingLayer):
    """One layer of the temporal encoder; like BERT's, it normalises after each residual connection."""

    def __init__(self, config: VTNConfig, window: int):
        super().__init__()
        self.attention = VTNAttention(config, window)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VTNMLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        local_mask: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        class_token_only: bool = False,
    ) -> torch.Tensor:
        """As in [`VTNAttention.forward`]; returns `(B, N, H)`, or `(B, 1, H)` for the class token only."""
        attention_output, _, _ = self.attention(hidden_states, local_mask, attention_mask, class_token_only)
        if class_token_only:
            hidden_states = hidden_states[:, :1]
        hidden_states = self.attention_norm(hidden_states + self.dropout(attention_output))
        return self.mlp_norm(hidden_states + self.dropout(self.mlp(hidden_states)))


class VTNEmbeddings(nn.Module):
    """
    Puts the class token before the frames and adds what tells them apart: their positions and their types (frame 0,
    class token 1).
    """

    def __init__(self, config: VTNConfig):
        super().__init__()
        self.max_frame_positions = config.max_position_embeddings - 2
        self.position_embedding_type = config.position_embedding_type
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        if config.position_embedding_type == "learned":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(2, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, frame_embeds: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """`(B, T, H)` frames at positions `(B, T)` to `(B, N, H)`."""
        tokens = torch.cat([self.cls_token.expand(frame_embeds.shape[0], -1, -1), frame_embeds], dim=1)
        if self.position_embedding_type != "none":
            # The original wraps positions in the same way, and gives the last two rows to the same two uses.
            position_ids = position_ids % self.max_frame_positions
            if attention_mask is not None:
                position_ids = position_ids.masked_fill(attention_mask == 0, self.max_frame_positions + 1)
            position_ids = nn.functional.pad(position_ids, (1, 0), value=self.max_frame_positions)
            tokens = tokens + self.embed_positions(position_ids, tokens)
        is_class_token = torch.zeros(tokens.shape[1], dtype=torch.long, device=tokens.device)
        is_class_token[0] = 1
        return self.dropout(self.norm(tokens + self.token_type_embeddings(is_class_token)))

    def embed_positions(self, position_ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """`(B, N)` rows of the position table to `(B, N, H)`, like `tokens` in dtype."""
        if self.position_embedding_type == "learned":
            return self.position_embeddings(position_ids)
        # "Attention is all you need" (https://huggingface.co/papers/1706.03762), section 3.5: a sine in the even
        # features, a cosine in the odd ones.
        feature = torch.arange(tokens.shape[-1], device=tokens.device)
        wavelength = 10000.0 ** (2 * (feature // 2) / tokens.shape[-1])
        angle = position_ids[..., None] / wavelength
        return torch.where(feature % 2 == 0, angle.sin(), angle.cos()).to(tokens.dtype)


class VTNTemporalEncoder(nn.Module):
    """Attends over the frames of a whole video, in time and memory linear in their number."""

    # Frames that attend together. Two to eight windows cost the same; below, the overlap of neighbours' keys weighs
    # in, above, the keys outside of the window do.
    block_size = 64

    def __init__(self, config: VTNConfig):
        super().__init__()
        self.config = config
        self.embeddings = VTNEmbeddings(config)
        self.layers = nn.ModuleList([VTNLayer(config, window) for window in config.attention_windows])

    def forward(
        self,
        frame_embeds: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        class_token_only: bool = False,
    ) -> torch.Tensor:
        """
        `(B, T, H)` frames at positions `(B, T)`, with mask `(B, T)`, to hidden states `(B, N, H)`, or `(B, 1, H)` for
        the class token only.
        """
        num_frames = frame_embeds.shape[1]
        # Eager attention is where the weights can be read, so it sees each video as a single block.
        block_size = num_frames if self.config._attn_implementation == "eager" else self.block_size
        local_masks = {
            window: make_local_mask(num_frames, window, block_size, attention_mask, frame_embeds.device)
            for window in set(self.config.attention_windows)
        }
        hidden_states = self.embeddings(frame_embeds, position_ids, attention_mask)
        for layer in self.layers:
            # The class token of the last layer needs the frames of the layer before, but not those of its own.
            skip_frames = class_token_only and layer is self.layers[-1]
            hidden_states = layer(hidden_states, local_masks[layer.attention.window], attention_mask, skip_frames)
        return hidden_states


class VTNPreTrainedModel(PreTrainedModel):
    """What the VTN models share with every model of transformers: initialisation, loading, saving, flags."""

    config: VTNConfig
    base_model_prefix = "vtn"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["VTNEmbeddings", "VTNLayer"]
    _supports_sdpa = True
    _can_record_outputs = {
        "hidden_states": VTNLayer,
        "attentions": OutputRecorder(VTNAttention, index=1),
        "global_attentions": OutputRecorder(VTNAttention, index=2),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, VTNEmbeddings):
            init.normal_(module.cls_token, std=self.config.initializer_range)


def with_global_attentions(forward: Callable) -> Callable:
    """Makes `output_attentions` ask `capture_outputs` for the class token's attention weights as well."""

    @wraps(forward)
    def wrapper(self, *args, **kwargs):
        output_attentions = kwargs.get("output_attentions")
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        return forward(self, *args, output_global_attentions=output_attentions, **kwargs)

    return wrapper


class VTNModel(VTNPreTrainedModel):
    """
    The Video Transformer Network without a head: a 2D backbone, then a temporal encoder.

    The backbone turns each frame into one vector, which is the first that exists of:

    1. its pooled output, where the architecture defines how an image is pooled (the mean over a feature map, an
       attention-pooling head, a class token after its final norm);
    2. its class token, where the pooler is BERT's dense layer and tanh (ViT, DeiT): image checkpoints leave those
       weights untrained, so that pooler is removed;
    3. the mean of its last hidden state over space.
    """

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        _drop_untrained_pooler(self.backbone)
        self.has_class_token = any(
            name.split(".")[-1] in ("cls_token", "class_token", "class_embedding")
            for name, _ in self.backbone.named_parameters()
        )
        self.feature_size = get_backbone_feature_size(config.backbone_config)
        self.projection = nn.Identity()
        if self.feature_size != config.hidden_size:
            self.projection = nn.Linear(self.feature_size, config.hidden_size)
        self.temporal_encoder = VTNTemporalEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def get_frame_features(
        self, pixel_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Runs the backbone on each frame, `config.frames_per_chunk` frames at a time when the model is in eval mode.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, frames, channels, height, width)`):
                Normalised pixels.
            attention_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*):
                1 for frames, 0 for padding, which does not go through the backbone.

        Returns:
            `torch.Tensor` of shape `(batch, frames, backbone features)`: One vector per frame, zeros at padding; can
            be kept and passed to `forward` as `inputs_embeds`.

        Raises:
            ValueError: If `pixel_values` or `attention_mask` have another shape.
        """
        if pixel_values.ndim != 5:
            raise ValueError(
                "`pixel_values` must have 5 dimensions (batch, frames, channels, height, width), got the shape "
                f"{tuple(pixel_values.shape)}."
            )
        num_channels = getattr(self.config.backbone_config, "num_channels", 3)
        if pixel_values.shape[2] != num_channels:
            raise ValueError(
                f"The backbone takes frames of {num_channels} channels, got `pixel_values` of shape "
                f"{tuple(pixel_values.shape)} (batch, frames, channels, height, width)."
            )
        if 0 in pixel_values.shape[:2]:
            raise ValueError(f"`pixel_values` holds no frames: its shape is {tuple(pixel_values.shape)}.")
        _check_shape("attention_mask", attention_mask, pixel_values.shape[:2])
        if attention_mask is None:
            return self._encode_frames(pixel_values.flatten(0, 1)).unflatten(0, pixel_values.shape[:2])
        is_frame = attention_mask.bool()
        if torch.compiler.is_compiling():
            # Which frames are padding is known at run time only, so a compiled or exported graph encodes them all.
            features = self._encode_frames(pixel_values.flatten(0, 1)).unflatten(0, pixel_values.shape[:2])
            return features * is_frame[..., None]
        if not is_frame.any(dim=1).all():
            raise ValueError(f"`attention_mask` leaves a video without frames: {is_frame.sum(dim=1).tolist()} each.")
        features = self._encode_frames(pixel_values[is_frame])
        padded = features.new_zeros(*is_frame.shape, features.shape[-1])
        padded[is_frame] = features
        return padded

    def _encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """`(frames, channels, height, width)` to `(frames, F)`; at inference in chunks, and each picture once."""
        if self.training or torch.compiler.is_compiling():
            return self._pool(self.backbone(pixel_values=frames))
        is_repeat = [False] + [torch.equal(frame, last) for last, frame in zip(frames[:-1], frames[1:], strict=True)]
        keep = torch.tensor([not repeat for repeat in is_repeat], device=frames.device)
        chunk_size = self.config.frames_per_chunk or frames.shape[0]
        pictures = frames if keep.all() else frames[keep]
        features = [self._pool(self.backbone(pixel_values=chunk)) for chunk in pictures.split(chunk_size)]
        return torch.cat(features)[keep.cumsum(0) - 1]

    def _pool(self, backbone_output: ModelOutput) -> torch.Tensor:
        """One vector per frame, `(frames, F)`, by the rule in the class docstring."""
        pooled_output = getattr(backbone_output, "pooler_output", None)
        if pooled_output is not None:
            return pooled_output.flatten(1)
        last_hidden_state = backbone_output.last_hidden_state
        if self.has_class_token:
            return last_hidden_state[:, 0]
        return last_hidden_state.mean(dim=(2, 3) if last_hidden_state.ndim == 4 else 1)

    @merge_with_config_defaults
    @with_global_attentions
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        class_token_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VTNModelOutput:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, frames, channels, height, width)`, *optional*):
                Normalised pixels of the frames.
            inputs_embeds (`torch.Tensor` of shape `(batch, frames, backbone features)`, *optional*):
                Features computed beforehand with `get_frame_features`, instead of `pixel_values`.
            position_ids (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                Index of each frame in its video. Defaults to 0, 1, 2, …
            attention_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*):
                1 for frames, 0 for padding, which influences nothing. Defaults to all ones.
            class_token_only (`bool`, *optional*, defaults to `False`):
                Leave out the frames in the last layer, which a classifier does not read: faster, and
                `last_hidden_state` holds the class token alone.
            kwargs:
                `output_hidden_states`, `output_attentions` and `return_dict`, as everywhere in transformers.

        Returns:
            [`VTNModelOutput`]

        Raises:
            ValueError: If not exactly one of `pixel_values` and `inputs_embeds` is given, there are no frames, or a
                shape does not fit.

        Example:

        ```python
        >>> import torch
        >>> from vtn_hf import VTNConfig, VTNModel

        >>> backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 24]}
        >>> model = VTNModel(VTNConfig(backbone_config=backbone, num_attention_heads=4)).eval()
        >>> outputs = model(torch.rand(1, 5, 3, 64, 64))
        >>> outputs.last_hidden_state.shape
        torch.Size([1, 6, 24])

        ```"""
        if (pixel_values is None) == (inputs_embeds is None):
            raise ValueError(
                "Give exactly one of `pixel_values` and `inputs_embeds`, got "
                + ("neither." if pixel_values is None else "both.")
            )
        if inputs_embeds is None:
            inputs_embeds = self.get_frame_features(pixel_values, attention_mask)
        elif inputs_embeds.ndim != 3 or inputs_embeds.shape[1] == 0 or inputs_embeds.shape[2] != self.feature_size:
            raise ValueError(
                f"`inputs_embeds` must have the shape (batch, frames, {self.feature_size}) with at least one frame, "
                f"got {tuple(inputs_embeds.shape)}."
            )
        _check_shape("attention_mask", attention_mask, inputs_embeds.shape[:2])
        _check_shape("position_ids", position_ids, inputs_embeds.shape[:2])
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]

        last_hidden_state = self.temporal_encoder(
            self.projection(inputs_embeds), position_ids, attention_mask, class_token_only
        )
        return VTNModelOutput(
            last_hidden_state=last_hidden_state, pooler_output=last_hidden_state[:, 0], frame_embeds=inputs_embeds
        )


class VTNClassificationHead(nn.Module):
    """The MLP that reads the class token: `(B, H)` to `(B, num_labels)`."""

    def __init__(self, config: VTNConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.classifier_hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.classifier_hidden_size, config.num_labels)

    def forward(self, class_token: torch.Tensor) -> torch.Tensor:
        return self.out_proj(self.dropout(self.activation(self.dense(self.norm(class_token)))))


class VTNForVideoClassification(VTNPreTrainedModel):
    """The Video Transformer Network with an MLP on the class token, for single-label, multi-label or regression."""

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vtn = VTNModel(config)
        self.classifier = VTNClassificationHead(config)
        self.post_init()

    @classmethod
    def from_backbone_pretrained(
        cls, backbone_name_or_path: str | os.PathLike, **config_fields
    ) -> "VTNForVideoClassification":
        """
        Builds a VTN from a pretrained image model: its weights as the backbone, and a fresh temporal encoder and head.

        Args:
            backbone_name_or_path (`str` or `os.PathLike`):
                A vision model, or a model with a vision tower (CLIP, SigLIP), on the Hub or in a local directory.
            config_fields:
                Fields of [`VTNConfig`], such as `num_labels`.

        Returns:
            [`VTNForVideoClassification`], in eval mode like everything that `from_pretrained` gives.

        Raises:
            ValueError: If `AutoModel` cannot build the backbone or it gives no vector per frame.
        """
        backbone_config = AutoConfig.from_pretrained(backbone_name_or_path)
        backbone_config = getattr(backbone_config, "vision_config", backbone_config)
        model = cls(cls.config_class(backbone_config=backbone_config, **config_fields))
        backbone = AutoModel.from_pretrained(backbone_name_or_path, config=backbone_config)
        _drop_untrained_pooler(backbone)
        model.vtn.backbone.load_state_dict(backbone.state_dict())
        return model.eval()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VTNVideoClassifierOutput:
        """
        Args:
            pixel_values, inputs_embeds, position_ids, attention_mask:
                As in [`VTNModel.forward`].
            labels (`torch.Tensor` of shape `(batch,)` or `(batch, num_labels)`, *optional*):
                Class indices in `[0, num_labels)` for `problem_type="single_label_classification"`, with -100 for a
                video that takes no part in the loss; 0.0 and 1.0 per class for `"multi_label_classification"`;
                targets for `"regression"`.
            kwargs:
                As in [`VTNModel.forward`]; `num_items_in_batch` goes to the loss.

        Returns:
            [`VTNVideoClassifierOutput`]

        Raises:
            ValueError: As in [`VTNModel.forward`], and if a label is not one of the classes.

        Example:

        ```python
        >>> import torch
        >>> from vtn_hf import VTNConfig, VTNForVideoClassification

        >>> backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 24]}
        >>> config = VTNConfig(backbone_config=backbone, num_attention_heads=4, num_labels=10)
        >>> model = VTNForVideoClassification(config).eval()
        >>> model(torch.rand(2, 5, 3, 64, 64), labels=torch.tensor([3, 7])).logits.shape
        torch.Size([2, 10])

        ```"""
        reads_frames = any(
            getattr(self.config, name) if kwargs.get(name) is None else kwargs[name]
            for name in ("output_hidden_states", "output_attentions")
        )
        outputs = self.vtn(
            pixel_values=pixel_values,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            attention_mask=attention_mask,
            class_token_only=not reads_frames,
            **kwargs,
        )
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            _check_labels(labels, self.config)
            loss = self.loss_function(labels, logits, self.config, **kwargs)
        return VTNVideoClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            global_attentions=outputs.global_attentions,
        )


def _drop_untrained_pooler(backbone: PreTrainedModel):
    """Removes BERT's pooler; see [`VTNModel`]."""
    if isinstance(getattr(getattr(backbone, "pooler", None), "dense", None), nn.Linear):
        backbone.pooler = None


def _check_shape(name: str, tensor: torch.Tensor | None, shape: torch.Size):
    if tensor is not None and tensor.shape != shape:
        raise ValueError(
            f"`{name}` has the shape {tuple(tensor.shape)}, but the input has {tuple(shape)} (batch, frames)."
        )


def _check_labels(labels: torch.Tensor, config: VTNConfig):
    """Out-of-range labels would be an opaque assertion on a GPU, after which the process cannot use it any more."""
    is_class_index = labels.dtype in (torch.int32, torch.int64) and config.problem_type in (
        None,
        "single_label_classification",
    )
    if not is_class_index or config.num_labels == 1 or torch.compiler.is_compiling():
        return
    wrong = labels[(labels != -100) & ((labels < 0) | (labels >= config.num_labels))]
    if wrong.numel() > 0:
        raise ValueError(f"Labels must be in [0, {config.num_labels}), got {sorted(set(wrong.tolist()))}.")


__all__ = ["VTNForVideoClassification", "VTNModel", "VTNPreTrainedModel"]
