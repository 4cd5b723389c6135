"""
Vision transformers of which only the class token is read.

The last layer then needs the patches as keys and values and nothing else of them: no queries, no output projection, no
feed-forward network. This is exact, and saves about one layer of a backbone.
"""

from operator import attrgetter
from typing import NamedTuple

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel


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
    norm_of_embeddings: str | None = None
    final_norm: str = "layernorm"


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
    norm_of_embeddings="pre_layrnorm",
    final_norm="post_layernorm",
)
_ANATOMIES = {
    "vit": _VIT,
    "deit": _VIT,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "clip_vision_model": _CLIP,
}


def can_encode_class_token(backbone: PreTrainedModel) -> bool:
    """
    Whether [`encode_class_token`] gives what the backbone gives: it is of a known kind and version, and nothing
    listens to a module that would be passed over.
    """
    anatomy = _ANATOMIES.get(backbone.config.model_type)
    if anatomy is None or getattr(backbone, "pooler", None) is not None:
        return False
    try:
        layers = attrgetter(anatomy.layers)(backbone)
        last, attention = layers[-1], getattr(layers[-1], anatomy.attention)
        attrgetter("q_proj", "k_proj", "v_proj", "head_dim", anatomy.attention_output, anatomy.scaling)(attention)
        attrgetter("mlp", *anatomy.norms, *(anatomy.scales or ()))(last)
        attrgetter("embeddings", anatomy.final_norm)(backbone)
    except AttributeError:  # another release of transformers, another name
        return False
    passed_over = [backbone, last, attention]
    if "." in anatomy.layers:
        passed_over.append(attrgetter(anatomy.layers.rpartition(".")[0])(backbone))
    # Among the hooks are those of transformers, which stay once hidden states or attentions were asked for.
    return not any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or "forward" in vars(module)
        for module in passed_over
    )


def encode_class_token(backbone: PreTrainedModel, frames: torch.Tensor) -> torch.Tensor:
    """
    The class token after the final norm, `(frames, features)`, of a backbone for which [`can_encode_class_token`] is
    true; `frames` is `(frames, channels, height, width)`.
    """
    anatomy = _ANATOMIES[backbone.config.model_type]
    *layers, last = attrgetter(anatomy.layers)(backbone)
    hidden_states = backbone.embeddings(frames.to(next(backbone.embeddings.parameters()).dtype))
    if anatomy.norm_of_embeddings is not None:
        hidden_states = getattr(backbone, anatomy.norm_of_embeddings)(hidden_states)
    for layer in layers:
        hidden_states = layer(hidden_states, None)
    class_token = _run_last_layer(last, anatomy, hidden_states)
    return getattr(backbone, anatomy.final_norm)(class_token)[:, 0]


def _run_last_layer(layer: nn.Module, anatomy: _Anatomy, hidden_states: torch.Tensor) -> torch.Tensor:
    """All tokens `(frames, tokens, features)` to the class token `(frames, 1, features)`."""
    scale_1, scale_2 = (getattr(layer, name) for name in anatomy.scales) if anatomy.scales else (nn.Identity(),) * 2
    dropout = getattr(layer, anatomy.dropout) if anatomy.dropout else nn.Identity()
    norm_1, norm_2 = (getattr(layer, name) for name in anatomy.norms)
    class_token = hidden_states[:, :1]
    attended = _attend(getattr(layer, anatomy.attention), anatomy, norm_1(hidden_states))
    class_token = class_token + dropout(scale_1(attended))
    return class_token + dropout(scale_2(layer.mlp(norm_2(class_token))))


def _attend(attention: nn.Module, anatomy: _Anatomy, hidden_states: torch.Tensor) -> torch.Tensor:
    query, key, value = (
        # (frames, heads, 1 or tokens, features per head)
        projection(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection, states in (
            (attention.q_proj, hidden_states[:, :1]),
            (attention.k_proj, hidden_states),
            (attention.v_proj, hidden_states),
        )
    )
    output = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        dropout_p=getattr(attention, anatomy.attention_dropout) if attention.training else 0.0,
        scale=getattr(attention, anatomy.scaling),
    )
    return getattr(attention, anatomy.attention_output)(output.transpose(1, 2).flatten(2))
