"""Flex attention: its mask, and that it agrees with the other implementations."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.testing import assert_close

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNModel
from vtn_hf.temporal_encoder_vtn import make_flex_mask


# Of one frame, around a block of 128, and of several.
NUM_FRAMES = [1, 2, 100, 126, 127, 128, 129, 500]
WIDTH = 16
# Where the tests take the formula of the kernel instead of the kernel, which takes long to compile.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
VIT = {
    "model_type": "vit",
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's flex attention trains on GPUs only")


def make_model(model_class=VTNModel, **fields):
    """Weights are large enough for everything to matter."""
    torch.manual_seed(0)
    fields = {
        "attention_window": [4, 300],
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "intermediate_size": 24,
        **fields,
    }
    config = VTNConfig(
        backbone_config=VIT,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        **fields,
    )
    return model_class(config).eval()


def make_inputs(num_frames, masked):
    generator = torch.Generator().manual_seed(num_frames)
    mask = torch.ones(2, num_frames, dtype=torch.long)
    mask[1, (num_frames + 1) // 2 :] = 0
    features = torch.randn(2, num_frames, WIDTH, generator=generator)
    return {"inputs_embeds": features, "attention_mask": mask if masked else None}


def compare(model, inputs):
    """All hidden states of flex attention against those of sdpa."""
    states = {}
    for attention in ("sdpa", "flex_attention"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            states[attention] = model(**inputs).last_hidden_state
    assert_close(states["flex_attention"], states["sdpa"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_frames", NUM_FRAMES)
@pytest.mark.parametrize("window", [2, 18, 300])
def test_blocks_left_out_are_those_that_are_empty(num_frames, window):
    mask = make_flex_mask(torch.empty(1, num_frames), None, window)
    expected = create_block_mask(mask.mask_mod, None, None, num_frames, 1 + num_frames, device="cpu")
    assert mask.shape == expected.shape
    assert torch.equal(mask.to_dense(), expected.to_dense())


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("num_frames", NUM_FRAMES)
def test_equals_sdpa(num_frames, masked):
    with torch.compiler.set_stance("force_eager"):
        compare(make_model(), make_inputs(num_frames, masked))


def test_weights_of_the_class_token_are_reported():
    model, inputs = make_model(), make_inputs(5, masked=True)
    weights = []
    for attention in ("eager", "flex_attention"):
        model.set_attn_implementation(attention)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            weights.append(torch.stack(model(**inputs, output_attentions=True).global_attentions))
    assert_close(*weights)


@pytest.mark.slow
def test_kernel_equals_sdpa():
    """What torch compiles for this CPU, which takes a while for each kind of length."""
    model = make_model()
    for num_frames in (5, 127, 128, 500):
        compare(model, make_inputs(num_frames, masked=True))


@pytest.mark.slow
def test_kernel_in_the_backbone_equals_sdpa():
    compare(make_model(), {"pixel_values": torch.randn(1, 5, 3, 8, 8)})


def test_dropout_is_refused_in_training():
    model = make_model(VTNForVideoClassification, attention_probs_dropout_prob=0.1).train()
    model.set_attn_implementation({"": "flex_attention"})
    with pytest.raises(ValueError, match="does not support `dropout`"):
        model(inputs_embeds=torch.randn(1, 5, WIDTH))


@needs_cuda
def test_gradients_equal_those_of_sdpa():
    # Triton asks for 16 features per head.
    model = make_model(VTNForVideoClassification, hidden_size=32, intermediate_size=32).cuda()
    inputs = {name: tensor.cuda() for name, tensor in make_inputs(300, masked=True).items()}
    gradients = {}
    for attention in ("sdpa", "flex_attention"):
        model.set_attn_implementation(attention)
        model.zero_grad()
        model(**inputs, labels=torch.tensor([0, 1]).cuda()).loss.backward()
        gradients[attention] = {
            name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
        }
    assert_close(gradients["flex_attention"], gradients["sdpa"], atol=1e-4, rtol=1e-3)
