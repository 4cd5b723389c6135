"""Which keys each frame attends to, in the form that flex attention takes: blocks out of reach cost nothing."""

import torch
from torch.nn.attention.flex_attention import BlockMask


BLOCK_SIZE = 128


def make_flex_mask(num_frames: int, window: int, attention_mask: torch.Tensor | None, like: torch.Tensor) -> BlockMask:
    """
    Lets each frame attend to the class token and to the frames in its window.

    Args:
        num_frames (`int`): T.
        window (`int`): Two-sided window.
        attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for frames, 0 for padding.
        like (`torch.Tensor`): Gives the device.

    Returns:
        `BlockMask` of T queries, the frames, and 1 + T keys, the class token first. It keeps which of its blocks are
        not empty, `(T / 128)²` numbers.
    """
    half = window // 2
    is_key = None if attention_mask is None else torch.nn.functional.pad(attention_mask.bool(), (1, 0), value=True)

    def may_attend(batch, head, query, key):
        # Frame i is query i and key i + 1.
        in_window = (query + 1 - key).abs() <= half
        if is_key is not None:
            in_window = in_window & is_key[batch, key]
        return in_window | (key == 0)

    # In each pair of blocks (query blocks, key blocks), is anything in the window?
    query = torch.arange(0, num_frames, BLOCK_SIZE, device=like.device)[:, None]
    key = torch.arange(0, 1 + num_frames, BLOCK_SIZE, device=like.device)[None, :]
    in_reach = ((query + 1 - key).abs() < BLOCK_SIZE + half) | (key == 0)
    return BlockMask.from_kv_blocks(
        in_reach.sum(dim=1, dtype=torch.int32)[None, None],
        in_reach.int().argsort(dim=1, descending=True, stable=True).int()[None, None],
        BLOCK_SIZE=BLOCK_SIZE,
        mask_mod=may_attend,
        seq_lengths=(num_frames, 1 + num_frames),
    )
