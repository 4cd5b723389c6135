"""The faster model computes the same from the same weights, is trained and saved as the other, and is never wrong."""

import copy
import gc
import pickle
import warnings
from functools import cache

import pytest
import test_backbones
import torch
from test_backbones import BACKBONES, make_frames, skip_without_timm
from torch import nn

import vtn_hf
from vtn_hf import VTNForVideoClassification, VTNModel, optimize
from vtn_hf.backbone_vtn import choose_frames_per_chunk
from vtn_hf.optimization import optimize_once, share_weights
from vtn_hf.optimization.replacement import Replacement


FAMILIES = ["vit", "dinov2", "clip", "resnet", "convnext", "timm_mobilenet", "siglip"]
# What is replaced in each, by the class that is mixed in; oneDNN only where a layer is large enough.
REPLACED = {
    "vit": {"ClassTokenOnly", "Folded"},
    "dinov2": {"ClassTokenOnly", "Folded"},
    "clip": {"ClassTokenOnly", "Folded"},
    "resnet": {"Packed", "Absorbed", "Folded"},
    "convnext": {"Packed", "Folded"},
    "timm_mobilenet": {"Packed", "Absorbed", "Folded", "OneDNN"},
    "siglip": {"Folded"},
}


make_model = cache(test_backbones.make_model)


def make(family):
    """A model of one's own; making one from the start takes longer."""
    skip_without_timm(family)
    return copy.deepcopy(make_model(family)).eval()


@pytest.fixture(params=FAMILIES)
def model(request):
    model = make(request.param)
    model.family = request.param
    return model


def optimize_silently(model, **settings):
    """What is left out is a `UserWarning`; torch's own imports may deprecate what they like."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return optimize(model, **settings)


def find_replaced(model):
    return {type(module).__bases__[0].__name__ for module in model.modules() if isinstance(module, Replacement)}


@torch.no_grad()
def compute_logits(model, pixel_values=None):
    return model(make_frames() if pixel_values is None else pixel_values).logits


def assert_same_logits(fast, model, tolerance=1e-5):
    torch.testing.assert_close(compute_logits(fast), compute_logits(model), atol=tolerance, rtol=0)


def test_same_logits_from_other_modules(model):
    before = {name: type(module) for name, module in model.named_modules()}
    fast = optimize_silently(model)
    assert find_replaced(fast) - {"OneDNN"} == REPLACED[model.family] - {"OneDNN"}
    assert not find_replaced(model)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert_same_logits(fast, model)
    assert not compute_logits(fast).isnan().any()


def test_frames_per_call_are_those_of_its_modules(model):
    before = choose_frames_per_chunk("auto", model.vtn.backbone)
    fast = optimize_silently(model)
    is_packed = "Packed" in find_replaced(fast)
    assert choose_frames_per_chunk("auto", fast.vtn.backbone) == (6 if is_packed else before)
    assert choose_frames_per_chunk("auto", share_weights(fast).vtn.backbone) == before


def test_same_names_and_the_very_weights(model):
    fast = optimize_silently(model)
    assert type(fast) is type(model)
    assert fast.state_dict().keys() == model.state_dict().keys()
    for ours, theirs in (
        (fast.named_parameters(), model.named_parameters()),
        (fast.named_buffers(), model.named_buffers()),
    ):
        ours, theirs = dict(ours), dict(theirs)
        assert ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_same_gradients(model, training):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    model.train(training)
    fast, states, gradients = optimize_silently(model), [], []
    assert fast.training == training
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for each in (model, fast):
        each.load_state_dict(weights)  # statistics of batch normalisation move in training
        each.zero_grad()
        each(make_frames(), labels=torch.tensor([0, 2])).loss.backward()
        gradients.append(
            {name: weight.grad.clone() for name, weight in each.named_parameters() if weight.grad is not None}
        )
        states.append({name: tensor.clone() for name, tensor in each.state_dict().items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4 * max(1, gradient.abs().max()), rtol=1e-4)
    for name, state in states[0].items():
        torch.testing.assert_close(states[1][name], state, atol=1e-5, rtol=1e-5)


def change_by_training(model):
    model.train()
    model(make_frames(), labels=torch.tensor([0, 2])).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.eval()


def change_by_loading(model):
    model.load_state_dict({name: tensor * 1.1 for name, tensor in model.state_dict().items()})


def change_by_assigning(model):
    model.load_state_dict({name: tensor * 1.1 for name, tensor in model.state_dict().items()}, assign=True)


def change_behind_the_back(model):
    for parameter in model.parameters():
        parameter.data.mul_(1.1)


def change_one_row(model):
    for module in model.vtn.backbone.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data[0] += 0.5


def change_statistics(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.data += 1


def change_precision_and_back(model):
    model.bfloat16().float()


@pytest.mark.parametrize(
    "change",
    [
        change_by_training,
        change_by_loading,
        change_by_assigning,
        change_behind_the_back,
        change_one_row,
        change_statistics,
        change_precision_and_back,
    ],
)
def test_what_becomes_of_the_weights_becomes_of_both(model, change):
    fast = optimize_silently(model)
    before = compute_logits(fast)
    change(model)
    assert_same_logits(fast, optimize_silently(model), 1e-6)
    assert_same_logits(fast, model, 2e-5)
    if change is not change_statistics or "Absorbed" in find_replaced(fast):
        assert not torch.equal(compute_logits(fast), before)


@pytest.mark.parametrize(
    "copy_model", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_have_weights_of_their_own(model, copy_model):
    fast = optimize_silently(model)
    expected = compute_logits(fast)
    copied = copy_model(fast)
    assert find_replaced(copied) == find_replaced(fast)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    assert torch.equal(compute_logits(copied), expected)
    assert not torch.equal(compute_logits(fast), expected)


def test_saved_as_the_other(model, tmp_path):
    fast = optimize_silently(model)
    model.save_pretrained(tmp_path / "plain")
    fast.save_pretrained(tmp_path / "fast")
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "fast" / file.name).read_bytes(), file.name
    loaded = VTNForVideoClassification.from_pretrained(tmp_path / "fast")
    assert not find_replaced(loaded)
    assert_same_logits(loaded, model)


def test_another_precision(model):
    fast = optimize_silently(model)
    model.bfloat16()
    pixel_values = make_frames().bfloat16()
    torch.testing.assert_close(
        compute_logits(fast, pixel_values), compute_logits(model, pixel_values), atol=0.05, rtol=0
    )
    fresh = optimize_silently(model)
    torch.testing.assert_close(
        compute_logits(fresh, pixel_values), compute_logits(model, pixel_values), atol=0.05, rtol=0
    )


def test_activation_checkpointing(model):
    if not getattr(model.vtn.backbone, "supports_gradient_checkpointing", False):
        pytest.skip("transformers has none for it")
    fast, gradients = optimize_silently(model.train()), []
    weights = copy.deepcopy(model.state_dict())
    for checkpointing in (False, True):
        if checkpointing:
            fast.activation_checkpointing_enable()
        fast.load_state_dict(weights)
        fast.zero_grad()
        torch.manual_seed(0)
        fast(make_frames(), labels=torch.tensor([0, 2])).loss.backward()
        gradients.append(
            {name: weight.grad.clone() for name, weight in fast.named_parameters() if weight.grad is not None}
        )
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-3)


def test_hidden_states_and_attentions_of_the_temporal_encoder(model):
    fast = optimize_silently(model)
    settings = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected, outputs = model(make_frames(), **settings), fast(make_frames(), **settings)
        again = optimize_silently(model)(make_frames(), **settings)  # the model has hooks of transformers by now
    for name in ("hidden_states", "global_attentions"):
        for theirs, ours, others in zip(expected[name], outputs[name], again[name], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(others, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_exports(family):
    model = make(family)
    fast = optimize_silently(model)
    axes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    program = torch.export.export(fast, (make_frames(),), dynamic_shapes=(axes,), strict=False)
    torch.testing.assert_close(
        program.module()(make_frames(3, 4)).logits, compute_logits(model, make_frames(3, 4)), atol=1e-5, rtol=1e-5
    )


class LSTMEncoder(nn.Module):
    """A temporal encoder of somebody else's."""

    def __init__(self, width: int):
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, frame_embeds, position_ids, attention_mask=None, class_token_only=False):
        return self.lstm(frame_embeds)[0].flip(1)


@pytest.mark.parametrize("compile", [False, True])
def test_another_temporal_encoder(compile):
    model = make("resnet")
    model.vtn.temporal_encoder = LSTMEncoder(model.config.hidden_size)
    with torch.compiler.set_stance("force_eager"):
        assert_same_logits(optimize(model, compile=compile), model)


@torch.no_grad()
def test_no_temporal_encoder():
    model = make("resnet").vtn
    del model.temporal_encoder
    pixels = torch.rand(1, 3, 3, 32, 32)
    fast = optimize(model, compile=True)
    with torch.compiler.set_stance("force_eager"):
        expected = model.get_frame_features(pixels)
        torch.testing.assert_close(fast.get_frame_features(pixels), expected, atol=1e-5, rtol=0)


def test_the_model_without_a_head_and_what_contains_one():
    base = VTNModel(make("vit").config).eval()
    fast = optimize_silently(base)
    with torch.no_grad():
        torch.testing.assert_close(
            fast(make_frames()).pooler_output, base(make_frames()).pooler_output, atol=1e-5, rtol=0
        )
    wrapped = nn.ModuleDict({"model": base})
    assert find_replaced(optimize_silently(wrapped)) == {"ClassTokenOnly", "Folded"}
    with pytest.raises(ValueError, match="There is no VTN in Linear"):
        optimize(nn.Linear(2, 2))


def test_optimised_again():
    model = make("vit")
    again = optimize_silently(optimize_silently(model), int8=True)
    assert find_replaced(again) == {"ClassTokenOnly", "Folded", "Int8"}
    assert find_replaced(optimize_silently(again)) == {"ClassTokenOnly", "Folded"}


def test_nothing_to_compare_on_the_meta_device():
    model = make("vit").to("meta")
    assert not find_replaced(optimize_silently(model))


def test_random_numbers_and_modes_stay_as_they_were():
    model = make("resnet").train()
    model.vtn.backbone.eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fast = optimize_silently(model)
    assert torch.equal(torch.rand(1), expected)
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in fast.modules()] == modes


@pytest.mark.slow
def test_small_layers_of_every_family():
    """What the other tests leave out: nothing is replaced wrongly in any of them."""
    for name in BACKBONES:
        if name.startswith("timm") or name in FAMILIES:
            continue
        model = make(name)
        assert_same_logits(optimize_silently(model), model)


# What is not what it was


class Shifted:
    """An altered layer: another release of its library, or of the user's own."""

    def forward(self, *args, **kwargs):
        return bend(super().forward(*args, **kwargs))


def bend(output):
    """Not by a constant, which the next normalisation would take away."""
    return output * torch.linspace(0.5, 2, output.shape[-1])


def alter(module):
    module.__class__ = type("Altered", (Shifted, type(module)), {})


def rename(parent, old, new):
    setattr(parent, new, getattr(parent, old))
    delattr(parent, old)


def last_layer_that_does_something_else(model):
    alter(model.vtn.backbone.layers[-1])
    return "vtn.backbone.layers.1", "Altered"


def attention_that_does_something_else(model):
    attention = model.vtn.backbone.layers[-1].attention
    attention.scaling *= 2
    attention.config = copy.deepcopy(attention.config)
    forward = type(attention).forward

    def forward_with_the_old_scaling(self, *args, **kwargs):
        self.scaling /= 2
        try:
            return forward(self, *args, **kwargs)
        finally:
            self.scaling *= 2

    attention.__class__ = type("Altered", (type(attention),), {"forward": forward_with_the_old_scaling})
    return "vtn.backbone.layers.1", "the results differ"


def renamed_projection(model):
    attention = model.vtn.backbone.layers[-1].attention
    plain = type(attention)

    class Renamed(plain):
        @property
        def k_proj(self):
            raise AttributeError("it is called to_keys now")

        def forward(self, *args, **kwargs):
            self._modules["k_proj"] = self.to_keys
            try:
                self.__class__ = plain
                return self.forward(*args, **kwargs)
            finally:
                self.__class__ = Renamed
                del self._modules["k_proj"]

    rename(attention, "k_proj", "to_keys")
    attention.__class__ = Renamed
    return "vtn.backbone.layers.1", "k_proj"


def renamed_layers(model):
    backbone = model.vtn.backbone
    plain = type(backbone)

    class Renamed(plain):
        def forward(self, *args, **kwargs):
            self._modules["layers"] = self.blocks
            try:
                return super().forward(*args, **kwargs)
            finally:
                del self._modules["layers"]

    rename(backbone, "layers", "blocks")
    backbone.__class__ = Renamed
    return "vtn.backbone", "layers"


def hook_on_the_last_layer(model):
    model.vtn.backbone.layers[-1].register_forward_hook(lambda module, args, output: bend(output))
    return "vtn.backbone.layers.1", "hook"


def hook_within_the_last_layer(model):
    model.vtn.backbone.layers[-1].mlp.fc1.register_forward_hook(lambda module, args, output: output.flip(1))
    return "vtn.backbone.layers.1", "hook"


def hook_on_the_backbone(model):
    def average_all_tokens(module, args, output):
        output["last_hidden_state"] = output.last_hidden_state.mean(1, keepdim=True)
        return output

    model.vtn.backbone.register_forward_hook(average_all_tokens)
    return "vtn.backbone.layers.1", "vtn.backbone has a hook"


def another_forward_of_an_instance(model):
    layer = model.vtn.backbone.layers[-1]
    forward = layer.forward
    layer.forward = lambda *args, **kwargs: bend(forward(*args, **kwargs))
    return "vtn.backbone.layers.1", "forward"


def backbone_that_reads_all_tokens(model):
    model.vtn.backbone.pooler = MeanPooler()
    return "vtn.backbone.layers.1", "the results differ"


class MeanPooler(nn.Module):
    def forward(self, hidden_states):
        return hidden_states.mean(1)


def global_attention_that_does_something_else(model):
    attention = model.vtn.temporal_encoder.layers[0].attention

    class Altered(type(attention)):
        def average_global_values(self, weights, hidden_states):
            return super().average_global_values(weights, hidden_states) * 1.1

    attention.__class__ = Altered
    return "vtn.temporal_encoder.layers.0.attention", "the results differ"


def global_attention_of_another_name(model):
    attention = model.vtn.temporal_encoder.layers[0].attention

    class Renamed(type(attention)):
        multiply_by_global_keys = property(lambda self: self.scores_of_keys)

        def scores_of_keys(self, query, hidden_states):
            return torch.einsum("bhd,bnhd->bhn", query, self._split_heads(self.keys_of_all(hidden_states)))

    rename(attention, "key_global", "keys_of_all")
    attention.__class__ = Renamed
    return "vtn.temporal_encoder.layers.0.attention", "key_global"


def linear_layer_of_the_users_own(model):
    alter(model.vtn.backbone.layers[0].mlp.fc1)
    return "vtn.backbone.layers.0.mlp.fc1", "forward of its own"


@pytest.mark.parametrize(
    "change",
    [
        last_layer_that_does_something_else,
        attention_that_does_something_else,
        renamed_projection,
        renamed_layers,
        hook_on_the_last_layer,
        hook_within_the_last_layer,
        hook_on_the_backbone,
        another_forward_of_an_instance,
        backbone_that_reads_all_tokens,
        global_attention_that_does_something_else,
        global_attention_of_another_name,
        linear_layer_of_the_users_own,
    ],
)
def test_what_is_not_what_it_was_is_left_out_and_named(change):
    model = make("vit")
    name, reason = change(model)
    expected = compute_logits(model)
    with pytest.warns(UserWarning, match=rf"leaves as they are: .*{name} \(.*{reason}"):
        fast = optimize(model)
    torch.testing.assert_close(compute_logits(fast), expected, atol=1e-5, rtol=0)


def shifted_convolution(model):
    convolution = model.vtn.backbone.embedder.embedder.convolution
    alter(convolution)
    return "vtn.backbone.embedder.embedder.convolution"


def shifted_norm(model):
    alter(model.vtn.backbone.embedder.embedder.normalization)
    return "vtn.backbone.embedder.embedder.normalization"


def hook_on_a_convolution(model):
    convolution = model.vtn.backbone.embedder.embedder.convolution
    convolution.register_forward_hook(lambda module, args, output: 2 * output)
    return "vtn.backbone.embedder.embedder.convolution"


def hook_on_a_norm(model):
    norm = model.vtn.backbone.embedder.embedder.normalization
    norm.register_forward_hook(lambda module, args, output: 2 * output)
    return "vtn.backbone.embedder.embedder.normalization"


def read_by_another(model):
    """What a convolution gives goes not only to its normalisation."""
    layer = model.vtn.backbone.embedder.embedder
    plain = type(layer)

    class Altered(plain):
        def forward(self, hidden_states):
            hidden_states = self.convolution(hidden_states)
            return self.activation(self.normalization(hidden_states)) + hidden_states

    layer.__class__ = Altered
    return "vtn.backbone.embedder.embedder.convolution"


@pytest.mark.parametrize(
    "change", [shifted_convolution, shifted_norm, hook_on_a_convolution, hook_on_a_norm, read_by_another]
)
def test_convolutions_that_are_not_what_they_were(change):
    model = make("resnet")
    before = compute_logits(model)
    name = change(model)
    expected = compute_logits(model)
    assert (expected - before).abs().max() > 1e-3
    with pytest.warns(UserWarning, match=f"leaves as they are: .*{name}[ :]"):
        fast = optimize(model)
    torch.testing.assert_close(compute_logits(fast), expected, atol=1e-5, rtol=0)
    # The others are replaced all the same.
    assert sum(type(module).__name__ == "PackedConv2d" for module in fast.modules()) >= 14


def test_whoever_listens_hears_no_trial():
    model, heard = make("vit"), []
    model.vtn.backbone.register_forward_hook(lambda *_: heard.append(1))
    with pytest.warns(UserWarning, match="vtn.backbone"):
        fast = optimize(model)
    assert not heard
    compute_logits(fast)
    assert heard == [1]


def test_whoever_listens_later_hears_everything():
    for family, path, shape in (
        ("vit", "layers.1.attention", (4, 17, 32)),
        ("resnet", "embedder.embedder.convolution", (4, 8, 16, 16)),
    ):
        model, heard = make(family), []
        fast = optimize_silently(model)
        for each in (model, fast):
            module = each.vtn.backbone.get_submodule(path)
            module.register_forward_hook(lambda *call: heard.append(call[-1]))  # noqa: B023
        frames = make_frames(1, 4)
        torch.testing.assert_close(compute_logits(fast, frames), compute_logits(model, frames), atol=1e-5, rtol=0)
        heard = [output[0] if isinstance(output, tuple) else output for output in heard]
        assert [output.shape for output in heard] == [shape] * 2
        torch.testing.assert_close(*heard, atol=1e-5, rtol=1e-4)


class OwnVTN(VTNModel):
    pass


def test_a_class_of_ones_own():
    model = OwnVTN(make("vit").config).eval()
    fast = optimize_silently(model)
    assert type(fast) is OwnVTN and find_replaced(fast) == {"ClassTokenOnly", "Folded"}


def test_another_default_device_and_dtype():
    model = make("resnet")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            fast = optimize_silently(model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert find_replaced(fast) == REPLACED["resnet"]
    assert_same_logits(fast, model)


@pytest.mark.slow
def test_compiled():
    model = make("vit")
    for int8 in (False, True):
        fast = optimize_silently(model, int8=int8, compile=True)
        for num_frames in (5, 9, 12, 70):
            frames = make_frames(2, num_frames)
            expected = compute_logits(optimize_silently(model, int8=int8), frames)
            torch.testing.assert_close(compute_logits(fast, frames), expected, atol=1e-5, rtol=1e-5)


# Called for every video


def test_optimised_once_as_long_as_the_model_is_the_same():
    model = make("vit")
    fast = optimize_once(model)
    assert find_replaced(fast) == {"ClassTokenOnly", "Folded"}
    with torch.no_grad():
        model.classifier.dense.weight.mul_(2)
    assert optimize_once(model) is fast and optimize_once(fast) is fast
    assert_same_logits(fast, model)


@pytest.mark.parametrize("change", ["exchanged", "listened_to", "moved", "trained"])
def test_optimised_again_when_the_model_is_another(change):
    model = make("vit")
    fast = optimize_once(model)
    if change == "exchanged":
        model.vtn.backbone = make("dinov2").vtn.backbone
    elif change == "listened_to":
        model.vtn.projection.register_forward_hook(lambda module, args, output: 2 * output)
    elif change == "moved":
        model.double()
    else:
        model.train()
    again = optimize_once(model)
    assert again is not fast and again.training == model.training
    if change != "moved":
        model.eval(), again.eval()
        assert_same_logits(again, model)


def test_models_that_are_gone_are_forgotten():
    model = make("vit")
    optimize_once(model)
    known = len(vtn_hf.optimization._OPTIMIZED)
    del model
    gc.collect()
    assert len(vtn_hf.optimization._OPTIMIZED) == known - 1
