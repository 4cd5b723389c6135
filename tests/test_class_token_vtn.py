"""The class token alone is what the whole backbone gives, and anything unusual takes the backbone's own way."""

import pytest
import torch
from transformers import AutoConfig

from vtn_hf.backbone_vtn import encode_frames, make_backbone
from vtn_hf.class_token_vtn import can_encode_class_token, encode_class_token


FIELDS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
DINOV2 = {name: value for name, value in FIELDS.items() if name != "intermediate_size"} | {"mlp_ratio": 2}
FAMILIES = {
    "vit": ("vit", FIELDS),
    "vit_one_layer": ("vit", FIELDS | {"num_hidden_layers": 1}),
    "vit_no_bias": ("vit", FIELDS | {"qkv_bias": False}),
    "deit": ("deit", FIELDS),
    "dinov2": ("dinov2", DINOV2),
    "dinov2_swiglu": ("dinov2", DINOV2 | {"use_swiglu_ffn": True, "layerscale_value": 0.5}),
    "dinov2_with_registers": ("dinov2_with_registers", DINOV2 | {"num_register_tokens": 2}),
    "clip": ("clip_vision_model", FIELDS),
}


def make_random_backbone(name="vit", attention="sdpa"):
    torch.manual_seed(0)
    model_type, fields = FAMILIES[name]
    backbone = make_backbone(AutoConfig.for_model(model_type, **fields))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    backbone.set_attn_implementation(attention)
    return backbone.eval()


def make_frames(num_frames=4):
    return torch.randn(num_frames, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def read_class_token(backbone, frames):
    outputs = backbone(pixel_values=frames)
    pooled = outputs.pooler_output
    return outputs.last_hidden_state[:, 0] if pooled is None else pooled


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_equals_the_whole_backbone_forwards_and_backwards(name, attention):
    backbone = make_random_backbone(name, attention)
    frames = make_frames()
    assert can_encode_class_token(backbone)
    gradients = []
    for function in (read_class_token, encode_class_token):
        backbone.zero_grad()
        class_token = function(backbone, frames)
        torch.testing.assert_close(class_token, read_class_token(backbone, frames), atol=1e-5, rtol=1e-5)
        class_token.square().sum().backward()
        gradients.append({name: weight.grad for name, weight in backbone.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-3, rtol=1e-4)


def test_patches_pass_no_feed_forward_network_in_the_last_layer():
    backbone = make_random_backbone()
    rows = []
    for layer in backbone.layers:
        layer.mlp.fc1.register_forward_hook(lambda module, args, output: rows.append(output.shape[1]))
    encode_class_token(backbone, make_frames())
    assert rows == [17, 1]


@pytest.mark.parametrize("listener", ["backbone", "last_layer", "attention", "replaced_forward"])
def test_whoever_listens_hears_everything(listener):
    backbone = make_random_backbone()
    expected = encode_frames(backbone, make_frames())
    heard = []
    if listener == "replaced_forward":
        forward = backbone.forward
        backbone.forward = lambda **kwargs: heard.append(1) or forward(**kwargs)
    else:
        modules = {"backbone": backbone, "last_layer": backbone.layers[-1], "attention": backbone.layers[-1].attention}
        modules[listener].register_forward_hook(lambda *_: heard.append(1))
    assert not can_encode_class_token(backbone)
    torch.testing.assert_close(encode_frames(backbone, make_frames()), expected)
    assert heard


@pytest.mark.parametrize(
    "model_type, fields",
    [("beit", FIELDS), ("siglip_vision_model", FIELDS), ("resnet", {"hidden_sizes": [8, 8], "depths": [1, 1]})],
)
def test_other_backbones_run_as_they_are(model_type, fields):
    assert not can_encode_class_token(make_backbone(AutoConfig.for_model(model_type, **fields)))


def test_another_release_with_other_names_runs_as_it_is():
    backbone = make_random_backbone()
    expected = encode_frames(backbone, make_frames())
    backbone.layers[-1].attention.query = backbone.layers[-1].attention.q_proj
    del backbone.layers[-1].attention.q_proj
    assert not can_encode_class_token(backbone)
    backbone.layers[-1].attention.q_proj = backbone.layers[-1].attention.query
    torch.testing.assert_close(encode_frames(backbone, make_frames()), expected)


def test_compiles_into_one_graph():
    backbone = make_random_backbone()
    compiled = torch.compile(encode_class_token, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(backbone, make_frames()), encode_class_token(backbone, make_frames()))
