"""
The temporal encoder: attention over the frames of a whole video, in time and memory linear in their number.

It computes what Longformer computes with one global token, the class token ("Video Transformer Network",
https://huggingface.co/papers/2102.00719, section 3.2), but only what VTN needs of it. In shape comments:

    B  videos in the batch    T  frames per video    K  tokens per frame, 1 but for a grid
    H  hidden size            h  attention heads     N  1 + T K, the class token and those of the frames
                              d  features per head, H / h

Windows count frames: a token sees all tokens of the frames in reach. Tokens lie frame after frame, so whatever counts
frames in masks, blocks and slabs counts tokens in multiples of K.
"""

from collections.abc import Callable
from functools import partial
from math import isqrt

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_vtn import VTNConfig


# Frames that attend together. Two to eight windows cost the same; below, the overlap of neighbours' keys weighs in,
# above, the keys outside of the window do. With a g x g grid of tokens per frame, here and below, a g-th of them.
BLOCK_SIZE = 64
# So many need not be cut into blocks, which saves 8 % of the time at 100 frames and nothing at 160.
MAX_FRAMES_IN_ONE_BLOCK = 128
# Frames of a long video that go through attention and through the feed-forward network at a time, so that what these
# need in between takes no memory for the whole video. Twice as many are up to 7 % faster and need a fifth more memory.
SLAB_SIZE = 512
MIN_FRAMES_TO_RECOMPUTE = 1536  # in training; tokens, where a frame has several


def make_local_mask(
    is_frame: torch.Tensor, window: int, block_size: int | None, tokens_per_frame: int = 1
) -> torch.Tensor:
    """
    Which keys each token may attend to, with frames `(B or 1, T)`, false at padding, in the blocks of
    [`split_into_blocks`] and a two-sided window: booleans `(B or 1, blocks, block_size * K, 1 + (block_size + window)
    * K)`, the class token first, which all may attend to. Without `block_size`, and where it fits into one, the video
    is one block, `(B or 1, 1, T * K, N)`.
    """
    num_frames, half, device = is_frame.shape[1], window // 2, is_frame.device
    num_blocks = 1 if block_size is None else count_blocks(num_frames, block_size)
    block_size, reach = (num_frames, 0) if num_blocks == 1 else (block_size, half)
    query = torch.arange(block_size, device=device)[:, None]
    key = torch.arange(block_size + 2 * reach, device=device)[None, :] - reach
    in_window = (key - query).abs() <= half
    tail = num_blocks * block_size - num_frames
    is_frame = nn.functional.pad(is_frame, (reach, reach + tail)).unfold(1, block_size + 2 * reach, block_size)
    mask = in_window & is_frame[:, :, None, :]
    for axis in (2, 3):
        mask = repeat_frames(mask, tokens_per_frame, axis)
    return nn.functional.pad(mask, (1, 0), value=True)


def make_flex_mask(frames: torch.Tensor, attention_mask: torch.Tensor | None, window: int, tokens_per_frame: int = 1):
    """
    As [`make_local_mask`], for flex attention, with frames `(B, T, …)` and a mask `(B, T)`: a `BlockMask` of T K
    queries and N keys, the class token first. It stores which of its `(T K / 128)²` blocks are not empty, and skips
    the others.
    """
    from torch.nn.attention.flex_attention import BlockMask

    half, size, num_queries = window // 2, 128, frames.shape[1] * tokens_per_frame
    is_key = None
    if attention_mask is not None:
        is_key = nn.functional.pad(attention_mask.bool(), (1, 0), value=True)

    def find_frame(token: torch.Tensor) -> torch.Tensor:
        # Counted from 1; the class token, which is 0, has 0.
        return (token + tokens_per_frame - 1).div(tokens_per_frame, rounding_mode="floor")

    # Frame i is query i and key i + 1.
    def may_attend(batch, head, query, key):
        in_window = (query + 1 - key).abs() <= half
        if is_key is not None:
            in_window = in_window & is_key[batch, key]
        return in_window | (key == 0)

    def may_attend_by_frames(batch, head, query, key):
        # Not for one token per frame: with a function in it, TorchInductor takes more for variable, and writes code
        # for CPUs that does not compile (torch 2.13).
        return may_attend(batch, head, find_frame(query + 1) - 1, find_frame(key))

    # In each pair of blocks (query blocks, key blocks), is anything in the window?
    query = torch.arange(0, num_queries, size, device=frames.device)[:, None]
    key = torch.arange(0, 1 + num_queries, size, device=frames.device)[None, :]
    is_before = find_frame(key + size - 1) < find_frame(query + 1) - half
    is_after = find_frame(key) > find_frame(query + size) + half
    in_reach = ~(is_before | is_after) | (key == 0)
    counts = in_reach.sum(dim=1, dtype=torch.int32)[None, None]
    order = in_reach.int().argsort(dim=1, descending=True, stable=True).int()[None, None]
    lengths, rule = (num_queries, 1 + num_queries), may_attend if tokens_per_frame == 1 else may_attend_by_frames
    return BlockMask.from_kv_blocks(counts, order, BLOCK_SIZE=size, mask_mod=rule, seq_lengths=lengths)


def repeat_frames(values: torch.Tensor, tokens_per_frame: int, axis: int = 1) -> torch.Tensor:
    """What holds for each frame along an axis, for each of its tokens."""
    return values if tokens_per_frame == 1 else values.repeat_interleave(tokens_per_frame, axis)


def count_blocks(num_frames: int, block_size: int) -> int:
    """The number of blocks in a video, filled up with nothing where the frames end."""
    if torch.compiler.is_compiling():
        # Never one, for which the compiler would make a graph of its own.
        return num_frames // block_size + 2
    return (num_frames + block_size - 1) // block_size


def split_into_blocks(
    states: torch.Tensor, num_blocks: int, block_size: int, before: int = 0, half_window: int | None = None
) -> torch.Tensor:
    """
    Cuts queries `(B, N, H)` into blocks of tokens `(B, blocks, block_size, H)`, after the first `before` tokens. With
    `half_window`, cuts keys or values into overlapping blocks `(B, blocks, 1 + block_size + 2 * half_window, H)`: the
    class token, then the others with half a window on either side. Out-of-range slots repeat an edge token and are
    masked.
    """
    reach = half_window or 0
    first = before + torch.arange(num_blocks, device=states.device)[:, None] * block_size
    row = first + torch.arange(1 - reach, 1 + block_size + reach, device=states.device)
    row = row.clamp(1, states.shape[1] - 1)
    if half_window is not None:
        row = nn.functional.pad(row, (1, 0))
    if torch.compiler.is_compiling():
        # For any number of blocks a compiler only knows this shape, not the one below.
        return states[:, row]
    # Several times faster backwards than indexing with all rows, or padding and unfolding.
    return states.index_select(1, row.flatten()).unflatten(1, row.shape)


def split_into_slabs(states: torch.Tensor, num_tokens: int, slab_size: int) -> tuple[torch.Tensor, ...]:
    """Along dimension 1; one slab in a compiled graph, which is for any length, and where all is kept for backward."""
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and num_tokens < MIN_FRAMES_TO_RECOMPUTE):
        return (states,)
    return states.chunk(max(1, round(num_tokens / slab_size)), dim=1)


def recompute_if_long(function: Callable, num_tokens: int) -> Callable:
    """Has a function of one slab run again in the backward pass, instead of keeping activations, in long videos."""
    if torch.compiler.is_compiling() or num_tokens < MIN_FRAMES_TO_RECOMPUTE or not torch.is_grad_enabled():
        return function
    return partial(checkpoint, function, use_reentrant=False)


class VTNAttention(nn.Module):
    """
    Sliding-window attention for the frames and global attention for the class token.

    A frame attends to the frames at most half a window away and to the class token; where frames have several tokens,
    each of them does, to all of these. The class token attends to everything, through query, key and value projections
    of its own.
    """

    def __init__(self, config: VTNConfig, window: int):
        super().__init__()
        self.config = config
        self.window = window
        self.tokens_per_frame = config.encoder_tokens_per_frame
        self.reach = window // 2 * self.tokens_per_frame
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
            local_mask (`torch.Tensor` or torch's `BlockMask`): What [`make_local_mask`] gives; for flex attention,
                what [`make_flex_mask`] gives.
            attention_mask (`torch.Tensor` of shape `(B, T K)`, *optional*): 1 for frames, 0 for padding.
            class_token_only (`bool`, *optional*, defaults to `False`): Leave out what only the frames need.

        Returns:
            The output `(B, N, H)`, or `(B, 1, H)` for the class token only; the attention weights `(B, h, N, N)`, if
            the attention implementation gives any; the attention weights of the class token `(B, h, N)`.
        """
        attention, weights = self.config._attn_implementation, None
        if attention == "eager" and not class_token_only:
            class_token, frames, weights = self.attend_eagerly(hidden_states, local_mask, attention_mask)
            global_weights = weights[:, :, 0]
        else:
            class_token, global_weights = self.attend_globally(hidden_states, attention_mask)
            if class_token_only:
                return self.output(class_token) + self._zero_from_unused(), None, global_weights
            attend = self.attend_flexibly if attention == "flex_attention" else self.attend_locally
            frames = attend(hidden_states, local_mask)
        if attention_mask is not None:
            # As Longformer does: nothing is attended to from padding.
            frames = frames * attention_mask[..., None].to(frames.dtype)
        return self.output(torch.cat([class_token, frames], dim=1)), weights, global_weights

    def _zero_from_unused(self) -> torch.Tensor | float:
        """
        Zero, computed from the local projections, so that they get a gradient (of zero, as Longformer's do) when only
        the class token is asked for: distributed training waits for the gradient of every parameter.
        """
        unused = (parameter for layer in (self.query, self.key, self.value) for parameter in layer.parameters())
        if not torch.is_grad_enabled():
            return 0.0
        return sum(0.0 * parameter.flatten()[0] for parameter in unused if parameter.requires_grad)

    def _project_locally(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value `(B, N, H)` of what attends within the window."""
        return tuple(layer(hidden_states) for layer in (self.query, self.key, self.value))

    def attend_eagerly(
        self, hidden_states: torch.Tensor, local_mask: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Output `(B, 1, H)` of the class token, output `(B, T K, H)` of the frames, all weights `(B, h, N, N)`, which
        the outputs come from, so that gradients with respect to them exist.
        """
        projected = self._project_locally(hidden_states)
        query, key, value = (self._split_heads(states).transpose(1, 2) for states in projected)
        local_scores = torch.matmul(query[:, :, 1:] * self.scaling, key.transpose(2, 3))
        global_scores = self.score_globally(hidden_states, attention_mask)[:, :, None]
        scores = torch.cat([global_scores, local_scores.masked_fill(~local_mask, -torch.inf)], dim=2)
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        dropped = nn.functional.dropout(weights, p=self.attention_dropout, training=self.training)
        class_token = self.average_global_values(dropped[:, :, 0], hidden_states).flatten(1)[:, None]
        frames = torch.matmul(dropped[:, :, 1:], value).transpose(1, 2).flatten(2)
        return class_token, frames, weights

    def attend_flexibly(self, hidden_states: torch.Tensor, local_mask: torch.Tensor) -> torch.Tensor:
        """Output `(B, T K, H)` of the frames, by flex attention, which needs no blocks laid out in memory."""
        query, key, value = self._project_locally(hidden_states)
        return self._attend(query[:, 1:], key, value, local_mask)

    def attend_locally(self, hidden_states: torch.Tensor, local_mask: torch.Tensor) -> torch.Tensor:
        """Output `(B, T K, H)` of the frames, by attention within blocks, a slab of them at a time."""
        num_tokens, block_size = hidden_states.shape[1] - 1, local_mask.shape[2]
        # Neighbouring slabs overlap by a window, which weighs less where they are larger.
        masks = split_into_slabs(local_mask, num_tokens, SLAB_SIZE * isqrt(self.tokens_per_frame))
        slabs, before = (hidden_states,), 0
        if len(masks) > 1:
            before, sizes = self.reach, [mask.shape[1] * block_size for mask in masks]
            # In one go, as the gradient of a slice is as large as what it was cut from.
            slabs = split_into_blocks(hidden_states, len(masks), sizes[0], half_window=before).unbind(1)
            slabs = [slab[:, : 1 + size + 2 * before] for slab, size in zip(slabs, sizes, strict=True)]
        attend = recompute_if_long(partial(self._attend_in_blocks, before), num_tokens)
        frames = torch.cat([attend(*slab) for slab in zip(slabs, masks, strict=True)], dim=1)
        # Not a slice: a compiler cannot tell that there are this many whatever the number of frames.
        return nn.functional.pad(frames, (0, 0, 0, num_tokens - frames.shape[1]))

    def _attend_in_blocks(self, before: int, hidden_states: torch.Tensor, local_mask: torch.Tensor) -> torch.Tensor:
        """Output `(B, blocks * block_size, H)` of the frames' tokens in `(B, N, H)`, but the first `before`."""
        query, key, value = self._project_locally(hidden_states)
        batch_size, (num_blocks, block_size) = hidden_states.shape[0], local_mask.shape[1:3]
        if num_blocks == 1:  # its keys are all there are
            query = query[:, 1 + before : 1 + before + block_size]
        else:
            cut = partial(split_into_blocks, num_blocks=num_blocks, block_size=block_size, before=before)
            query = cut(query).flatten(0, 1)
            key, value = (cut(states, half_window=self.reach).flatten(0, 1) for states in (key, value))
        local_mask = local_mask.expand(batch_size, -1, -1, -1).flatten(0, 1)[:, None]
        return self._attend(query, key, value, local_mask).unflatten(0, (batch_size, -1)).flatten(1, 2)

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Output `(B, queries, H)` of the attention implementation, for queries, keys and values `(B, …, H)`."""
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        heads = (self._split_heads(states).transpose(1, 2) for states in (query, key, value))
        dropout = self.attention_dropout if self.training else 0.0
        output, _ = attend(self, *heads, mask, dropout=dropout, scaling=self.scaling)
        return output.flatten(2)

    def attend_globally(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output `(B, 1, H)` of the class token and its weights `(B, h, N)`."""
        scores = self.score_globally(hidden_states, attention_mask)
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
        dropped = nn.functional.dropout(weights, p=self.attention_dropout, training=self.training)
        return self.average_global_values(dropped, hidden_states).flatten(1)[:, None], weights

    def score_globally(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Scores `(B, h, N)` of all tokens for the class token."""
        query = self._split_heads(self.query_global(hidden_states[:, 0])) * self.scaling
        scores = self.multiply_by_global_keys(query, hidden_states)
        if attention_mask is None:
            return scores
        is_padding = nn.functional.pad(attention_mask == 0, (1, 0))
        return scores.masked_fill(is_padding[:, None], torch.finfo(scores.dtype).min)

    def multiply_by_global_keys(self, query: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Products `(B, h, N)` of the class token's query `(B, h, d)` and the global keys of all tokens."""
        return torch.einsum("bhd,bnhd->bhn", query, self._split_heads(self.key_global(hidden_states)))

    def average_global_values(self, weights: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Averages `(B, h, d)` of the global values of all tokens by weights `(B, h, N)`."""
        return torch.einsum("bhn,bnhd->bhd", weights, self._split_heads(self.value_global(hidden_states)))

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(…, H)` to `(…, h, d)`."""
        return states.unflatten(-1, (self.num_heads, self.head_dim))


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
        hidden_states = hidden_states + self.dropout(attention_output)
        num_tokens = hidden_states.shape[1]
        feed_forward = recompute_if_long(self._feed_forward, num_tokens)
        updated = map(feed_forward, split_into_slabs(hidden_states, num_tokens, SLAB_SIZE))
        return torch.cat([self.mlp_norm(slab + self.dropout(update)) for slab, update in updated], dim=1)

    def _feed_forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalised states and what is added to them; its last product is not computed again."""
        hidden_states = self.attention_norm(hidden_states)
        return hidden_states, self.mlp(hidden_states)


class VTNEmbeddings(nn.Module):
    """
    Puts the class token before the frames and adds what tells them apart: their positions and their types (frame 0,
    class token 1), and if frames have several tokens, the place of each.
    """

    def __init__(self, config: VTNConfig):
        super().__init__()
        self.config = config
        self.max_frame_positions = config.max_position_embeddings - 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        if config.position_embedding_type == "learned":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.tokens_per_frame = config.encoder_tokens_per_frame
        if self.tokens_per_frame > 1:
            self.place_embeddings = nn.Embedding(self.tokens_per_frame, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(2, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, frame_embeds: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """`(B, T, H)` frames, or `(B, T, K, H)`, at positions `(B, T)` to `(B, N, H)`."""
        if self.tokens_per_frame > 1:
            places = torch.arange(self.tokens_per_frame, device=frame_embeds.device)
            frame_embeds = (frame_embeds + self.place_embeddings(places)).flatten(1, 2)
        tokens = torch.cat([self.cls_token.expand(frame_embeds.shape[0], -1, -1), frame_embeds], dim=1)
        if self.config.position_embedding_type != "none":
            position_ids = position_ids.long()
            if self.config.position_overflow != "wrap":
                position_ids = self.spread_positions(position_ids, attention_mask)
            # The original wraps positions in the same way, and gives the last two rows to the same two uses.
            position_ids = position_ids % self.max_frame_positions
            if attention_mask is not None:
                position_ids = position_ids.masked_fill(attention_mask == 0, self.max_frame_positions + 1)
            position_ids = repeat_frames(position_ids, self.tokens_per_frame)
            position_ids = nn.functional.pad(position_ids, (1, 0), value=self.max_frame_positions)
            tokens = tokens + self.embed_positions(position_ids, tokens)
        is_class_token = torch.zeros(tokens.shape[1], dtype=torch.long, device=tokens.device)
        is_class_token[0] = 1
        return self.dropout(self.norm(tokens + self.token_type_embeddings(is_class_token)))

    def spread_positions(self, position_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """
        Puts positions `(B, T)` onto the whole table, in all videos for `"stretch"`, for `"spread"` in those that would
        reach beyond it.
        """
        last_row = self.max_frame_positions - 1
        if attention_mask is not None:
            position_ids = position_ids.masked_fill(attention_mask == 0, 0)
        last = position_ids.amax(dim=1, keepdim=True)
        if self.config.position_overflow == "spread":
            last = last.clamp(min=last_row)
        return position_ids * last_row // last.clamp(min=1)

    def embed_positions(self, position_ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """`(B, N)` rows of the position table to `(B, N, H)`, like `tokens` in dtype."""
        if self.config.position_embedding_type == "learned":
            return self.position_embeddings(position_ids)
        # "Attention is all you need" (https://huggingface.co/papers/1706.03762), section 3.5: a sine in the even
        # features, a cosine in the odd ones.
        feature = torch.arange(tokens.shape[-1], device=tokens.device)
        wavelength = 10000.0 ** (2 * (feature // 2) / tokens.shape[-1])
        angle = position_ids[..., None] / wavelength
        return torch.where(feature % 2 == 0, angle.sin(), angle.cos()).to(tokens.dtype)


class VTNFramePooling(nn.Module):
    """
    Adds to the pooled vector of a frame, the first of its tokens, what one learned query per attention head gathers
    from all of them, by their features and places.
    """

    def __init__(self, config: VTNConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query = nn.Parameter(torch.zeros(config.hidden_size))
        self.place_embeddings = nn.Embedding(config.tokens_per_frame, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `(B, T, K, H)` to frames `(B, T, H)`, and the attention weights `(B, T, h, K)`."""
        places = torch.arange(tokens.shape[2], device=tokens.device)
        states = self.norm(tokens + self.place_embeddings(places))
        projected = self.query, self.key(states), self.value(states)
        query, key, value = (each.unflatten(-1, (self.num_heads, -1)) for each in projected)
        scores = torch.einsum("hd,btkhd->bthk", query, key) * query.shape[-1] ** -0.5
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        gathered = torch.einsum("bthk,btkhd->bthd", self.dropout(weights), value).flatten(2)
        return tokens[:, :, 0] + self.output(gathered), weights


class VTNTemporalEncoder(nn.Module):
    """Attends over the frames of a whole video, in time and memory linear in their number."""

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
        `(B, T, H)` frames, or `(B, T, K, H)`, at positions `(B, T)`, with mask `(B, T)`, to hidden states `(B, N, H)`,
        or `(B, 1, H)` for the class token only.
        """
        num_frames, tokens_per_frame = frame_embeds.shape[1], self.config.encoder_tokens_per_frame
        if self.config._attn_implementation == "flex_attention":
            make_mask = partial(make_flex_mask, frame_embeds, attention_mask)
        else:
            # Eager attention is where the weights can be read, so it sees each video as a single block.
            is_eager, side = self.config._attn_implementation == "eager", isqrt(tokens_per_frame)
            is_short = not torch.compiler.is_compiling() and num_frames <= MAX_FRAMES_IN_ONE_BLOCK // side
            block_size = None if is_eager or is_short else max(1, BLOCK_SIZE // side)
            all_frames = frame_embeds.new_ones(1, num_frames, dtype=torch.bool)
            is_frame = all_frames if attention_mask is None else attention_mask.bool()
            make_mask = partial(make_local_mask, is_frame, block_size=block_size)
        windows = set(self.config.attention_windows)
        local_masks = {window: make_mask(window=window, tokens_per_frame=tokens_per_frame) for window in windows}
        hidden_states = self.embeddings(frame_embeds, position_ids, attention_mask)
        if attention_mask is not None:
            attention_mask = repeat_frames(attention_mask, tokens_per_frame)
        for layer in self.layers:
            # The class token of the last layer needs the frames of the layer before, but not those of its own.
            skip_frames = class_token_only and layer is self.layers[-1]
            hidden_states = layer(hidden_states, local_masks[layer.attention.window], attention_mask, skip_frames)
        return hidden_states
