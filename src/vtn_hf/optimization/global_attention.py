"""
The class token's attention in the temporal encoder, without the keys and values of every frame.

There is one global query per video, so the key projection goes into it instead of onto every frame:
`(W x + b) · q = x · (Wᵀ q) + b · q`. For the same reason the value projection comes after the average:
`Σ p (W x + b) = W (Σ p x) + b Σ p`. In shape comments as in `temporal_encoder_vtn.py`.
"""

from functools import partial

import torch
from torch import nn

from .replacement import Replacement, computes_as, find_modules, replace
from .trial import Trial


def fold_global_projections(trial: Trial, model: nn.Module):
    """Replaces the attention of each layer of the temporal encoder; a model with another one has none of these."""
    for attention in list(find_modules(model, "VTNAttention")):
        width = attention.num_heads * attention.head_dim
        states = trial.make_random(2, 5, width, like=next(attention.parameters()))
        trial.attempt(
            [attention], partial(replace, attention, Folded), partial(attention.attend_globally, states, None)
        )


class Folded(Replacement):
    """[`VTNAttention`] with folded global projections, as long as these are linear layers and nothing else."""

    def multiply_by_global_keys(self, query: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        if not _is_plain_linear(self.key_global):
            return super().multiply_by_global_keys(query, hidden_states)
        weight, bias = (self._heads_first(part) for part in (self.key_global.weight, self.key_global.bias))
        folded_query = torch.bmm(query.transpose(0, 1), weight).transpose(0, 1)
        return torch.matmul(folded_query, hidden_states.transpose(1, 2)) + (query * bias).sum(-1, keepdim=True)

    def average_global_values(self, weights: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        if not _is_plain_linear(self.value_global):
            return super().average_global_values(weights, hidden_states)
        weight, bias = (self._heads_first(part) for part in (self.value_global.weight, self.value_global.bias))
        average = torch.matmul(weights, hidden_states)
        values = torch.bmm(average.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
        return values + bias * weights.sum(-1, keepdim=True)

    def _heads_first(self, parameter: torch.Tensor) -> torch.Tensor:
        """`(H, …)` to `(h, d, …)`."""
        return parameter.unflatten(0, (self.num_heads, self.head_dim))


def _is_plain_linear(module: nn.Module) -> bool:
    """Whether the weight is all there is to it: no adapter, no quantisation, no shard."""
    return computes_as(module, nn.Linear) and type(module.weight) is nn.Parameter
