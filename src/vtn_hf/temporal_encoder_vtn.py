"""
The temporal encoder: attention over the frames of a whole video, in time and memory linear in their number.

It computes what Longformer computes with one global token, the class token ("Video Transformer Network",
https://huggingface.co/papers/2102.00719, section 3.2), but only what VTN needs of it. In shape comments:

    B  videos in the batch    T  frames per video      N  1 + T, the class token and the frames
    H  hidden size            h  attention heads       d  features per head, H / h
"""

from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_vtn import VTNConfig


# Frames that attend together. Two to eight windows cost the same; below, the overlap of neighbours' keys weighs in,
# above, the keys outside of the window do.
BLOCK_SIZE = 64
# So many need not be cut into blocks, which saves 8 % of the time at 100 frames and nothing at 160.
MAX_FRAMES_IN_ONE_BLOCK = 128
# Frames of a long video that go through attention and through the feed-forward network at a time, so that what these
# need in between takes no memory for the whole video. Twice as many are up to 7 % faster and need a fifth more memory.
SLAB_SIZE = 512
MIN_FRAMES_TO_RECOMPUTE = 1536  # in training


def make_local_mask(
    num_frames: int, window: int, block_size: int | None, attention_mask: torch.Tensor | None, like: torch.Tensor
) -> torch.Tensor:
    """
    Which keys each frame may attend to, with T frames in the blocks of [`split_into_blocks`] and a two-sided window:
    booleans `(B or 1, blocks, block_size, 1 + block_size + window)`, the class token first, which every frame may
    attend to. Without `block_size` the video is one block, `(B or 1, 1, T, N)`. The device is that of `like`.
    """
    half = window // 2
    num_blocks, reach = (1, 0) if block_size is None else (count_blocks(num_frames, block_size), half)
    block_size = block_size or num_frames
    query = torch.arange(block_size, device=like.device)[:, None]
    key = torch.arange(block_size + 2 * reach, device=like.device)[None, :] - reach
    in_window = (key - query).abs() <= half
    is_frame = like.new_ones(1, num_frames, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    tail = num_blocks * block_size - num_frames
    is_frame = nn.functional.pad(is_frame, (reach, reach + tail)).unfold(1, block_size + 2 * reach, block_size)
    # (B, blocks, block_size, 1 + block_size + window)
    return nn.functional.pad(in_window & is_frame[:, :, None, :], (1, 0), value=True)


def make_flex_mask(num_frames: int, window: int, attention_mask: torch.Tensor | None, like: torch.Tensor):
    """
    As [`make_local_mask`], for flex attention: a `BlockMask` of T queries, the frames, and 1 + T keys, the class token
    first. It stores which of its `(T / 128)²` blocks are not empty, and skips the others.
    """
    from torch.nn.attention.flex_attention import BlockMask

    half, size = window // 2, 128
    is_key = None if attention_mask is None else nn.functional.pad(attention_mask.bool(), (1, 0), value=True)

    def may_attend(batch, head, query, key):
        # Frame i is query i and key i + 1.
        in_window = (query + 1 - key).abs() <= half
        if is_key is not None:
            in_window = in_window & is_key[batch, key]
        return in_window | (key == 0)

    # In each pair of blocks (query blocks, key blocks), is anything in the window?
    query = torch.arange(0, num_frames, size, device=like.device)[:, None]
    key = torch.arange(0, 1 + num_frames, size, device=like.device)[None, :]
    in_reach = ((query + 1 - key).abs() < size + half) | (key == 0)
    return BlockMask.from_kv_blocks(
        in_reach.sum(dim=1, dtype=torch.int32)[None, None],
        in_reach.int().argsort(dim=1, descending=True, stable=True).int()[None, None],
        BLOCK_SIZE=size,
        mask_mod=may_attend,
        seq_lengths=(num_frames, 1 + num_frames),
    )


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
    Cuts queries `(B, N, H)` into blocks of frames `(B, blocks, block_size, H)`, after the first `before` frames. With
    `half_window`, cuts keys or values into overlapping blocks `(B, blocks, 1 + block_size + 2 * half_window, H)`: the
    class token, then the frames with half a window on either side. Out-of-range slots repeat an edge frame and are
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


def count_slabs(num_frames: int) -> int:
    """Slabs of a video: 1 in a compiled graph, which is for any length, and where all is kept for backward."""
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and num_frames < MIN_FRAMES_TO_RECOMPUTE):
        return 1
    return max(1, round(num_frames / SLAB_SIZE))


def split_into_slabs(states: torch.Tensor, num_slabs: int) -> tuple[torch.Tensor, ...]:
    """At most so many slabs of equal size along dimension 1; the last may be smaller."""
    return (states,) if num_slabs == 1 else states.chunk(num_slabs, dim=1)  # a graph cannot chunk any length


def split_into_overlapping_slabs(states: torch.Tensor, sizes: list[int], reach: int) -> tuple[torch.Tensor, ...]:
    """
    Cuts `(B, N, H)` into slabs `(B, 1 + reach + size + reach, H)`: the class token, then `size` frames with `reach` on
    either side. Out-of-range slots repeat an edge frame and are masked.
    """
    rows = []
    for start, size in zip(accumulate(sizes[:-1], initial=0), sizes, strict=True):
        row = torch.arange(1 + start - reach, 1 + start + size + reach, device=states.device)
        rows.append(nn.functional.pad(row.clamp(1, states.shape[1] - 1), (1, 0)))
    # In one go, as the gradient of a slice is as large as what it was cut from.
    return states.index_select(1, torch.cat(rows)).split([len(row) for row in rows], dim=1)


def recompute_if_long(function: Callable, num_frames: int) -> Callable:
    """Has a function of one slab run again in the backward pass, instead of keeping activations, in long videos."""
    if torch.compiler.is_compiling() or num_frames < MIN_FRAMES_TO_RECOMPUTE or not torch.is_grad_enabled():
        return function
    return partial(checkpoint, function, use_reentrant=False)


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
            local_mask (`torch.Tensor` or torch's `BlockMask`): What [`make_local_mask`] gives; for flex attention,
                what [`make_flex_mask`] gives.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for frames, 0 for padding.
            class_token_only (`bool`, *optional*, defaults to `False`): Leave out what only the frames need.

        Returns:
            The output `(B, N, H)`, or `(B, 1, H)` for the class token only; the attention weights `(B, h, N, N)`, if
            the attention implementation gives any; the attention weights of the class token `(B, h, N)`.
        """
        if class_token_only:
            class_token, global_weights = self.attend_globally(hidden_states, attention_mask)
            output = self.output(class_token)
            if torch.is_grad_enabled():
                output = output + self._zero_from_unused()
            return output, None, global_weights
        if self.config._attn_implementation == "eager":
            class_token, frames, weights = self.attend_eagerly(hidden_states, local_mask, attention_mask)
            return self._project(class_token, frames, attention_mask), weights, weights[:, :, 0]
        class_token, global_weights = self.attend_globally(hidden_states, attention_mask)
        if self.config._attn_implementation == "flex_attention":
            output = self._project(class_token, self.attend_flexibly(hidden_states, local_mask), attention_mask)
        else:
            output = self.attend_locally(class_token, hidden_states, local_mask, attention_mask)
        return output, None, global_weights

    def _project_locally(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value `(B, N, H)` of what attends within the window."""
        return tuple(layer(hidden_states) for layer in (self.query, self.key, self.value))

    def _project(
        self, class_token: torch.Tensor | None, frames: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """What the class token, if it is given, and the frames attended to, through the output projection."""
        if attention_mask is not None:
            # As Longformer does: nothing is attended to from padding.
            frames = frames * attention_mask[..., None].to(frames.dtype)
        return self.output(frames if class_token is None else torch.cat([class_token, frames], dim=1))

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
        return 0.0 * torch.stack(unused).sum() if unused else 0.0

    def attend_eagerly(
        self, hidden_states: torch.Tensor, local_mask: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Output `(B, 1, H)` of the class token, output `(B, T, H)` of the frames and all weights `(B, h, N, N)`, which
        the outputs come from, so that gradients with respect to them exist.
        """
        query, key, value = self._project_locally(hidden_states)
        query, key, value = (self._split_heads(states).transpose(1, 2) for states in (query[:, 1:], key, value))
        local_scores = torch.matmul(query * self.scaling, key.transpose(2, 3)).masked_fill(~local_mask, -torch.inf)
        scores = torch.cat([self.score_globally(hidden_states, attention_mask)[:, :, None], local_scores], dim=2)
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        dropped = nn.functional.dropout(weights, p=self.attention_dropout, training=self.training)
        class_token = self.average_global_values(dropped[:, :, 0], hidden_states).flatten(1)[:, None]
        frames = torch.matmul(dropped[:, :, 1:], value).transpose(1, 2).flatten(2)
        return class_token, frames, weights

    def attend_locally(
        self,
        class_token: torch.Tensor,
        hidden_states: torch.Tensor,
        local_mask: torch.Tensor,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Projected output `(B, N, H)` of the class token, which has attended already, and of the frames."""
        num_frames = hidden_states.shape[1] - 1
        num_blocks, block_size = local_mask.shape[1:3]
        tail = num_blocks * block_size - num_frames
        masks = split_into_slabs(local_mask, count_slabs(num_frames))
        slabs, before = (hidden_states,), 0
        frame_masks = (None if attention_mask is None else nn.functional.pad(attention_mask, (0, tail)),)
        if len(masks) > 1:
            sizes = [mask.shape[1] * block_size for mask in masks]
            before = self.window // 2
            slabs = split_into_overlapping_slabs(hidden_states, sizes, before)
            frame_masks = frame_masks * len(masks) if attention_mask is None else frame_masks[0].split(sizes, dim=1)
        class_tokens = [class_token] + [None] * (len(masks) - 1)
        attend = recompute_if_long(partial(self._attend_in_blocks, before), num_frames)
        outputs = [attend(*slab) for slab in zip(class_tokens, slabs, masks, frame_masks, strict=True)]
        # Not a slice: a compiler cannot tell that there are this many whatever the number of frames.
        outputs[-1] = nn.functional.pad(outputs[-1], (0, 0, 0, -tail))
        return torch.cat(outputs, dim=1)

    def attend_flexibly(self, hidden_states: torch.Tensor, local_mask: torch.Tensor) -> torch.Tensor:
        """Output `(B, T, H)` of the frames, by flex attention, which needs no blocks laid out in memory."""
        query, key, value = (
            self._split_heads(states).transpose(1, 2) for states in self._project_locally(hidden_states)
        )
        return self._attend(query[:, :, 1:], key, value, local_mask).flatten(2)

    def _attend_in_blocks(
        self,
        before: int,
        class_token: torch.Tensor | None,
        hidden_states: torch.Tensor,
        local_mask: torch.Tensor,
        frame_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """
        Projected output `(B, blocks * block_size, H)` of the frames after the first `before` of `(B, N, H)`, with that
        of the class token, if given, before them. Long videos keep none of what is in between.
        """
        batch_size = hidden_states.shape[0]
        num_blocks, block_size = local_mask.shape[1:3]
        query, key, value = self._project_locally(hidden_states)
        if num_blocks == 1:  # its keys are all there are
            query = query[:, 1 + before : 1 + before + block_size]
        else:
            query = split_into_blocks(query, num_blocks, block_size, before).flatten(0, 1)
            key, value = (
                split_into_blocks(states, num_blocks, block_size, before, self.window // 2).flatten(0, 1)
                for states in (key, value)
            )
        # (B * blocks, h, block_size or keys, d)
        query, key, value = (self._split_heads(states).transpose(1, 2) for states in (query, key, value))
        local_mask = local_mask.expand(batch_size, -1, -1, -1).flatten(0, 1)[:, None]
        frames = self._attend(query, key, value, local_mask).flatten(2).unflatten(0, (batch_size, -1)).flatten(1, 2)
        return self._project(class_token, frames, frame_mask)

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Output `(B, queries, h, d)` of the attention implementation, for queries, keys and values `(B, h, …, d)`."""
        output, _ = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation](
            self,
            query,
            key,
            value,
            mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
        )
        return output

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
        num_slabs = count_slabs(hidden_states.shape[1])
        feed_forward = recompute_if_long(self._feed_forward, hidden_states.shape[1])
        outputs = []
        for slab in split_into_slabs(hidden_states, num_slabs):
            slab, update = feed_forward(slab)
            outputs.append(self.mlp_norm(slab + self.dropout(update)))
        return torch.cat(outputs, dim=1)

    def _feed_forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalised states and what the feed-forward network adds to them."""
        hidden_states = self.attention_norm(hidden_states)
        return hidden_states, self.mlp(hidden_states)


class VTNEmbeddings(nn.Module):
    """
    Puts the class token before the frames and adds what tells them apart: their positions and their types (frame 0,
    class token 1).
    """

    def __init__(self, config: VTNConfig):
        super().__init__()
        self.max_frame_positions = config.max_position_embeddings - 2
        self.position_embedding_type = config.position_embedding_type
        self.position_overflow = config.position_overflow
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
            position_ids = position_ids.long()
            if self.position_overflow == "spread":
                position_ids = self.spread_positions(position_ids, attention_mask)
            # The original wraps positions in the same way, and gives the last two rows to the same two uses.
            position_ids = position_ids % self.max_frame_positions
            if attention_mask is not None:
                position_ids = position_ids.masked_fill(attention_mask == 0, self.max_frame_positions + 1)
            position_ids = nn.functional.pad(position_ids, (1, 0), value=self.max_frame_positions)
            tokens = tokens + self.embed_positions(position_ids, tokens)
        is_class_token = torch.zeros(tokens.shape[1], dtype=torch.long, device=tokens.device)
        is_class_token[0] = 1
        return self.dropout(self.norm(tokens + self.token_type_embeddings(is_class_token)))

    def spread_positions(self, position_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Squeezes positions `(B, T)` onto the table, in videos that would reach beyond it."""
        last_row = self.max_frame_positions - 1
        if attention_mask is not None:
            position_ids = position_ids.masked_fill(attention_mask == 0, 0)
        last = position_ids.amax(dim=1, keepdim=True).clamp(min=last_row)
        return position_ids * last_row // last.clamp(min=1)

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
        if self.config._attn_implementation == "flex_attention":
            make_mask = make_flex_mask
        else:
            # Eager attention is where the weights can be read, so it sees each video as a single block.
            is_eager = self.config._attn_implementation == "eager"
            is_short = not torch.compiler.is_compiling() and num_frames <= MAX_FRAMES_IN_ONE_BLOCK
            block_size = None if is_eager or is_short else BLOCK_SIZE
            make_mask = partial(make_local_mask, block_size=block_size)
        local_masks = {
            window: make_mask(num_frames, window, attention_mask=attention_mask, like=frame_embeds)
            for window in set(self.config.attention_windows)
        }
        hidden_states = self.embeddings(frame_embeds, position_ids, attention_mask)
        for layer in self.layers:
            # The class token of the last layer needs the frames of the layer before, but not those of its own.
            skip_frames = class_token_only and layer is self.layers[-1]
            hidden_states = layer(hidden_states, local_masks[layer.attention.window], attention_mask, skip_frames)
        return hidden_states
