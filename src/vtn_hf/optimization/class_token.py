"""
Vision transformers of which only the class token is read.

The last layer then needs the patches as keys and values and nothing else of them: no queries, no output projection, no
feed-forward network. This is exact, and saves about one layer of a backbone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from ..backbone_vtn import encode, get_frame_shape
from .replacement import Replacement, is_altered, replace
from .trial import Trial


class _Anatomy(NamedTuple):
    """Names of the parts of a transformer that normalises before attention and before the feed-forward network."""

    layers: str = "layers"
    attention: str = "attention"
    attention_output: str = "o_proj"
    norms: tuple[str, str] = ("layernorm_before", "layernorm_after")
    # What each residual branch passes before it is added
    scales: tuple[str, str] | None = None
    dropout: str | None = "dropout"
    attention_dropout: str = "attention_dropout"
    scaling: str = "scaling"
    # Whether keys of patches are turned by their place
    is_rotary: bool = False


_VIT = _Anatomy()
_DINOV2 = _Anatomy(
    layers="encoder.layer", norms=("norm1", "norm2"), scales=("layer_scale1", "layer_scale2"), dropout="drop_path"
)
_CLIP = _Anatomy(
    layers="encoder.layers",
    attention="self_attn",
    attention_output="out_proj",
    norms=("layer_norm1", "layer_norm2"),
    dropout=None,
    attention_dropout="dropout",
    scaling="scale",
)
_DINOV3 = _Anatomy(
    layers="model.layer",
    norms=("norm1", "norm2"),
    scales=("layer_scale1", "layer_scale2"),
    dropout="drop_path",
    attention_dropout="dropout",
    is_rotary=True,
)
_ANATOMIES = {
    "vit": _VIT,
    "deit": _VIT,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "dinov3_vit": _DINOV3,
    "clip_vision_model": _CLIP,
}


def read_class_token_only(trial: Trial, backbone: PreTrainedModel):
    """Replaces the last layer of a backbone whose kind this file knows."""
    anatomy = _ANATOMIES.get(backbone.config.model_type)
    if anatomy is None:
        return
    try:
        layers = attrgetter(anatomy.layers)(backbone)
        last = layers[-1]
    except AttributeError as error:
        trial.leave_out(backbone, str(error))
        return
    frame = trial.make_random(1, *get_frame_shape(backbone.config), like=next(last.parameters()))
    tokens = trial.make_random(2, 5, backbone.config.hidden_size, like=frame)
    places = {}
    if anatomy.is_rotary:
        head_dim = backbone.config.hidden_size // backbone.config.num_attention_heads
        places["position_embeddings"] = trial.make_random(2, 4, head_dim, like=frame).unbind()

    def run() -> list[torch.Tensor]:
        # The second tells whether another token is read; the layers before take time and tell nothing.
        with only_last(layers):
            return [last(tokens, None, **places)[:, :1], encode(backbone, frame)]

    path = [".".join(anatomy.layers.split(".")[:depth]) for depth in range(anatomy.layers.count(".") + 2)]
    passed_over = [*map(backbone.get_submodule, path), *last.modules()]
    trial.attempt([last], partial(replace, last, ClassTokenOnly, _anatomy=anatomy), run, relies_on=passed_over)


@contextmanager
def only_last(layers: nn.ModuleList) -> Iterator:
    """Within it, a backbone has one layer."""
    modules = layers._modules
    layers._modules = {"0": layers[-1]}
    try:
        yield
    finally:
        layers._modules = modules


class ClassTokenOnly(Replacement):
    """The last layer: all tokens `(frames, tokens, features)` to the class token `(frames, 1, features)`."""

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        anatomy = self._anatomy
        attention = getattr(self, anatomy.attention)
        if is_altered(self) or is_altered(attention):  # someone has begun to listen to what is passed over
            return super().forward(hidden_states, *args, **kwargs)[:, :1]
        scale_1, scale_2 = (getattr(self, name) for name in anatomy.scales) if anatomy.scales else (nn.Identity(),) * 2
        dropout = getattr(self, anatomy.dropout) if anatomy.dropout else nn.Identity()
        norm_1, norm_2 = (getattr(self, name) for name in anatomy.norms)
        class_token = hidden_states[:, :1]
        places = kwargs["position_embeddings"] if anatomy.is_rotary else None
        attended = _attend(attention, anatomy, norm_1(hidden_states), places)
        class_token = class_token + dropout(scale_1(attended))
        return class_token + dropout(scale_2(self.mlp(norm_2(class_token))))


def _attend(
    attention: nn.Module,
    anatomy: _Anatomy,
    hidden_states: torch.Tensor,
    places: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    query, key, value = (
        # (frames, heads, 1 or tokens, features per head)
        projection(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection, states in (
            (attention.q_proj, hidden_states[:, :1]),
            (attention.k_proj, hidden_states),
            (attention.v_proj, hidden_states),
        )
    )
    if places is not None:
        key = _turn(key, *places)
    output = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        dropout_p=getattr(attention, anatomy.attention_dropout) if attention.training else 0.0,
        scale=getattr(attention, anatomy.scaling),
    )
    return getattr(attention, anatomy.attention_output)(output.transpose(1, 2).flatten(2))


def _turn(key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """
    Keys `(frames, heads, tokens, features)` with those of the patches turned by their places, cosines and sines of
    shape `(patches, features)` each; the tokens before the patches have no place.
    """
    others, patches = key.split([key.shape[-2] - cos.shape[-2], cos.shape[-2]], dim=-2)
    first, second = patches.chunk(2, dim=-1)
    return torch.cat([others, patches * cos + torch.cat([-second, first], dim=-1) * sin], dim=-2)
