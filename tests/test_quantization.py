"""Backbones in int8: near the exact ones, trained and saved as they were."""

import copy
import time

import pytest
import torch
from test_backbones import make_frames, make_model
from tiny_models import make_vit_vtn
from torch import nn

from vtn_hf import optimize
from vtn_hf.optimization.quantization import Int8, measure_quantization


@pytest.fixture(scope="module")
def vit():
    return make_model("vit").eval()


def get_features(model):
    with torch.no_grad():
        return model.vtn.get_frame_features(make_frames()).flatten(0, 1)


@pytest.mark.parametrize("family", ["vit", "convnext"])
def test_features_are_near(family, vit):
    model = vit if family == "vit" else make_model(family).eval()
    fast = optimize(model, int8=True)
    layers = [module for module in model.vtn.backbone.modules() if type(module) is nn.Linear]
    assert sum(isinstance(module, Int8) for module in fast.modules()) == len(layers) > 0
    assert not any(isinstance(module, Int8) for module in fast.vtn.temporal_encoder.modules())
    features, expected = get_features(fast), get_features(model)
    assert not torch.equal(features, expected)
    assert torch.cosine_similarity(features, expected).min() > 0.99
    assert fast.state_dict().keys() == model.state_dict().keys()


def test_other_weights_are_quantised_again(vit):
    model = copy.deepcopy(vit)
    fast = optimize(model, int8=True)
    before = get_features(fast)
    with torch.no_grad():
        model.vtn.backbone.layers[0].mlp.fc1.weight.mul_(-1)
    assert torch.equal(get_features(fast), get_features(optimize(model, int8=True)))
    assert not torch.equal(get_features(fast), before)


def test_gradients_are_those_of_the_exact_weights(vit):
    fast, gradients = optimize(vit, int8=True), []
    for model in (vit, fast):
        model.zero_grad()
        model(make_frames(), labels=torch.tensor([0, 2])).loss.backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_nothing_to_quantise_is_an_error():
    with pytest.raises(ValueError, match="ResNetModel has no float32 linear layers"):
        optimize(make_model("resnet").eval(), int8=True)
    with pytest.raises(ValueError, match="ViTModel has no float32 linear layers"):
        optimize(make_model("vit").bfloat16(), int8=True)


def test_effect_of_quantization():
    model, other = make_vit_vtn(), make_vit_vtn()
    with torch.no_grad():
        other.classifier.out_proj.bias[0] += 1.5
    other.vtn.backbone.register_forward_hook(lambda *_: time.sleep(0.1))
    inputs = {"pixel_values": torch.rand(1, 6, 3, 16, 16)}
    with torch.no_grad():
        expected = model(**inputs).logits
    effect = measure_quantization(model, other, inputs)
    assert effect.largest_change == pytest.approx(1.5)
    assert effect.largest_logit == expected.abs().max()
    assert 0 < effect.speedup < 1
    assert str(effect).startswith(f"{effect.speedup:.2f} times as fast as float32")
