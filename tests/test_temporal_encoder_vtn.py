"""The shortcuts of the temporal encoder. What it computes is compared in test_longformer_parity.py."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from vtn_hf import VTNConfig, VTNModel, temporal_encoder_vtn
from vtn_hf.temporal_encoder_vtn import VTNAttention, make_local_mask, split_into_blocks


WIDTH = 16
SMALL_SIZES = {"BLOCK_SIZE": 8, "MAX_FRAMES_IN_ONE_BLOCK": 8, "SLAB_SIZE": 9, "MIN_FRAMES_TO_RECOMPUTE": 9}


def make_encoder(attention="sdpa"):
    """A temporal encoder with weights large enough that everything matters, and some features."""
    backbone = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, WIDTH], "depths": [1, 1]}
    config = VTNConfig(
        backbone_config=backbone, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, attention_window=4
    )
    model = VTNModel(config).eval()
    model.set_attn_implementation({"": attention})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.temporal_encoder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.temporal_encoder, torch.randn(2, 70, WIDTH, generator=generator)


def make_mask(masked):
    mask = torch.ones(2, 70, dtype=torch.long)
    mask[0, 30:] = 0
    return mask if masked else None


def test_blocks_of_three_frames():
    # The class token is 9, the frames are 1, 2, 3, whose first and last repeat beyond the ends of the video.
    states = torch.tensor([9, 1, 2, 3])[None, :, None]
    assert split_into_blocks(states, num_blocks=2, block_size=2).squeeze().tolist() == [[1, 2], [3, 3]]
    blocks = split_into_blocks(states, num_blocks=2, block_size=2, half_window=1)
    assert blocks.squeeze().tolist() == [[9, 1, 1, 2, 3], [9, 2, 3, 3, 3]]


@pytest.mark.parametrize(
    "is_frame, expected",
    [
        ([[1, 1, 1]], [[[1, 0, 1, 1, 0], [1, 0, 1, 1, 1]], [[1, 1, 1, 0, 0], [1, 0, 1, 0, 0]]]),
        ([[1, 1, 0]], [[[1, 0, 1, 1, 0], [1, 0, 1, 1, 0]], [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]]),
    ],
    ids=["full", "masked"],
)
def test_mask_of_three_frames(is_frame, expected):
    """Window 2, of the keys above: the class token for all, frames at most one away, no padding."""
    mask = make_local_mask(torch.tensor(is_frame) == 1, window=2, block_size=2)
    assert mask.int().tolist() == [expected]


def test_mask_of_one_block():
    mask = make_local_mask(torch.tensor([[True, True, False]]), window=2, block_size=None)
    assert mask.int().tolist() == [[[[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0]]]]


@pytest.mark.parametrize("block_size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("num_frames, window", [(1, 2), (5, 2), (9, 6), (10, 18), (130, 18)])
def test_blocks_cover_every_pair_in_the_window_once(num_frames, window, block_size):
    mask = make_local_mask(torch.ones(1, num_frames, dtype=torch.bool), window, block_size)[0, :, :, 1:]
    tokens = torch.arange(num_frames + 1)[None, :, None]
    blocks = tokens[None]  # one has the keys of the video
    if mask.shape[0] > 1:
        blocks = split_into_blocks(tokens, mask.shape[0], block_size, half_window=window // 2)
    numbers = blocks[0, :, 1:, 0] - 1
    pairs = [(block * block_size + query, numbers[block, key].item()) for block, query, key in mask.nonzero().tolist()]
    expected = [
        (query, key) for query in range(num_frames) for key in range(num_frames) if abs(query - key) <= window // 2
    ]
    assert sorted(pair for pair in pairs if pair[0] < num_frames) == expected


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
def test_class_token_alone_is_the_class_token(masked, attention):
    """With the same gradients, of which there is one for every parameter, though those of unread frames are zero."""
    encoder, features = make_encoder(attention)
    outputs, gradients = [], []
    for class_token_only in (False, True):
        encoder.zero_grad()
        states = encoder(features, torch.arange(70)[None], make_mask(masked), class_token_only)
        states[:, 0].square().sum().backward()
        outputs.append(states)
        gradients.append({name: parameter.grad.clone() for name, parameter in encoder.named_parameters()})
    assert outputs[1].shape == (2, 1, WIDTH)
    torch.testing.assert_close(outputs[1], outputs[0][:, :1], atol=1e-6, rtol=1e-5)
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][name], atol=1e-5, rtol=1e-4)


def compute_gradients(encoder, features, mask):
    """Output and gradients in training mode, the dropout drawn from the same seed each time."""
    encoder.train().zero_grad()
    torch.manual_seed(0)
    states = encoder(features, torch.arange(70)[None], mask)
    states.square().sum().backward()
    return [states] + [parameter.grad for parameter in encoder.parameters()]


def cut_into_slabs(monkeypatch):
    for name, value in SMALL_SIZES.items():
        monkeypatch.setattr(temporal_encoder_vtn, name, value)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
def test_slabs_change_nothing(masked, attention, checkpointing, monkeypatch):
    encoder, features = make_encoder(attention)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, VTNAttention):
            module.attention_dropout = 0.0
    expected = compute_gradients(encoder, features, make_mask(masked))
    cut_into_slabs(monkeypatch)
    if checkpointing:
        for layer in encoder.layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    for ours, theirs in zip(compute_gradients(encoder, features, make_mask(masked)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_slabs_draw_the_same_dropout_again(monkeypatch):
    encoder, features = make_encoder()
    cut_into_slabs(monkeypatch)
    recomputed = compute_gradients(encoder, features, None)
    monkeypatch.setattr(temporal_encoder_vtn, "recompute_if_long", lambda function, num_frames: function)
    for ours, theirs in zip(recomputed, compute_gradients(encoder, features, None), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_eager_attention_compiles():
    encoder, _ = make_encoder("eager")
    compiled = torch.compile(encoder, backend="eager", fullgraph=True, dynamic=True)
    for num_frames in (70, 16):
        inputs = torch.randn(2, num_frames, WIDTH), torch.arange(num_frames)[None], make_mask(True)[:, :num_frames]
        torch.testing.assert_close(compiled(*inputs), encoder(*inputs), atol=1e-5, rtol=1e-5)


def test_one_compiled_graph_serves_all_lengths():
    encoder, _ = make_encoder()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(encoder, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    with torch.no_grad():
        for num_frames in (70, 65, 64, 16, 2):
            inputs = torch.randn(2, num_frames, WIDTH), torch.arange(num_frames)[None], None, True
            torch.testing.assert_close(compiled(*inputs), encoder(*inputs), atol=1e-5, rtol=1e-5)
            counts.append(counter.frame_count)
    assert counts == counts[:1] * 5


@pytest.mark.parametrize("num_frames", [5, 70, 200])
@pytest.mark.parametrize("num_calls", range(1, 8))
@pytest.mark.parametrize("first", [True, False])
def test_while_another_thread_compiles(num_frames, num_calls, first, monkeypatch):
    """What torch says of that is for the whole process, and may change between any two questions."""
    encoder, _ = make_encoder()
    inputs = torch.randn(2, num_frames, WIDTH), torch.arange(num_frames)[None]
    with torch.no_grad():
        expected = encoder(*inputs)
        answers = itertools.chain(itertools.repeat(first, num_calls), itertools.repeat(not first))
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: next(answers))
        torch.testing.assert_close(encoder(*inputs), expected, atol=1e-5, rtol=1e-5)


def test_export_with_any_number_of_videos_and_frames():
    encoder, features = make_encoder()
    batch_size, num_frames = torch.export.Dim("batch_size", max=64), torch.export.Dim("num_frames", max=10_000)
    dimensions = {0: batch_size, 1: num_frames}
    inputs = features, torch.arange(70).expand(2, -1), make_mask(True)
    exported = torch.export.export(encoder, inputs, dynamic_shapes=(dimensions, dimensions, dimensions)).module()
    with torch.no_grad():
        for shape in ((2, 70), (1, 1), (3, 16), (1, 64), (2, 65), (1, 300)):
            mask = torch.ones(shape, dtype=torch.long)
            mask[0, 1 + shape[1] // 2 :] = 0
            inputs = torch.randn(*shape, WIDTH), torch.arange(shape[1]).expand(shape), mask
            torch.testing.assert_close(exported(*inputs), encoder(*inputs), atol=1e-5, rtol=1e-5)


class AdaptedLinear(nn.Linear):
    """As peft's or a quantised layer: its weight is not all there is to it."""

    shift = 0.0

    def forward(self, states):
        return super().forward(states) + self.shift * torch.arange(WIDTH) * states.sum(-1, keepdim=True)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("name", ["key_global", "value_global"])
def test_projections_that_are_not_plain_linear_are_called(name, masked):
    encoder, features = make_encoder()
    with torch.no_grad():
        expected = encoder(features, torch.arange(70)[None], make_mask(masked))
        getattr(encoder.layers[0].attention, name).__class__ = AdaptedLinear
        adapted = encoder(features, torch.arange(70)[None], make_mask(masked))
        torch.testing.assert_close(adapted, expected, atol=1e-5, rtol=1e-5)
        getattr(encoder.layers[0].attention, name).shift = 0.1
        shifted = encoder(features, torch.arange(70)[None], make_mask(masked))
    assert (shifted - expected).abs().max() > 1e-2
