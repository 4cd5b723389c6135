"""More than one vector per frame: against plain attention with a mask over all tokens, and the rule for the grid."""

import pytest
import torch
from accelerate import infer_auto_device_map
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from tests.test_backbones import BACKBONES, make_backbone_config, make_frames, randomize, skip_without_timm
from vtn_hf import VTNConfig, VTNForVideoClassification, VTNModel, optimize
from vtn_hf.backbone_vtn import count_prefix_tokens, encode, make_backbone


pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
WIDTH = 16
RESNET = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, WIDTH], "depths": [1, 1]}
FIELDS = {
    "backbone_config": RESNET,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "attention_window": [4, 6],
    "max_position_embeddings": 40,
    "num_labels": 3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}


def make_model(attention="sdpa", model_class=VTNForVideoClassification, **fields):
    torch.manual_seed(0)
    model = model_class(VTNConfig(**FIELDS | {"frame_grid": 2} | fields)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.set_attn_implementation({"": attention})
    return model


def make_inputs(num_frames, frame_grid=2, masked=True):
    generator = torch.Generator().manual_seed(num_frames)
    features = torch.randn(2, num_frames, 1 + frame_grid**2, WIDTH, generator=generator)
    mask = torch.ones(2, num_frames, dtype=torch.long)
    mask[1, (num_frames + 1) // 2 :] = 0
    return {"inputs_embeds": features, "attention_mask": mask} if masked else {"inputs_embeds": features}


def split_heads(states):
    return states.unflatten(-1, (2, -1)).transpose(1, 2)


def attend_plainly(attention, states, frame_of, window, is_key):
    """All tokens against all, with one mask: what a token of a frame, -1 for the class token, may look at."""
    local, whole = (
        [split_heads(getattr(attention, f"{name}{suffix}")(states)) for name in ("query", "key", "value")]
        for suffix in ("", "_global")
    )
    is_near = (frame_of[:, None] - frame_of).abs() <= window // 2
    may_attend = is_near | (frame_of == -1)
    may_attend[0] = True
    may_attend = may_attend & is_key[:, None, None]
    scores = [(query @ key.mT) * query.shape[-1] ** -0.5 for query, key, _ in (local, whole)]
    local_weights, global_weights = (score.masked_fill(~may_attend, -torch.inf).softmax(-1) for score in scores)
    attended = torch.cat([(global_weights @ whole[2])[:, :, :1], (local_weights @ local[2])[:, :, 1:]], dim=2)
    return attention.output(attended.transpose(1, 2).flatten(2))


def compute_plainly(vtn, inputs_embeds, attention_mask=None):
    """The hidden states of the last layer, `(batch, 1 + frames * tokens, features)`."""
    batch_size, num_frames, num_tokens, _ = inputs_embeds.shape
    mask = torch.ones(batch_size, num_frames) if attention_mask is None else attention_mask
    encoder, embeddings = vtn.temporal_encoder, vtn.temporal_encoder.embeddings
    frame_of = torch.arange(num_frames).repeat_interleave(num_tokens)
    rows = torch.where(mask == 1, torch.arange(num_frames) % 38, 39)
    frames = vtn.projection(inputs_embeds * mask[:, :, None, None])
    frames = frames + embeddings.place_embeddings.weight + embeddings.position_embeddings.weight[rows][:, :, None]
    class_token = embeddings.cls_token + embeddings.position_embeddings.weight[38]
    types = embeddings.token_type_embeddings.weight
    tokens = [class_token.expand(batch_size, -1, -1) + types[1], frames.flatten(1, 2) + types[0]]
    states = embeddings.norm(torch.cat(tokens, dim=1))
    is_key = nn.functional.pad(mask.bool().repeat_interleave(num_tokens, dim=1), (1, 0), value=True)
    frame_of = nn.functional.pad(frame_of, (1, 0), value=-1)
    for layer in encoder.layers:
        attended = attend_plainly(layer.attention, states, frame_of, layer.attention.window, is_key)
        states = layer.attention_norm(states + attended)
        states = layer.mlp_norm(states + layer.mlp(states))
    return states, is_key


def compute_gradients(model, states, is_key):
    """Of all that is no padding, with a weight of its own for each number."""
    model.zero_grad()
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
    (states * weights * is_key[..., None]).sum().backward()
    named = model.temporal_encoder.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named}


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("frame_grid", [1, 2, 4])
@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("num_frames", [1, 2, 33, 100])
def test_plain_attention_over_all_tokens(num_frames, attention, frame_grid, masked):
    if attention == "flex_attention" and (frame_grid == 1 or num_frames not in (1, 33)):
        pytest.skip("without its kernel it takes long")
    model = make_model(attention, VTNModel, frame_grid=frame_grid)
    inputs = make_inputs(num_frames, frame_grid, masked)
    expected, is_key = compute_plainly(model, **inputs)
    can_train = attention != "flex_attention"  # torch has no backward pass for it on CPUs
    with torch.set_grad_enabled(can_train):
        states = model(**inputs).last_hidden_state
    assert_close(states * is_key[..., None], expected * is_key[..., None], atol=1e-5, rtol=0)
    if not can_train:
        return
    theirs = compute_gradients(model, expected, is_key)
    for name, gradient in compute_gradients(model, states, is_key).items():
        scale = theirs[name].abs().max().clamp(min=1.0)
        assert_close(gradient / scale, theirs[name] / scale, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("num_frames", [500, 2000])
def test_plain_attention_in_long_videos(num_frames):
    """In slabs, which training computes again."""
    test_plain_attention_over_all_tokens(num_frames, "sdpa", 1, True)


def test_slabs_of_several_tokens_change_nothing(monkeypatch):
    model, inputs = make_model(model_class=VTNModel), make_inputs(70)
    expected, is_key = compute_plainly(model, **inputs)
    theirs = compute_gradients(model, expected, is_key)
    sizes = {"BLOCK_SIZE": 8, "MAX_FRAMES_IN_ONE_BLOCK": 8, "SLAB_SIZE": 30, "MIN_FRAMES_TO_RECOMPUTE": 9}
    for name, value in sizes.items():
        monkeypatch.setattr(f"vtn_hf.temporal_encoder_vtn.{name}", value)
    states = model(**inputs).last_hidden_state
    assert_close(states * is_key[..., None], expected * is_key[..., None], atol=1e-5, rtol=0)
    for name, gradient in compute_gradients(model, states, is_key).items():
        assert_close(gradient, theirs[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"frame_pooling": "attention"}], ids=["grid", "pooling"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_changes_nothing(attention, fields):
    model, inputs = make_model(attention, **fields), make_inputs(9)
    with torch.no_grad():
        alone = [model(inputs_embeds=inputs["inputs_embeds"][[row], :n]).logits[0] for row, n in enumerate((9, 5))]
        inputs["inputs_embeds"][1, 5:] = torch.nan
        assert_close(model(**inputs).logits, torch.stack(alone), atol=1e-5, rtol=1e-5)


def test_positions_count_frames():
    model, inputs, positions = make_model(), make_inputs(6, masked=False), torch.arange(6).repeat(2, 1)
    with torch.no_grad():
        expected = model(**inputs).logits
        assert torch.equal(model(**inputs, position_ids=positions).logits, expected)
        wrapped = model(**inputs, position_ids=38 + positions).logits
        spread = make_model(position_overflow="spread")(**inputs, position_ids=38 + positions).logits
    assert_close(wrapped, expected)
    assert (spread - expected).abs().max() > 1e-3


@pytest.mark.parametrize("fields", [{}, {"frame_pooling": "attention"}], ids=["grid", "pooling"])
def test_place_matters(fields):
    model, features = make_model(**fields), make_inputs(6, masked=False)["inputs_embeds"]
    with torch.no_grad():
        moved = model(inputs_embeds=features[:, :, [0, 2, 1, 3, 4]]).logits
        assert (moved - model(inputs_embeds=features).logits).abs().max() > 1e-3


def test_one_compiled_graph_serves_all_lengths():
    encoder = make_model(model_class=VTNModel).temporal_encoder
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(encoder, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    with torch.no_grad():
        for num_frames in (70, 65, 64, 16, 2):
            inputs = torch.randn(2, num_frames, 5, WIDTH), torch.arange(num_frames)[None], None, True
            assert_close(compiled(*inputs), encoder(*inputs), atol=1e-5, rtol=1e-5)
            counts.append(counter.frame_count)
    assert counts == counts[:1] * 5


def test_export_with_any_number_of_videos_and_frames():
    encoder = make_model(model_class=VTNModel).temporal_encoder
    dimensions = {0: torch.export.Dim("videos", max=64), 1: torch.export.Dim("frames", max=10_000)}

    def make(num_videos, num_frames):
        mask = torch.ones(num_videos, num_frames, dtype=torch.long)
        mask[0, 1 + num_frames // 2 :] = 0
        positions = torch.arange(num_frames).expand(num_videos, -1)
        return torch.randn(num_videos, num_frames, 5, WIDTH), positions, mask

    exported = torch.export.export(encoder, make(2, 70), dynamic_shapes=(dimensions,) * 3).module()
    with torch.no_grad():
        for shape in ((2, 70), (1, 1), (3, 16), (1, 300)):
            inputs = make(*shape)
            assert_close(exported(*inputs), encoder(*inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fields", [{"frame_grid": None}, {}, {"frame_pooling": "attention"}])
def test_export_from_pixels(fields):
    backbone = make_backbone_config("dinov2_with_registers")
    torch.manual_seed(0)
    model = VTNForVideoClassification(VTNConfig(**FIELDS | {"frame_grid": 2, "backbone_config": backbone} | fields))
    dimensions = {0: torch.export.Dim("videos", max=64), 1: torch.export.Dim("frames", max=1000)}
    inputs = {"pixel_values": make_frames(2, 5)}
    exported = torch.export.export(model.eval(), (), inputs, dynamic_shapes={"pixel_values": dimensions}).module()
    pixel_values = make_frames(1, 9)
    assert_close(exported(pixel_values=pixel_values).logits, model(pixel_values).logits, atol=1e-5, rtol=1e-5)


# What comes in and goes out


@pytest.mark.parametrize("fields", [{}, {"frame_pooling": "attention"}], ids=["grid", "pooling"])
def test_outputs(fields):
    model = make_model("eager", **fields).train()
    pixel_values = torch.randn(2, 7, 3, 32, 32)
    mask = make_inputs(7)["attention_mask"]
    features = model.vtn.get_frame_features(pixel_values, mask)
    assert features.shape == (2, 7, 5, WIDTH) and not features[mask == 0].any()
    outputs = model.eval()(inputs_embeds=features, attention_mask=mask, output_attentions=True, labels=mask[:, 0])
    num_tokens = 1 + 7 * (5 if not fields else 1)
    assert [weights.shape for weights in outputs.global_attentions] == [(2, 2, num_tokens)] * 2
    if fields:
        (weights,) = outputs.pooling_attentions
        assert_close(weights.sum(-1), torch.ones(2, 7, 2))
    else:
        assert outputs.pooling_attentions is None
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("fields", [{}, {"frame_pooling": "attention"}], ids=["grid", "pooling"])
def test_save_and_load(fields, tmp_path):
    model = make_model(**fields)
    model.save_pretrained(tmp_path)
    loaded, info = VTNForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        assert torch.equal(loaded(**make_inputs(5)).logits, model(**make_inputs(5)).logits)


def test_pooling_stays_on_one_device():
    model = make_model(frame_pooling="attention")
    size = sum(parameter.nbytes for parameter in model.vtn.backbone.parameters())
    for more in range(0, 20_000, 500):
        memory = {"cpu": size + more, "disk": 10**9}
        devices = infer_auto_device_map(model, memory, no_split_module_classes=model._no_split_modules)
        assert not [name for name in devices if name.startswith("vtn.frame_pooling.")]


def test_one_vector_has_no_other_weights():
    names = VTNForVideoClassification(VTNConfig(**FIELDS)).state_dict().keys()
    assert not any("place" in name or "pooling" in name for name in names)
    assert make_model().state_dict().keys() - names == {"vtn.temporal_encoder.embeddings.place_embeddings.weight"}


@pytest.mark.parametrize(
    "shape, frame_grid, message",
    [
        ((2, 4, WIDTH), 2, r"\(batch, frames, 5, 16\) .* got \(2, 4, 16\)"),
        ((2, 4, 10, WIDTH), 2, r"\(batch, frames, 5, 16\) .* got \(2, 4, 10, 16\)"),
        ((2, 0, 5, WIDTH), 2, "at least one frame"),
        ((2, 4, 5, WIDTH), None, r"\(batch, frames, 16\) .* got \(2, 4, 5, 16\)"),
    ],
)
def test_features_of_another_grid_are_refused(shape, frame_grid, message):
    with pytest.raises(ValueError, match=message):
        make_model(frame_grid=frame_grid)(inputs_embeds=torch.zeros(shape))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"frame_grid": 0}, "`frame_grid` must be at least 1, got 0"),
        ({"frame_pooling": "mean"}, "`frame_pooling` must be one of attention, got 'mean'"),
        ({"frame_grid": None, "frame_pooling": "attention"}, "`frame_pooling` .*'attention'.* needs a `frame_grid`"),
    ],
)
def test_settings_that_cannot_be(fields, message):
    with pytest.raises(Exception, match=message):
        VTNConfig(**FIELDS | {"frame_grid": 2} | fields)


# The rule for the grid

# Tokens before the patches
PREFIX = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2_with_registers": 3, "dinov3_vit": 3, "dinov3_convnext": 1}
PREFIX |= {"clip": 1, "beit": 1, "pvt": 1, "timm_vit": 1, "radio": 10}
# Families whose pooled vector has other features than their map.
OTHER_WIDTH = ("timm_mobilenet",)


@pytest.mark.parametrize("family", BACKBONES)
def test_grid_of_every_family(family):
    skip_without_timm(family)
    torch.manual_seed(0)
    backbone = randomize(make_backbone(make_backbone_config(family))).eval()
    frames = make_frames(1, 3, size=32 if "image_size" in BACKBONES[family][1] or family == "timm_vit" else 64)[0]
    assert count_prefix_tokens(backbone) == PREFIX.get(family, 0)
    with torch.no_grad():
        if family in OTHER_WIDTH:
            with pytest.raises(ValueError, match="places with 288 features; .* the 1024 features of the pooled"):
                encode(backbone, frames, 1)
            return
        tokens = encode(backbone, frames, 1)
        assert_close(tokens[:, 0], encode(backbone, frames), atol=1e-5, rtol=1e-5)
        states = backbone(pixel_values=frames).last_hidden_state if family != "siglip2" else None
    assert tokens.shape == (3, 2, BACKBONES[family][2])
    if states is not None:
        patches = states[:, PREFIX.get(family, 0) :]
        mean = states.mean(dim=(2, 3)) if states.ndim == 4 else patches.mean(dim=1)
        assert_close(tokens[:, 1], mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["vit", "dinov2_with_registers", "clip", "siglip", "siglip2", "vit_mae"])
def test_places_go_row_by_row(family):
    """What changes in a corner of the picture changes most in that corner of the grid."""
    if family == "vit_mae":
        config = make_backbone_config("vit").to_dict() | {"model_type": "vit_mae"}
        backbone = make_backbone(VTNConfig(backbone_config=config, num_attention_heads=1).backbone_config).eval()
    else:
        torch.manual_seed(0)
        backbone = make_backbone(make_backbone_config(family)).eval()
    frames = make_frames(1, 1, size=32)[0]
    for place, (rows, columns) in enumerate(((slice(16), slice(16)), (slice(16), slice(16, 32)))):
        changed = frames.clone()
        changed[:, :, rows, columns] += 2.0
        with torch.no_grad():
            difference = (encode(backbone, changed, 2) - encode(backbone, frames, 2))[0, 1:].norm(dim=-1)
        assert difference.argmax() == place


@pytest.mark.parametrize("family, size", [("dinov2", (31, 72)), ("swin", (42, 70))])
def test_frames_that_are_not_square(family, size):
    """Nor as large as their patches together: DINOv2 leaves a rest out, Swin fills it up."""
    torch.manual_seed(0)
    backbone = make_backbone(make_backbone_config(family)).eval()
    frames = torch.randn(1, 3, *size)
    changed = frames.clone()
    changed[:, :, : size[0] // 2, size[1] // 2 :] += 2.0
    with torch.no_grad():
        difference = (encode(backbone, changed, 2) - encode(backbone, frames, 2))[0, 1:].norm(dim=-1)
    assert difference.shape == (4,) and difference.argmax() == 1


def test_tokens_that_are_no_places():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    yolos = {"model_type": "yolos", "image_size": [64, 64], "patch_size": 16, "num_detection_tokens": 4, **sizes}
    backbone = make_backbone(VTNConfig(backbone_config=yolos).backbone_config).eval()
    with pytest.raises(ValueError, match="YolosModel has no grid of features: 20 tokens of a frame of 64 x 64 pixels"):
        encode(backbone, torch.randn(1, 3, 64, 64), 2)


def test_channels_come_first_or_last():
    skip_without_timm("timm_vit")
    fields = {"img_size": 64, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2}
    config = {"model_type": "timm_wrapper", "architecture": "swin_tiny_patch4_window7_224", "model_args": fields}
    backbone = make_backbone(VTNConfig(backbone_config=config).backbone_config).eval()
    frames = make_frames(1, 2, size=64)[0]
    with torch.no_grad():
        states = backbone(pixel_values=frames).last_hidden_state
        assert states.shape == (2, 8, 8, 16)
        assert_close(encode(backbone, frames, 1)[:, 1], states.mean(dim=(1, 2)))


def test_backbones_that_mix_frames_are_refused():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "pixtral", "image_size": 32, "patch_size": 16, **sizes}
    backbone = make_backbone(VTNConfig(backbone_config=config).backbone_config).eval()
    with pytest.raises(ValueError, match="PixtralVisionModel is no backbone: of 3 frames it gives 1 vector"):
        encode(backbone, make_frames(1, 3)[0])


def test_grid_finer_than_the_map():
    model = make_model(frame_grid=5)
    with pytest.raises(ValueError, match="`frame_grid` is 5, but ResNetModel gives a map of 4 x 4 places"):
        model(torch.randn(1, 2, 3, 32, 32))


def test_the_last_layer_of_the_backbone_is_whole_where_patches_are_read():
    torch.manual_seed(0)
    vit = make_backbone_config("vit")
    for fields in ({}, {"frame_grid": 2}):
        model = VTNForVideoClassification(VTNConfig(**FIELDS | {"backbone_config": vit} | fields)).eval()
        with torch.no_grad():
            pixel_values = make_frames()
            assert_close(optimize(model)(pixel_values).logits, model(pixel_values).logits, atol=1e-5, rtol=1e-5)
