"""The faster model computes the same from the same weights."""

import torch
from tiny_models import make_vit_vtn

from vtn_hf import optimize


def test_shares_every_parameter_and_buffer():
    model = make_vit_vtn(num_labels=3)
    fast = optimize(model)
    assert type(fast) is type(model) and fast is not model
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert all(ours is theirs for ours, theirs in zip(fast.parameters(), model.parameters(), strict=True))
    pixel_values = torch.rand(1, 5, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(fast(pixel_values).logits, model(pixel_values).logits, atol=1e-5, rtol=0)
