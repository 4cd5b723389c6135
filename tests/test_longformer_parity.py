"""
The temporal encoder computes what transformers' Longformer computes with one global token in front.

Longformer cannot run a window of 2 (its own indexing fails for one position on each side), so there it gets each frame
followed by a padding frame, and twice the window: the same frames attend to each other.
"""

import pytest
import torch
from transformers import LongformerConfig, LongformerModel

from vtn_hf import VTNConfig, VTNModel


WIDTH, HEADS, LAYERS, MAX_POSITIONS = 24, 3, 2, 300
LENGTHS = (1, 2, 9, 10, 18, 19, 37, 250)
WINDOWS = (2, 18, 32)

# (ours, Longformer's); the original's checkpoints have the same names.
NAMES = (
    ("embeddings.norm.", "embeddings.LayerNorm."),
    ("attention_norm.", "attention.output.LayerNorm."),
    ("attention.output.", "attention.output.dense."),
    ("attention.query", "attention.self.query"),
    ("attention.key", "attention.self.key"),
    ("attention.value", "attention.self.value"),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
    ("mlp_norm.", "output.LayerNorm."),
)


def longformer_name(name):
    for ours, theirs in NAMES:
        if ours in name:
            name = name.replace(ours, theirs)
            break
    return name.replace("layers.", "encoder.layer.")


def spacing(vtn):
    """Longformer's positions per frame."""
    return 2 if 2 in vtn.config.attention_windows else 1


def make_pair(window, attention, **fields):
    """A VTN and a Longformer with the same random weights."""
    vtn = VTNModel(
        VTNConfig(
            backbone_config={
                "model_type": "resnet",
                "embedding_size": 4,
                "hidden_sizes": [4, WIDTH],
                "depths": [1, 1],
            },
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=40,
            attention_window=window,
            max_position_embeddings=MAX_POSITIONS,
            **fields,
        )
    )
    vtn.set_attn_implementation({"": attention})
    longformer = LongformerModel(
        LongformerConfig(
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=40,
            attention_window=[spacing(vtn) * window for window in vtn.config.attention_windows],
            max_position_embeddings=MAX_POSITIONS,
            type_vocab_size=2,
            layer_norm_eps=vtn.config.layer_norm_eps,
            hidden_dropout_prob=vtn.config.hidden_dropout_prob,
            attention_probs_dropout_prob=vtn.config.attention_probs_dropout_prob,
            # Longformer looks its padding up in the table of words and in that of positions.
            vocab_size=MAX_POSITIONS,
            pad_token_id=MAX_POSITIONS - 1,
        ),
        add_pooling_layer=False,
    )
    encoder = vtn.temporal_encoder
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    weights = {longformer_name(name): weight for name, weight in encoder.state_dict().items()}
    weights.pop("embeddings.cls_token")
    missing, unexpected = longformer.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"embeddings.word_embeddings.weight", "embeddings.position_ids"}
    return vtn.eval(), longformer.eval()


def make_inputs(num_frames, masked):
    """
    Features, positions that wrap, and a mask with padding behind, in front and in between. Features are zero at
    padding, where the model sets them to zero.
    """
    generator = torch.Generator().manual_seed(num_frames)
    features = torch.randn(3, num_frames, WIDTH, generator=generator)
    position_ids = torch.arange(num_frames)[None] + torch.tensor([[0], [7], [100]])
    mask = None
    if masked:
        mask = torch.ones(3, num_frames, dtype=torch.long)
        mask[0, (num_frames + 1) // 2 :] = 0
        mask[1, : num_frames // 3] = 0
        mask[2, 1::3] = 0
        features[mask == 0] = 0
    return features, position_ids, mask


def spread(tensor, step, fill):
    """Puts `step - 1` times `fill` behind each of the entries along dimension 1."""
    spread_out = tensor.new_full((tensor.shape[0], step * tensor.shape[1], *tensor.shape[2:]), fill)
    spread_out[:, ::step] = tensor
    return spread_out


def run_longformer(longformer, vtn, class_token, features, position_ids, mask):
    """The hidden states of all layers, of the class token, which has global attention, and the frames."""
    batch_size, num_frames = features.shape[:2]
    step = spacing(vtn)
    mask = torch.ones(batch_size, num_frames, dtype=torch.long) if mask is None else mask
    position_ids = (position_ids % (MAX_POSITIONS - 2)).masked_fill(mask == 0, MAX_POSITIONS - 1)
    features, position_ids, mask = (
        spread(tensor, step, fill) for tensor, fill in ((features, 0), (position_ids, MAX_POSITIONS - 1), (mask, 0))
    )
    is_class_token = torch.zeros(batch_size, 1 + step * num_frames, dtype=torch.long)
    is_class_token[:, 0] = 1
    outputs = longformer(
        inputs_embeds=torch.cat([class_token.expand(batch_size, -1, -1), features], dim=1),
        position_ids=torch.nn.functional.pad(position_ids, (1, 0), value=MAX_POSITIONS - 2),
        attention_mask=torch.nn.functional.pad(mask, (1, 0), value=1),
        global_attention_mask=is_class_token,
        token_type_ids=is_class_token,
        output_hidden_states=True,
    )
    return [torch.cat([states[:, :1], states[:, 1::step]], dim=1) for states in outputs.hidden_states]


def assert_parity(window, attention, num_frames, masked):
    vtn, longformer = make_pair(window, attention)
    features, position_ids, mask = make_inputs(num_frames, masked)
    with torch.no_grad():
        outputs = vtn(
            inputs_embeds=features, position_ids=position_ids, attention_mask=mask, output_hidden_states=True
        )
        class_token = vtn.temporal_encoder.embeddings.cls_token
        expected = run_longformer(longformer, vtn, class_token, features, position_ids, mask)
    assert len(expected) == LAYERS + 1
    # All rows, the class token's, the frames' and the padding's, of every layer.
    for ours, theirs in zip(outputs.hidden_states, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert outputs.last_hidden_state.std() > 0.5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("num_frames", LENGTHS)
def test_parity(num_frames, window, masked, attention):
    assert_parity(window, attention, num_frames, masked)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("windows", [[2, 32], [18, 2]], ids=str)
def test_parity_with_a_window_per_layer(windows, masked, attention):
    assert_parity(windows, attention, 37, masked)


def assert_parity_of_gradients(windows, attention, num_frames, masked):
    """In training mode, without dropout; the loss reads the class token and the frames, not the padding."""
    vtn, longformer = make_pair(windows, attention, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    features, position_ids, mask = make_inputs(num_frames, masked)
    class_token = vtn.temporal_encoder.embeddings.cls_token
    expected_class_token = class_token.detach().clone().requires_grad_()
    readout = torch.randn(3, 1 + num_frames, WIDTH, generator=torch.Generator().manual_seed(1))
    if masked:
        readout[:, 1:][mask == 0] = 0

    ours = vtn.train()(inputs_embeds=features, position_ids=position_ids, attention_mask=mask).last_hidden_state
    theirs = run_longformer(longformer.train(), vtn, expected_class_token, features, position_ids, mask)[-1]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    for states in (ours, theirs):
        (states * readout).sum().backward()

    gradients = {name: parameter.grad for name, parameter in vtn.temporal_encoder.named_parameters()}
    expected = {name: parameter.grad for name, parameter in longformer.named_parameters()}
    expected["embeddings.cls_token"] = expected_class_token.grad
    assert len(gradients) == len(expected) - 1
    for name, gradient in gradients.items():
        theirs = expected[longformer_name(name)]
        # Relative to the largest entry. A key's bias adds the same to all scores of a query, so its gradient is zero
        # but for rounding: that of the weight is the measure.
        measure = name.removesuffix("bias") + "weight" if name.endswith(("key.bias", "key_global.bias")) else name
        scale = expected[longformer_name(measure)].abs().max()
        difference = (gradient - theirs).abs().max() / scale
        assert difference < 1e-4, f"{name}: {difference}"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("num_frames", [1, 19, 70])
def test_parity_of_gradients(num_frames, masked, attention):
    assert_parity_of_gradients([2, 18], attention, num_frames, masked)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("window", [18, 32])
@pytest.mark.parametrize("num_frames", [16, 250, 1000, 4000, pytest.param(16_000, marks=pytest.mark.slow)])
def test_parity_of_long_videos_and_their_gradients(num_frames, window, masked):
    assert_parity_of_gradients(window, "sdpa", num_frames, masked)
