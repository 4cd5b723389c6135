"""The model on tiny random weights: outputs, masks, attention, losses, gradients, saving and loading, bad input."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification
from transformers.utils import logging

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNModel
from vtn_hf.backbone_vtn import choose_frames_per_chunk


BACKBONE = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 4,
}
MAX_POSITIONS = 40
WIDTH = 16
RESNET = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 4, 8, WIDTH], "depths": [1, 1, 1, 1]}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}


def make_config(**fields):
    defaults = {
        "backbone_config": BACKBONE,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "attention_window": 4,
        "max_position_embeddings": MAX_POSITIONS,
        "num_labels": 3,
    }
    return VTNConfig(**{**defaults, **fields})


def randomize(model):
    """Weights large enough that everything matters, biases included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def make_model(model_class=VTNForVideoClassification, attention="sdpa", **fields):
    torch.manual_seed(0)
    model = randomize(model_class(make_config(**fields)))
    model.set_attn_implementation(attention)
    return model


def make_frames(*shape, seed=1):
    """Pixels `(*shape, 3, 8, 8)`."""
    return torch.randn(*shape, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def make_mask(*lengths):
    """1 for the first frames, 0 for the padding behind them."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def count_backbone_frames(model):
    """A list that grows by the number of frames of each call of the backbone."""
    calls = []
    backbone = getattr(model, "vtn", model).backbone
    backbone.register_forward_hook(
        lambda module, args, kwargs, output: calls.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    return calls


def assert_close(actual, expected, atol=1e-6, rtol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


# Outputs


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("num_frames", [1, 2, 5, 70])
def test_outputs(num_frames, attention):
    model = make_model(VTNModel, attention)
    pixel_values = make_frames(2, num_frames)
    with torch.no_grad():
        outputs = model(pixel_values, output_hidden_states=True)
        class_tokens = model.backbone(pixel_values=pixel_values.flatten(0, 1)).last_hidden_state[:, 0]
    assert outputs.last_hidden_state.shape == (2, 1 + num_frames, WIDTH)
    assert outputs.last_hidden_state.isfinite().all()
    assert torch.equal(outputs.pooler_output, outputs.last_hidden_state[:, 0])
    assert_close(outputs.frame_embeds, class_tokens.unflatten(0, (2, num_frames)))
    assert [state.shape for state in outputs.hidden_states] == [(2, 1 + num_frames, WIDTH)] * 3
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)
    embeddings = model.temporal_encoder.embeddings(outputs.frame_embeds, torch.arange(num_frames)[None], None)
    assert_close(outputs.hidden_states[0], embeddings)
    assert outputs.attentions is None and outputs.global_attentions is None


def test_logits_are_the_head_on_the_class_token():
    model = make_model(classifier_hidden_size=10)
    pixel_values = make_frames(2, 5)
    with torch.no_grad():
        outputs = model(pixel_values)
        pooled = model.vtn(pixel_values).pooler_output
    head = model.classifier
    hidden = nn.functional.gelu(
        head.dense(nn.functional.layer_norm(pooled, (WIDTH,), head.norm.weight, head.norm.bias))
    )
    assert hidden.shape == (2, 10)
    assert_close(outputs.logits, head.out_proj(hidden))
    assert outputs.loss is None
    assert (outputs.logits[0] - outputs.logits[1]).abs().max() > 1e-2


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_is_asked_for_does_not_change_the_logits(attention):
    model = make_model(attention=attention)
    pixel_values, mask = make_frames(2, 5), make_mask(5, 3)
    with torch.no_grad():
        expected = model(pixel_values, attention_mask=mask).logits
        outputs = model(pixel_values, attention_mask=mask, output_hidden_states=True, output_attentions=True)
        base = model.vtn(pixel_values, attention_mask=mask, output_hidden_states=True)
    assert_close(outputs.logits, expected)
    assert [states.shape for states in outputs.hidden_states] == [(2, 6, WIDTH)] * 3
    for ours, theirs in zip(outputs.hidden_states, base.hidden_states, strict=True):
        assert_close(ours, theirs)


def test_outputs_as_a_tuple():
    model = make_model()
    pixel_values, labels = make_frames(1, 4), torch.tensor([1])
    with torch.no_grad():
        outputs = model(pixel_values, labels=labels)
        loss, logits = model(pixel_values, labels=labels, return_dict=False)
        states, pooled, frame_embeds = model.vtn(pixel_values, return_dict=False)
        assert torch.equal(pooled, model.vtn(pixel_values).pooler_output)
    assert torch.equal(logits, outputs.logits) and torch.equal(loss, outputs.loss)
    assert (states.shape, frame_embeds.shape) == ((1, 5, WIDTH), (1, 4, WIDTH))


def test_projection_where_the_widths_differ():
    model = make_model(VTNModel, hidden_size=24)
    assert (model.projection.in_features, model.projection.out_features) == (16, 24)
    with torch.no_grad():
        outputs = model(make_frames(1, 3), output_hidden_states=True)
        projected = model.projection(outputs.frame_embeds)
        embeddings = model.temporal_encoder.embeddings(projected, torch.arange(3)[None], None)
    assert outputs.frame_embeds.shape == (1, 3, 16)
    assert outputs.last_hidden_state.shape == (1, 4, 24)
    assert_close(outputs.hidden_states[0], embeddings)
    assert isinstance(make_model(VTNModel).projection, nn.Identity)


# Padding


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("garbage", [0.0, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("lengths", [(9, 4, 1), (5, 70, 66)], ids=str)
def test_padding_changes_nothing(lengths, garbage, attention):
    model = make_model(attention=attention)
    mask = make_mask(*lengths)
    pixel_values = make_frames(*mask.shape)
    position_ids = 3 * torch.arange(mask.shape[1]).expand(mask.shape).clone()
    alone = [
        model(pixel_values[[row], :length], position_ids=position_ids[[row], :length]).logits[0]
        for row, length in enumerate(lengths)
    ]
    pixel_values[mask == 0] = garbage
    position_ids[mask == 0] = 999
    with torch.no_grad():
        outputs = model(pixel_values, position_ids=position_ids, attention_mask=mask)
        frame_embeds = model.vtn(pixel_values, attention_mask=mask).frame_embeds
    assert_close(outputs.logits, torch.stack(alone))
    assert (frame_embeds[mask == 0] == 0).all() and (frame_embeds[mask == 1] != 0).any(dim=-1).all()


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float32])
def test_mask_of_any_dtype(dtype):
    model = make_model()
    pixel_values, mask = make_frames(2, 6), make_mask(6, 4)
    with torch.no_grad():
        assert torch.equal(
            model(pixel_values, attention_mask=mask.to(dtype)).logits, model(pixel_values, attention_mask=mask).logits
        )
        full_mask = torch.ones(2, 6, dtype=dtype)
        assert_close(model(pixel_values, attention_mask=full_mask).logits, model(pixel_values).logits)


def test_padding_in_front_changes_nothing():
    model = make_model()
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])
    pixel_values, position_ids = make_frames(2, 8), torch.arange(5, 13).repeat(2, 1)
    with torch.no_grad():
        batch = model(pixel_values, position_ids=position_ids, attention_mask=mask).logits
        alone = model(pixel_values[:1, 3:], position_ids=position_ids[:1, 3:]).logits
    assert_close(batch[:1], alone)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_in_the_middle_changes_nothing(attention):
    # The window counts padding too, so only with one that spans the video is it the same as leaving the frames out.
    model = make_model(attention=attention, attention_window=200)
    num_frames = 90
    mask = torch.ones(2, num_frames, dtype=torch.long)
    mask[0, 2:4] = mask[0, 60:70] = mask[1, 89] = 0
    pixel_values, position_ids = make_frames(2, num_frames), torch.arange(num_frames).repeat(2, 1)
    keep = mask[0].bool()
    with torch.no_grad():
        batch = model(pixel_values, position_ids=position_ids, attention_mask=mask).logits
        alone = model(pixel_values[:1, keep], position_ids=position_ids[:1, keep]).logits
        pixel_values[mask == 0] = 7.0
        assert torch.equal(model(pixel_values, position_ids=position_ids, attention_mask=mask).logits, batch)
        everything = model(pixel_values, position_ids=position_ids).logits
    assert_close(batch[:1], alone, atol=1e-5)
    assert (everything[0] - batch[0]).abs().max() > 1e-3


@pytest.mark.parametrize("garbage", [1e4, 1e30, float("inf"), float("nan")])
def test_padding_in_precomputed_features_changes_nothing(garbage):
    model = make_model()
    mask = make_mask(7, 3)
    features = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(inputs_embeds=features, attention_mask=mask).logits
        alone = model(inputs_embeds=features[1:, :3]).logits
        features[mask == 0] = garbage
        assert_close(model(inputs_embeds=features, attention_mask=mask).logits, expected)
    assert_close(expected[1:], alone)


def test_frame_embeds_are_zero_at_padding_however_they_came():
    model = make_model(VTNModel)
    mask = make_mask(7, 3)
    features = torch.ones(2, 7, WIDTH)
    with torch.no_grad():
        outputs = model(inputs_embeds=features, attention_mask=mask)
    assert torch.equal(outputs.frame_embeds, features * mask[..., None])


def test_padding_changes_nothing_in_training():
    """Neither the loss nor the gradients, without dropout: padding does not go through the backbone."""
    fields = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    model = make_model(**fields).train()
    mask, pixel_values, labels = make_mask(6, 2), make_frames(2, 6), torch.tensor([0, 2])
    calls = count_backbone_frames(model)
    gradients = []
    for garbage in (0.0, 1e6):
        pixel_values[mask == 0] = garbage
        model.zero_grad()
        model(pixel_values, attention_mask=mask, labels=labels).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert calls == [8, 8]


# Attention


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 63, 64, 65, 128, 129, 200])
def test_eager_equals_sdpa(num_frames, masked):
    model = make_model(VTNModel, attention_window=[4, 70])
    features = torch.randn(2, num_frames, WIDTH, generator=torch.Generator().manual_seed(3))
    mask = make_mask(num_frames, (num_frames + 1) // 2) if masked else None
    states = {}
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            states[attention] = model(inputs_embeds=features, attention_mask=mask).last_hidden_state
    assert_close(states["eager"], states["sdpa"], atol=1e-5, rtol=0)


def get_implementations(model):
    return model.config._attn_implementation, model.vtn.backbone.config._attn_implementation


def test_attention_implementation_of_each_part(tmp_path):
    make_model().save_pretrained(tmp_path)
    model = VTNForVideoClassification.from_pretrained(
        tmp_path, attn_implementation={"": "eager", "backbone_config": "sdpa"}
    )
    assert get_implementations(model) == ("eager", "sdpa")
    with torch.no_grad():
        outputs = model(make_frames(1, 5), output_attentions=True)
    assert [weights.shape for weights in outputs.attentions] == [(1, 2, 6, 6)] * 2
    model.set_attn_implementation({"": "sdpa"})
    assert get_implementations(model) == ("sdpa", "sdpa")
    model.set_attn_implementation({"backbone_config": "eager"})
    assert get_implementations(model) == ("sdpa", "eager")
    model.set_attn_implementation("sdpa")
    assert get_implementations(model) == ("sdpa", "sdpa")
    model.set_attn_implementation("flex_attention")
    assert get_implementations(model) == ("flex_attention", "flex_attention")
    model.set_attn_implementation({"": "sdpa"})
    assert get_implementations(model) == ("sdpa", "flex_attention")
    with pytest.raises(ValueError, match="no_such_attention"):
        model.set_attn_implementation("no_such_attention")


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_attention_implementation_passes_over_a_backbone_without_attention(tmp_path, attention):
    make_model(backbone_config=RESNET).save_pretrained(tmp_path)
    model = VTNForVideoClassification.from_pretrained(tmp_path, attn_implementation=attention)
    assert get_implementations(model) == (attention, "eager")
    model.set_attn_implementation("eager")
    model.set_attn_implementation(attention)
    assert get_implementations(model) == (attention, "eager")
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        assert model(torch.randn(1, 4, 3, 32, 32)).logits.isfinite().all()


def test_attention_implementation_that_the_backbone_lacks_is_refused(tmp_path):
    """Not replaced in silence: it has attention, of another kind."""
    swin = {"model_type": "swinv2", "image_size": 8, "patch_size": 2, "embed_dim": 16, "depths": [1], "num_heads": [2]}
    make_model(backbone_config={**swin, "window_size": 2}).save_pretrained(tmp_path)
    for attention in ("sdpa", "flex_attention"):
        with pytest.raises(ValueError, match="Swinv2Model"):
            VTNForVideoClassification.from_pretrained(tmp_path, attn_implementation=attention)
    model = VTNForVideoClassification.from_pretrained(tmp_path, attn_implementation={"": "sdpa"})
    assert get_implementations(model) == ("sdpa", "eager")


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("num_frames", [1, 4, 70])
def test_attention_weights(num_frames, masked):
    model = make_model(VTNModel, "eager", attention_window=[2, 6])
    mask = make_mask(num_frames, (num_frames + 1) // 2) if masked else None
    is_frame = torch.ones(2, num_frames, dtype=torch.bool) if mask is None else mask.bool()
    with torch.no_grad():
        outputs = model(make_frames(2, num_frames), attention_mask=mask, output_attentions=True)
    assert len(outputs.attentions) == len(outputs.global_attentions) == 2
    index = torch.arange(num_frames)
    for window, weights, global_weights in zip((2, 6), outputs.attentions, outputs.global_attentions, strict=True):
        assert weights.shape == (2, 2, 1 + num_frames, 1 + num_frames)
        assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert torch.equal(weights[:, :, 0], global_weights)
        allowed = ((index[:, None] - index).abs() <= window // 2) & is_frame[:, None, None]
        assert torch.equal(weights[:, :, 1:, 1:] > 0, allowed.expand(-1, 2, -1, -1))
        assert (weights[:, :, :, 0] > 0).all()
        assert torch.equal(weights[:, :, 0, 1:] > 0, is_frame[:, None].expand(-1, 2, -1))


def test_attention_weights_are_those_that_are_used():
    """The first layer, put together by hand from the weights that it reports."""
    model = make_model(VTNModel, "eager", num_hidden_layers=1)
    with torch.no_grad():
        outputs = model(make_frames(1, 7), output_attentions=True, output_hidden_states=True)
        states, weights = outputs.hidden_states[0], outputs.attentions[0]
        layer = model.temporal_encoder.layers[0]
        attention = layer.attention
        local_value, global_value = (
            projection(states).unflatten(-1, (2, 8)).transpose(1, 2)
            for projection in (attention.value, attention.value_global)
        )
        mixed = torch.cat([weights[:, :, :1] @ global_value, weights[:, :, 1:] @ local_value], dim=2)
        attended = layer.attention_norm(states + attention.output(mixed.transpose(1, 2).flatten(2)))
        assert_close(layer.mlp_norm(attended + layer.mlp(attended)), outputs.last_hidden_state)


def test_class_token_weights_on_sdpa():
    model = make_model(attention="eager")
    pixel_values, mask = make_frames(2, 5), make_mask(5, 3)
    with torch.no_grad():
        eager = model(pixel_values, attention_mask=mask, output_attentions=True)
        model.set_attn_implementation("sdpa")
        sdpa = model(pixel_values, attention_mask=mask, output_attentions=True)
    assert len(sdpa.global_attentions) == 2
    for ours, theirs in zip(sdpa.global_attentions, eager.global_attentions, strict=True):
        assert_close(ours, theirs)


def test_attentions_by_configuration():
    model = make_model(attention="eager")
    model.config.output_attentions = model.config.output_hidden_states = True
    with torch.no_grad():
        outputs = model(make_frames(1, 4))
    # The classifier does not read the frames of the last layer, but who asks for them gets them.
    assert [weights.shape for weights in outputs.attentions] == [(1, 2, 5, 5)] * 2
    assert [weights.shape for weights in outputs.global_attentions] == [(1, 2, 5)] * 2
    assert [states.shape for states in outputs.hidden_states] == [(1, 5, WIDTH)] * 3


def test_frames_beyond_the_window_reach_the_class_token_only():
    model = make_model(VTNModel, num_hidden_layers=1, attention_window=4)
    features = torch.randn(1, 100, WIDTH, generator=torch.Generator().manual_seed(4))
    changed = features.clone()
    changed[0, 64] *= -1
    with torch.no_grad():
        before, after = (model(inputs_embeds=x).last_hidden_state[0] for x in (features, changed))
    moved = (before - after).abs().amax(dim=-1) > 1e-5
    assert moved.nonzero().flatten().tolist() == [0, 63, 64, 65, 66, 67]


# The backbone's work


def test_chunks_bound_the_frames_per_call_and_change_nothing():
    model = make_model()
    pixel_values, mask = make_frames(2, 5), make_mask(5, 2)
    calls = count_backbone_frames(model)
    with torch.no_grad():
        whole = model(pixel_values, attention_mask=mask).logits
        model.config.frames_per_chunk = 3
        chunked = model.vtn.config.frames_per_chunk and model(pixel_values, attention_mask=mask).logits
    assert_close(chunked, whole)
    assert calls == [7, 3, 3, 1]


@pytest.mark.parametrize("name, chunk", [("vit", 8), ("resnet", 2), ("convnext", 2)])
def test_chunks_that_suit_the_backbone(name, chunk):
    convolutional = {"resnet": {"embedding_size": 4}, "convnext": {"num_stages": 2}}
    sizes = {"hidden_sizes": [4, 8], "depths": [1, 2]}
    backbone = BACKBONE if name == "vit" else {"model_type": name, **sizes, **convolutional[name]}
    model = make_model(attention={"": "sdpa"}, backbone_config=backbone)
    calls = count_backbone_frames(model)
    pixel_values = torch.rand(1, 70, 3, *([8, 8] if name == "vit" else [32, 32]))
    with torch.no_grad():
        model(pixel_values)
    assert calls == [64, 6]  # small ones
    calls.clear()
    model.train()(pixel_values)
    assert calls == [70]
    for side, num_frames in ((224, chunk), (112, 4 * chunk), (56, 16 * chunk), (448, max(1, chunk // 4)), (2000, 1)):
        chosen = choose_frames_per_chunk("auto", model.vtn.backbone, side * side)
        assert chosen == min(num_frames, 64)
    for setting in (3, None):
        assert choose_frames_per_chunk(setting, model.vtn.backbone) == setting
    assert choose_frames_per_chunk("auto", model.to("meta").vtn.backbone) == 64


def test_checkpointing_without_a_number_of_frames_is_that_of_the_layers():
    model = make_model(**NO_DROPOUT).train()
    model.activation_checkpointing_enable({"use_reentrant": True})  # the other kind stops before the last module
    calls, layer_calls = count_backbone_frames(model), []
    model.vtn.backbone.layers[0].mlp.register_forward_hook(lambda module, args, output: layer_calls.append(1))
    compute_gradients(model)
    assert calls == [12] and len(layer_calls) == 2


def test_without_recomputation_training_takes_all_frames_at_once():
    model = make_model(frames_per_chunk=3).train()
    calls = count_backbone_frames(model)
    model(make_frames(1, 5))
    assert calls == [5]


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not_reentrant"])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_chunks_are_recomputed_in_training_and_change_nothing(use_reentrant, frozen):
    model = make_model(**NO_DROPOUT).train()
    if frozen:
        model.freeze_backbone()
    expected = compute_gradients(model, make_mask(6, 4))
    model.config.frames_per_chunk = 4
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    calls, layer_calls = count_backbone_frames(model), []
    model.vtn.backbone.layers[0].mlp.register_forward_hook(lambda module, args, output: layer_calls.append(1))
    gradients = compute_gradients(model, make_mask(6, 4))
    # Ten frames in three chunks, each of them twice; the layers inside no more often than their chunk.
    assert calls[:3] == [4, 4, 2] and len(layer_calls) == (3 if frozen else 6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)


def test_batch_normalisation_is_not_cut_into_chunks():
    backbone = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    model = make_model(attention={"": "sdpa"}, backbone_config=backbone, frames_per_chunk=2).train()
    model.activation_checkpointing_enable()
    with pytest.raises(ValueError, match="`frames_per_chunk` is 2, but in training ResNetModel normalises over all"):
        model(torch.rand(1, 5, 3, 32, 32))
    model.freeze_backbone()
    assert model(torch.rand(1, 5, 3, 32, 32)).logits.isfinite().all()


def test_every_frame_gets_its_own_gradient():
    model = make_model()
    pixel_values = make_frames(1, 3)
    pixel_values[0, 2] = pixel_values[0, 0]
    model(pixel_values.requires_grad_()).logits.sum().backward()
    assert (pixel_values.grad[0].abs().amax(dim=(1, 2, 3)) > 1e-6).all()


def test_padding_does_not_go_through_the_backbone():
    model = make_model()
    calls = count_backbone_frames(model)
    with torch.no_grad():
        features = model.vtn.get_frame_features(make_frames(2, 4), make_mask(3, 4))
        expected = model.vtn.get_frame_features(make_frames(2, 4)) * make_mask(3, 4)[..., None]
    assert_close(features, expected)
    assert calls == [7, 8]


@pytest.mark.parametrize("backbone", [BACKBONE, RESNET], ids=lambda backbone: backbone["model_type"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_runs_on_the_meta_device(training, backbone):
    """Nothing that needs a value, for which the host would have to wait on a GPU."""
    with torch.device("meta"):
        model = VTNForVideoClassification(make_config(backbone_config=backbone)).train(training)
        for num_frames in (5, 200):
            side = 32 if backbone is RESNET else 8
            pixel_values = torch.empty(2, num_frames, 3, side, side)
            mask = torch.empty(2, num_frames, dtype=torch.long)
            labels = torch.empty(2, dtype=torch.long)
            for inputs in ({}, {"attention_mask": mask}, {"labels": labels}, {"position_ids": mask}):
                outputs = model(pixel_values, **inputs)
                assert outputs.logits.shape == (2, 3) and outputs.logits.device.type == "meta"
            assert model(inputs_embeds=torch.empty(2, num_frames, WIDTH), attention_mask=mask).logits.is_meta


def test_padding_changes_nothing_where_it_goes_through_the_backbone(monkeypatch):
    model, mask, pixel_values = make_model(**NO_DROPOUT).train(), make_mask(6, 2), make_frames(2, 6)
    expected = compute_gradients(model, mask)
    # As if the host had to wait for a device to know what is padding
    monkeypatch.setattr(VTNModel, "_can_skip_padding", lambda self, mask: False)
    calls = count_backbone_frames(model)
    for name, gradient in compute_gradients(model, mask).items():
        assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)
    assert calls == [12]
    pixel_values[mask == 0] = float("nan")
    model.zero_grad()
    model(pixel_values, attention_mask=mask).logits.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_padding_takes_no_part_in_batch_normalisation():
    model = make_model(attention={"": "sdpa"}, backbone_config=RESNET, **NO_DROPOUT).train()
    statistics = []
    for pixel_values, mask in (
        (torch.ones(1, 3, 3, 32, 32), None),
        (torch.ones(1, 5, 3, 32, 32), make_mask(3, 5)[:1]),
    ):
        copied = copy.deepcopy(model)
        pixel_values[:, 3:] = 100.0
        copied(pixel_values, attention_mask=mask)
        statistics.append(list(copied.buffers()))
    for ours, theirs in zip(*statistics, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
def test_features_computed_beforehand_give_the_same_logits(masked):
    model = make_model(hidden_size=24)
    pixel_values = make_frames(2, 5)
    inputs = {
        "position_ids": torch.tensor([[0, 2, 4, 6, 8], [1, 1, 2, 3, 5]]),
        "attention_mask": make_mask(5, 3) if masked else None,
    }
    with torch.no_grad():
        features = model.vtn.get_frame_features(pixel_values, inputs["attention_mask"])
        outputs = model.vtn(pixel_values, **inputs)
        assert_close(features, outputs.frame_embeds)
        assert_close(model(inputs_embeds=features, **inputs).logits, model(pixel_values, **inputs).logits)
        # Features of all frames do as well: padding is masked later.
        features = model.vtn.get_frame_features(pixel_values)
        assert_close(model(inputs_embeds=features, **inputs).logits, model(pixel_values, **inputs).logits)


# Positions


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "none"])
def test_default_positions_count_from_zero(kind):
    model = make_model(position_embedding_type=kind)
    pixel_values = make_frames(2, 6)
    with torch.no_grad():
        expected = model(pixel_values).logits
        assert torch.equal(model(pixel_values, position_ids=torch.arange(6).repeat(2, 1)).logits, expected)
        moved = model(pixel_values, position_ids=2 + torch.arange(6).repeat(2, 1)).logits
    assert torch.equal(moved, expected) if kind == "none" else (moved - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_positions_wrap_two_before_the_end_of_the_table(kind):
    model = make_model(position_embedding_type=kind)
    pixel_values, positions = make_frames(1, 4), torch.tensor([[0, 1, 36, 37]])
    period = MAX_POSITIONS - 2
    with torch.no_grad():
        expected = model(pixel_values, position_ids=positions).logits
        assert torch.equal(model(pixel_values, position_ids=positions + period).logits, expected)
        assert torch.equal(model(pixel_values, position_ids=positions + 5 * period).logits, expected)
        other = model(pixel_values, position_ids=positions + period - 1).logits
    assert (other - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_positions_spread_over_the_table_in_long_videos_only(kind):
    wrapping = make_model(position_embedding_type=kind)
    spreading = make_model(position_embedding_type=kind, position_overflow="spread")
    pixel_values = make_frames(2, 5)
    positions = torch.tensor([[0, 9, 18, 27, 37], [0, 100, 200, 300, 999]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])  # the 999 is padding
    rows = torch.tensor([[0, 9, 18, 27, 37], [0, 12, 24, 37, 0]])
    with torch.no_grad():
        expected = wrapping(pixel_values, position_ids=rows, attention_mask=mask).logits
        assert_close(spreading(pixel_values, position_ids=positions, attention_mask=mask).logits, expected)
        wrapped = wrapping(pixel_values, position_ids=positions, attention_mask=mask).logits
    assert_close(wrapped[0], expected[0])
    assert (wrapped[1] - expected[1]).abs().max() > 1e-3


def test_changes_of_features_in_their_place():
    plain, changing = make_model(), make_model(frame_changes=True)
    pixel_values = make_frames(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        outputs = changing(pixel_values, attention_mask=mask)
        features = plain.vtn.get_frame_features(pixel_values, mask)
        assert_close(changing(inputs_embeds=features, attention_mask=mask).logits, outputs.logits)
        changes = torch.zeros_like(features)
        for frame in range(1, 5):
            changes[:, frame] = (features[:, frame] - features[:, frame - 1]).abs()
        assert_close(plain(inputs_embeds=changes, attention_mask=mask).logits, outputs.logits)
        # Padding changes nothing.
        alone = changing(inputs_embeds=features[1:, :3]).logits
        assert_close(alone, outputs.logits[1:])
        assert (plain(pixel_values, attention_mask=mask).logits - outputs.logits).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_positions_stretch_over_the_table_in_every_video(kind):
    wrapping = make_model(position_embedding_type=kind)
    stretching = make_model(position_embedding_type=kind, position_overflow="stretch")
    pixel_values = make_frames(3, 5)
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 100, 200, 300, 999], [0, 7, 7, 7, 7]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]])  # the last one is a single frame
    rows = torch.tensor([[0, 9, 18, 27, 37], [0, 12, 24, 37, 0], [0, 0, 0, 0, 0]])
    with torch.no_grad():
        expected = wrapping(pixel_values, position_ids=rows, attention_mask=mask).logits
        assert_close(stretching(pixel_values, position_ids=positions, attention_mask=mask).logits, expected)


def test_rows_of_the_position_table():
    """Frames own all rows but the last two, which are the class token's and the padding's."""
    model = make_model(VTNModel)
    rows = []
    model.temporal_encoder.embeddings.position_embeddings.register_forward_hook(
        lambda module, args, output: rows.append(args[0].tolist())
    )
    with torch.no_grad():
        model(
            make_frames(1, 4), position_ids=torch.tensor([[3, 37, 38, 5]]), attention_mask=torch.tensor([[1, 1, 1, 0]])
        )
    assert rows == [[[38, 3, 37, 0, 39]]]


@pytest.mark.parametrize("kind, matters", [("learned", True), ("sinusoidal", True), ("none", False)])
def test_order_of_the_frames(kind, matters):
    # With a window that spans the video, positions are all that tells the order.
    model = make_model(position_embedding_type=kind, attention_window=16)
    pixel_values = make_frames(1, 6)
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    with torch.no_grad():
        expected = model(pixel_values).logits
        shuffled = model(pixel_values[:, order]).logits
        assert_close(model(pixel_values[:, order], position_ids=order[None]).logits, expected)
    difference = (shuffled - expected).abs().max()
    assert difference > 1e-3 if matters else difference < 1e-5


def test_order_matters_within_the_window_even_without_positions():
    model = make_model(position_embedding_type="none", attention_window=2)
    pixel_values = make_frames(1, 6)
    with torch.no_grad():
        difference = model(pixel_values).logits - model(pixel_values[:, [5, 0, 3, 1, 4, 2]]).logits
    assert difference.abs().max() > 1e-3


def test_sinusoidal_positions():
    embeddings = make_model(VTNModel, position_embedding_type="sinusoidal").temporal_encoder.embeddings
    table = embeddings.embed_positions(torch.arange(MAX_POSITIONS)[None], torch.zeros(1, 1, WIDTH))[0].double()
    position = torch.arange(MAX_POSITIONS, dtype=torch.float64)[:, None]
    wavelength = 10000 ** (torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)
    assert_close(table[:, 0::2], torch.sin(position / wavelength), atol=1e-5)
    assert_close(table[:, 1::2], torch.cos(position / wavelength), atol=1e-5)


@pytest.mark.parametrize("kind, rows", [("learned", MAX_POSITIONS), ("sinusoidal", 0), ("none", 0)])
def test_only_learned_positions_have_weights(kind, rows):
    weights = dict(make_model(position_embedding_type=kind).named_parameters())
    table = weights.get("vtn.temporal_encoder.embeddings.position_embeddings.weight")
    assert (0 if table is None else len(table)) == rows


# Losses


def loss_cases():
    generator = torch.Generator().manual_seed(5)
    targets = torch.randn(4, 3, generator=generator)
    return [
        (3, None, torch.tensor([0, 2, 1, 1]), nn.functional.cross_entropy),
        (3, "single_label_classification", torch.tensor([0, -100, 1, 1]), nn.functional.cross_entropy),
        (3, None, targets.sigmoid().round(), nn.functional.binary_cross_entropy_with_logits),
        (3, "multi_label_classification", targets.sigmoid(), nn.functional.binary_cross_entropy_with_logits),
        (3, "regression", targets, nn.functional.mse_loss),
        (1, None, targets[:, 0], lambda logits, labels: nn.functional.mse_loss(logits[:, 0], labels)),
    ]


@pytest.mark.parametrize("num_labels, problem_type, labels, torch_loss", loss_cases())
def test_losses_are_those_of_torch(num_labels, problem_type, labels, torch_loss):
    model = make_model(num_labels=num_labels, problem_type=problem_type)
    pixel_values = make_frames(4, 3)
    with torch.no_grad():
        outputs = model(pixel_values, labels=labels)
    assert outputs.logits.shape == (4, num_labels)
    assert_close(outputs.loss, torch_loss(outputs.logits, labels))
    assert outputs.loss > 0.01


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_dtype(dtype):
    classes, several = torch.tensor([0, 2]), torch.tensor([[0, 1, 1], [1, 0, 0]])
    with torch.no_grad():
        for problem_type, labels in (
            (None, classes),
            ("single_label_classification", classes),
            (None, several),
            ("multi_label_classification", several),
            ("regression", several),
        ):
            loss = make_model(problem_type=problem_type)(make_frames(2, 3), labels=labels.to(dtype)).loss
            expected = labels if labels is classes else labels.float()
            assert_close(loss, make_model(problem_type=problem_type)(make_frames(2, 3), labels=expected).loss)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_positions_of_any_integer_dtype(dtype):
    model, positions = make_model(), torch.tensor([[0, 50, 100, 7]])
    with torch.no_grad():
        expected = model(make_frames(1, 4), position_ids=positions).logits
        assert torch.equal(model(make_frames(1, 4), position_ids=positions.to(dtype)).logits, expected)


def test_positions_of_padding_may_be_anything():
    model, mask = make_model(), make_mask(4, 2)
    with torch.no_grad():
        expected = model(make_frames(2, 4), attention_mask=mask).logits
        positions = torch.tensor([[0, 1, 2, 3], [0, 1, -1, -100]])
        assert_close(model(make_frames(2, 4), position_ids=positions, attention_mask=mask).logits, expected)


def test_no_label_takes_part_in_the_loss():
    """As in transformers: the mean of nothing is not a number, a share of a known number of labels is 0."""
    with torch.no_grad():
        labels = torch.tensor([-100, -100])
        assert make_model()(make_frames(2, 3), labels=labels).loss.isnan()
        assert make_model()(make_frames(2, 3), labels=labels, num_items_in_batch=4).loss == 0


def test_num_items_in_batch_is_the_divisor():
    model = make_model()
    pixel_values, labels = make_frames(4, 3), torch.tensor([0, 2, 1, 1])
    with torch.no_grad():
        mean = model(pixel_values, labels=labels).loss
        halves = [
            model(pixel_values[part], labels=labels[part], num_items_in_batch=torch.tensor(4)).loss
            for part in (slice(0, 1), slice(1, 4))
        ]
        assert_close(model(pixel_values, labels=labels, num_items_in_batch=16).loss, mean / 4)
    assert_close(sum(halves), mean)


# Gradients


def compute_gradients(model, attention_mask=None, seed=6):
    torch.manual_seed(seed)
    model.zero_grad()
    model(make_frames(2, 6), attention_mask=attention_mask, labels=torch.tensor([0, 2])).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("fields", [{}, {"hidden_size": 24}, {"position_embedding_type": "none"}], ids=str)
def test_every_parameter_gets_a_gradient(fields, attention):
    model = make_model(attention=attention, **fields).train()
    gradients = compute_gradients(model)
    assert len(gradients) == len(list(model.parameters()))
    # A bias of the keys moves all scores of a query alike, which softmax does not see. And the head reads the class
    # token alone, so what the frames gather in the last layer comes to nothing.
    last_layer = tuple(f"layers.1.attention.{name}." for name in ("query", "key", "value"))
    expected_zero = {
        name
        for name in gradients
        if name.endswith(("k_proj.bias", "key.bias", "key_global.bias"))
        or name.removeprefix("vtn.temporal_encoder.").startswith(last_layer)
    }
    assert {name for name, gradient in gradients.items() if gradient.abs().max() < 1e-6} == expected_zero


@pytest.mark.parametrize("dropout", [True, False], ids=["dropout", "no_dropout"])
@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not_reentrant"])
def test_gradient_checkpointing_changes_nothing(use_reentrant, dropout):
    model = make_model(**({} if dropout else NO_DROPOUT)).train()
    expected = compute_gradients(model, make_mask(6, 4))
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    calls = []
    model.vtn.temporal_encoder.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    gradients = compute_gradients(model, make_mask(6, 4))
    assert len(calls) == 2, "the layer was not computed again"
    assert gradients.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name])


# Bad input


def bad_inputs():
    pixel_values, features = make_frames(2, 4), torch.zeros(2, 4, WIDTH)
    return {
        "neither": ({}, "exactly one of `pixel_values` and `inputs_embeds`, got neither"),
        "both": ({"pixel_values": pixel_values, "inputs_embeds": features}, "exactly one .* got both"),
        "no_frames": ({"pixel_values": pixel_values[:, :0]}, r"no frames.*\(2, 0, 3, 8, 8\)"),
        "no_videos": ({"pixel_values": pixel_values[:0]}, r"no frames.*\(0, 4, 3, 8, 8\)"),
        "no_features": ({"inputs_embeds": features[:, :0]}, r"at least one frame, got \(2, 0, 16\)"),
        "rank_4": ({"pixel_values": pixel_values[0]}, r"5 dimensions.*\(4, 3, 8, 8\)"),
        "rank_6": ({"pixel_values": pixel_values[None]}, r"5 dimensions.*\(1, 2, 4, 3, 8, 8\)"),
        "channels": ({"pixel_values": pixel_values[:, :, :1]}, r"3 channels.*\(2, 4, 1, 8, 8\)"),
        "channels_second": ({"pixel_values": pixel_values.transpose(1, 2)}, r"3 channels.*\(2, 3, 4, 8, 8\)"),
        "positions_of_another_length": (
            {"pixel_values": pixel_values, "position_ids": torch.arange(5).repeat(2, 1)},
            r"`position_ids` has the shape \(2, 5\), but the input has \(2, 4\)",
        ),
        "positions_of_one_video": (
            {"pixel_values": pixel_values, "position_ids": torch.arange(4)},
            r"`position_ids` has the shape \(4,\), but the input has \(2, 4\)",
        ),
        "mask_of_another_length": (
            {"pixel_values": pixel_values, "attention_mask": torch.ones(2, 3)},
            r"`attention_mask` has the shape \(2, 3\), but the input has \(2, 4\)",
        ),
        "mask_of_another_length_with_features": (
            {"inputs_embeds": features, "attention_mask": torch.ones(2, 5)},
            r"`attention_mask` has the shape \(2, 5\), but the input has \(2, 4\)",
        ),
        "mask_without_frames": (
            {"pixel_values": pixel_values, "attention_mask": make_mask(4, 0)},
            r"`attention_mask` leaves a video without frames: \[4, 0\]",
        ),
        "mask_without_frames_with_features": (
            {"inputs_embeds": features, "attention_mask": make_mask(4, 0)},
            r"`attention_mask` leaves a video without frames: \[4, 0\]",
        ),
        "features_of_another_width": ({"inputs_embeds": features[..., :12]}, r"\(batch, frames, 16\).*\(2, 4, 12\)"),
        "features_of_one_video": ({"inputs_embeds": features[0]}, r"\(batch, frames, 16\).*\(4, 16\)"),
        "mask_of_other_numbers": (
            {"pixel_values": pixel_values, "attention_mask": torch.tensor([[1, 2, 1, 0], [1, 1, -3, 1]])},
            r"`attention_mask` must hold 0 and 1 only, got \[-3, 2\]",
        ),
        "mask_of_weights": (
            {"inputs_embeds": features, "attention_mask": torch.full((2, 4), 0.5)},
            r"`attention_mask` must hold 0 and 1 only, got \[0.5\]",
        ),
        "mask_that_is_added": (
            {"pixel_values": pixel_values, "attention_mask": torch.tensor([[0.0, 0.0, 0.0, -torch.inf]] * 2)},
            r"`attention_mask` must hold 0 and 1 only, got \[-inf\]",
        ),
        "positions_of_another_dtype": (
            {"pixel_values": pixel_values, "position_ids": torch.rand(2, 4)},
            "`position_ids` must be integers, the numbers of the frames, got torch.float32",
        ),
        "positions_that_are_a_mask": (
            {"pixel_values": pixel_values, "position_ids": torch.ones(2, 4, dtype=torch.bool)},
            "`position_ids` must be integers, the numbers of the frames, got torch.bool",
        ),
        "positions_below_zero": (
            {"pixel_values": pixel_values, "position_ids": torch.tensor([[0, 1, 2, 3], [-2, -1, 0, 1]])},
            r"`position_ids` must not be negative, got \[-2, -1\]",
        ),
        "label_too_large": (
            {"pixel_values": pixel_values, "labels": torch.tensor([1, 3])},
            r"Labels must be in \[0, 3\), got \[3\]",
        ),
        "label_negative": (
            {"pixel_values": pixel_values, "labels": torch.tensor([-1, 7])},
            r"Labels must be in \[0, 3\), got \[-1, 7\]",
        ),
    }


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_refused_with_the_numbers(case, attention):
    inputs, message = bad_inputs()[case]
    with pytest.raises(ValueError, match=message):
        make_model(attention=attention)(**inputs)


# Saving and loading


@pytest.fixture
def checkpoint(tmp_path):
    """A classification model and where it is saved."""
    model = make_model(hidden_size=24)
    model.save_pretrained(tmp_path)
    return model, tmp_path


@pytest.mark.parametrize("auto_class", [VTNForVideoClassification, AutoModelForVideoClassification])
def test_save_and_load(checkpoint, auto_class):
    model, path = checkpoint
    loaded, info = auto_class.from_pretrained(path, output_loading_info=True)
    assert type(loaded) is VTNForVideoClassification and not loaded.training
    assert not any(info.values()), info
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    pixel_values, mask = make_frames(2, 5), make_mask(5, 3)
    with torch.no_grad():
        assert torch.equal(
            loaded(pixel_values, attention_mask=mask).logits, model(pixel_values, attention_mask=mask).logits
        )
    assert AutoConfig.from_pretrained(path).to_diff_dict() == model.config.to_diff_dict()


@pytest.mark.parametrize("auto_class", [VTNModel, AutoModel])
def test_model_without_its_head(checkpoint, auto_class, tmp_path):
    model, path = checkpoint
    base, info = auto_class.from_pretrained(path, output_loading_info=True)
    assert type(base) is VTNModel and not info["missing_keys"]
    pixel_values = make_frames(2, 5)
    with torch.no_grad():
        assert torch.equal(base(pixel_values).last_hidden_state, model.vtn(pixel_values).last_hidden_state)

    base.save_pretrained(tmp_path / "base")
    loaded, info = VTNForVideoClassification.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert info["missing_keys"] == {name for name in model.state_dict() if name.startswith("classifier.")}
    with torch.no_grad():
        assert torch.equal(loaded.vtn(pixel_values).last_hidden_state, base(pixel_values).last_hidden_state)


def test_another_number_of_labels_starts_a_fresh_last_layer(checkpoint):
    model, path = checkpoint

    def load():
        torch.manual_seed(8)
        return VTNForVideoClassification.from_pretrained(path, num_labels=50, ignore_mismatched_sizes=True)

    loaded = load()
    fresh = loaded.classifier.out_proj
    assert fresh.weight.shape == (50, 24) and fresh.bias.tolist() == [0] * 50
    assert fresh.weight.std().item() == pytest.approx(loaded.config.initializer_range, rel=0.2)
    assert torch.equal(fresh.weight, load().classifier.out_proj.weight)
    assert torch.equal(loaded.classifier.dense.weight, model.classifier.dense.weight)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        VTNForVideoClassification.from_pretrained(path, num_labels=50)


def test_weights_missing_from_a_checkpoint_are_initialised(checkpoint, tmp_path):
    model, _ = checkpoint
    torch.manual_seed(9)
    fresh = VTNForVideoClassification(model.config).state_dict()
    weights = model.state_dict()
    # One of the backbone's, which has its own rules, is enough to have something to load.
    kept = {name: weight for name, weight in weights.items() if name == "vtn.backbone.embeddings.cls_token"}
    model.save_pretrained(tmp_path / "few", state_dict=kept)
    previous = logging.get_verbosity()
    logging.set_verbosity_error()
    loaded, info = VTNForVideoClassification.from_pretrained(tmp_path / "few", output_loading_info=True)
    logging.set_verbosity(previous)
    assert info["missing_keys"] == weights.keys() - kept.keys()
    for name, weight in loaded.state_dict().items():
        if name not in kept:
            assert weight.isfinite().all(), name
            assert weight.std(correction=0).item() == pytest.approx(fresh[name].std(correction=0).item(), rel=0.6), (
                name
            )


def test_fresh_weights():
    torch.manual_seed(10)
    model = VTNForVideoClassification(make_config(initializer_range=0.05, hidden_size=64))
    for name, weight in model.named_parameters():
        if name.startswith("vtn.backbone."):
            continue
        if "norm" in name:
            assert (weight == float(name.endswith("weight"))).all(), name
        elif name.endswith("bias"):
            assert (weight == 0).all(), name
        else:
            assert weight.std().item() == pytest.approx(0.05, rel=0.25), name
    assert not model.vtn.temporal_encoder.embeddings.cls_token.isnan().any()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, kind, attention):
    model = make_model(attention=attention, position_embedding_type=kind)
    pixel_values, mask = make_frames(2, 70), make_mask(70, 3)
    with torch.no_grad():
        expected = model(pixel_values, attention_mask=mask).logits
        outputs = copy.deepcopy(model).to(dtype)(
            pixel_values.to(dtype), attention_mask=mask, labels=torch.tensor([0, 1])
        )
    assert outputs.logits.dtype == dtype
    assert outputs.logits.isfinite().all() and outputs.loss.isfinite()
    assert_close(outputs.logits.float(), expected, atol=0.15 if dtype == torch.bfloat16 else 0.02)


def test_half_precision_checkpoint_stays_half(checkpoint, tmp_path):
    model, _ = checkpoint
    copy.deepcopy(model).half().save_pretrained(tmp_path / "half")
    loaded = VTNForVideoClassification.from_pretrained(tmp_path / "half")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float16}
    loaded = VTNForVideoClassification.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
