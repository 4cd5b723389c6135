"""The class token alone is what the whole backbone gives; what is unusual is in test_optimize.py."""

import pytest
import torch
from transformers import AutoConfig

from vtn_hf.backbone_vtn import encode, make_backbone
from vtn_hf.optimization import share_weights
from vtn_hf.optimization.class_token import ClassTokenOnly, read_class_token_only
from vtn_hf.optimization.trial import Trial


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
    "dinov3": ("dinov3_vit", FIELDS | {"num_register_tokens": 2}),
    "dinov3_gated": ("dinov3_vit", FIELDS | {"use_gated_mlp": True, "layerscale_value": 0.5, "drop_path_rate": 0.1}),
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


def replace_last_layer(backbone):
    """A copy, as `optimize` makes it."""
    fast = share_weights(backbone)
    with Trial(fast).running() as trial:
        read_class_token_only(trial, fast)
    return fast


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_equals_the_whole_backbone_forwards_and_backwards(name, attention):
    backbone = make_random_backbone(name, attention)
    fast, frames = replace_last_layer(backbone), make_frames()
    assert any(isinstance(module, ClassTokenOnly) for module in fast.modules())
    expected, gradients = encode(backbone, frames), []
    for each in (backbone, fast):
        each.zero_grad()
        class_token = encode(each, frames)
        torch.testing.assert_close(class_token, expected, atol=1e-5, rtol=1e-5)
        class_token.square().sum().backward()
        gradients.append(
            {name: weight.grad.clone() for name, weight in each.named_parameters() if weight.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-3, rtol=1e-4)


def test_patches_pass_no_feed_forward_network_in_the_last_layer():
    fast, rows = replace_last_layer(make_random_backbone()), []
    for layer in fast.layers:
        layer.mlp.fc1.register_forward_hook(lambda module, args, output: rows.append(output.shape[1]))
    encode(fast, make_frames())
    assert rows == [17, 1]


@pytest.mark.parametrize(
    "model_type, fields",
    [("beit", FIELDS), ("siglip_vision_model", FIELDS), ("resnet", {"hidden_sizes": [8, 8], "depths": [1, 1]})],
)
def test_other_backbones_stay_as_they_are(model_type, fields):
    fast = replace_last_layer(make_backbone(AutoConfig.for_model(model_type, **fields)))
    assert not any(isinstance(module, ClassTokenOnly) for module in fast.modules())


def test_compiles_into_one_graph():
    fast = replace_last_layer(make_random_backbone())
    compiled = torch.compile(encode, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(fast, make_frames()), encode(fast, make_frames()))
