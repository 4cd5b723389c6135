"""Convolutions with packed weights: what torch's give, in every geometry, and only at inference in float32."""

import itertools

import pytest
import torch
from torch import nn

from vtn_hf.optimization import convolution, replacement, share_weights
from vtn_hf.optimization.convolution import get_padding, is_packed, pack
from vtn_hf.optimization.replacement import Derived


GEOMETRIES = {
    "plain": {"kernel_size": 3},
    "pointwise": {"kernel_size": 1, "bias": False},
    "stride": {"kernel_size": 7, "stride": 2, "padding": 3},
    "not_square": {"kernel_size": (3, 5), "padding": (1, 2), "stride": (1, 2)},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "depthwise": {"kernel_size": 5, "padding": 2, "groups": 8},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 4, "bias": False},
    "same": {"kernel_size": (3, 5), "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
}


@pytest.fixture(params=[True, False], ids=["packed", "folded"])
def kernels(request, monkeypatch):
    """With oneDNN's kernel and without."""
    if request.param and not convolution._has_packed_convolution():
        pytest.skip("this torch has no such kernel")
    monkeypatch.setattr(convolution, "_has_packed_convolution", lambda: request.param)


def make_layers(norm=True, affine=True, activation=None, **geometry):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(8, 16, **geometry))
    if norm:
        layers.append(nn.BatchNorm2d(16, affine=affine))
        for tensor in (*layers[1].parameters(), layers[1].running_mean, layers[1].running_var):
            nn.init.uniform_(tensor, 0.5, 2)
    if activation is not None:
        layers.append(activation)
    return layers.eval()


def pack_copy(layers):
    fast = share_weights(layers)
    pack(*fast)
    return fast


@pytest.mark.parametrize("norm", [True, False], ids=["norm", "alone"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_geometry_and_size(name, norm, kernels):
    layers = make_layers(norm, **GEOMETRIES[name])
    fast = pack_copy(layers)
    with torch.no_grad():
        for shape in ((2, 8, 9, 9), (1, 8, 16, 13), (5, 8, 7, 30)):
            states = torch.randn(shape)
            assert is_packed(fast[0], states)
            torch.testing.assert_close(fast(states), layers(states), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("answers", [[True, False, False], [False, True, True]])
def test_what_follows_goes_by_what_the_convolution_did(answers, kernels, monkeypatch):
    """Another thread that compiles or exports sets flags of the whole process, at any time."""
    activation = nn.ReLU() if convolution._has_packed_convolution() else None
    layers = make_layers(activation=activation, kernel_size=3)
    fast = pack_copy(layers)
    changing = itertools.chain(answers, itertools.repeat(True))
    monkeypatch.setattr(convolution, "is_plain_float32", lambda *tensors: next(changing))
    with torch.no_grad():
        states = torch.randn(2, 8, 9, 9)
        for _ in range(3):
            output = fast(states)
            torch.testing.assert_close(output, layers(states), atol=1e-4, rtol=1e-4)
            assert not vars(output)


@pytest.mark.parametrize("norm", [True, False], ids=["norm", "alone"])
@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(-0.5, 0.5), nn.SiLU()],
    ids=lambda activation: str(activation),
)
def test_activations(activation, norm):
    if not convolution._has_packed_convolution():
        pytest.skip("this torch has no such kernel")
    layers = make_layers(norm, activation=activation, kernel_size=3)
    fast = pack_copy(layers)
    assert fast[0]._activation[0] != "none"
    with torch.no_grad():
        states = torch.randn(2, 8, 9, 9)
        torch.testing.assert_close(fast(states), layers(states), atol=1e-4, rtol=1e-4)
        assert (fast[:-1](states) == fast(states)).all(), "the convolution has done its work"
    states.requires_grad_()
    torch.testing.assert_close(fast(states), layers(states))


class Block(nn.Module):
    """A convolution, with others around it in several ways."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.convolution, self.norm, self.activation = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, pixel_values):
        states = self.norm(self.convolution(pixel_values))
        if self.way == "added_in_place":
            states += pixel_values
        if self.way == "twice":
            states = self.norm(states)
        return self.activation(states) if self.way != "without" else states


@pytest.mark.parametrize(
    "way, found",
    [("plain", ["norm", "activation"]), ("added_in_place", ["norm"]), ("twice", []), ("without", ["norm"])],
)
def test_who_reads_what_a_convolution_gives(way, found):
    block = Block(way).eval()
    with torch.no_grad():
        readers = convolution.find_readers(block, torch.rand(1, 3, 8, 8))
    names = {module: name for name, module in block.named_modules()}
    expected = dict(zip(["convolution", "norm"], found, strict=False))
    if not convolution._has_packed_convolution():
        expected.pop("norm", None)
    assert {names[giver]: names[reader] for giver, reader in readers.items()} == expected


def test_normalisation_without_weights(kernels):
    layers = make_layers(kernel_size=3, affine=False)
    with torch.no_grad():
        states = torch.randn(2, 8, 9, 9)
        torch.testing.assert_close(pack_copy(layers)(states), layers(states), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "geometry, padding",
    [
        ({"padding": 1}, (1, 1)),
        ({"padding": "same", "kernel_size": 5, "dilation": 2}, (4, 4)),
        ({"padding": "same", "kernel_size": 4}, None),
        ({"padding": 1, "padding_mode": "reflect"}, None),
    ],
)
def test_padding(geometry, padding):
    assert get_padding(nn.Conv2d(4, 4, **{"kernel_size": 3, **geometry})) == padding


@pytest.mark.parametrize("case", ["training", "gradients", "bfloat16", "disabled"])
def test_everything_else_is_left_alone(case):
    layers = make_layers(kernel_size=3)
    states = torch.randn(2, 8, 9, 9)
    if case == "training":
        layers.train()
    if case == "bfloat16":
        layers, states = layers.bfloat16(), states.bfloat16()
    fast = pack_copy(layers)
    with torch.set_grad_enabled(case == "gradients"), torch.backends.mkldnn.flags(enabled=case != "disabled"):
        assert not is_packed(fast[0], states)
        statistics = layers[1].running_mean.clone()
        expected = layers(states)
        layers[1].running_mean.copy_(statistics)
        assert torch.equal(fast(states), expected)
        assert torch.equal(layers[1].running_mean, statistics) == (case != "training")


def test_frozen_weights_are_packed_with_gradients_elsewhere():
    layers = make_layers(kernel_size=3).requires_grad_(False)
    states = torch.randn(2, 8, 9, 9)
    assert is_packed(pack_copy(layers)[0], states) and not is_packed(pack_copy(layers)[0], states.requires_grad_())


def test_whoever_listens_to_all_modules_may_change_what_they_give():
    layers = make_layers(activation=nn.ReLU(), kernel_size=3)
    fast, states = pack_copy(layers), torch.randn(2, 8, 9, 9)
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, output: output.clone())
    try:
        with torch.no_grad():
            torch.testing.assert_close(fast(states), layers(states), atol=1e-4, rtol=1e-4)
    finally:
        hook.remove()


def test_threads_with_other_sizes_get_the_weights_for_theirs(monkeypatch):
    """Another thread packs for its own size between the check and the answer."""
    derived, weight = Derived(), torch.ones(2)
    assert derived.get(lambda _: "large", weight, key="large") == "large"
    is_same = replacement._Source.is_same

    def is_same_while_another_packs(source, tensor):
        monkeypatch.undo()
        derived.get(lambda _: "small", weight, key="small")
        return is_same(source, tensor)

    monkeypatch.setattr(replacement._Source, "is_same", is_same_while_another_packs)
    assert derived.get(lambda _: "large", weight, key="large") == "large"
