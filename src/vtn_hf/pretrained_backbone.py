"""Image models with their weights, and a VTN on one of them."""

import os

from transformers import AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from .backbone_vtn import drop_untrained_pooler


def load_backbone_config(backbone_name_or_path: str | os.PathLike) -> PreTrainedConfig:
    """The configuration of a vision model, or of the vision tower of a model that has one (CLIP, SigLIP)."""
    config = AutoConfig.from_pretrained(backbone_name_or_path)
    return getattr(config, "vision_config", config)


def load_backbone(backbone_name_or_path: str | os.PathLike) -> PreTrainedModel:
    """The vision model that [`load_backbone_config`] describes, with its weights; ValueError if some are missing."""
    config = load_backbone_config(backbone_name_or_path)
    backbone, info = AutoModel.from_pretrained(
        backbone_name_or_path, config=config, dtype="auto", output_loading_info=True
    )
    drop_untrained_pooler(backbone)
    if missing := sorted(info["missing_keys"] & backbone.state_dict().keys()):
        raise ValueError(f"{backbone_name_or_path} lacks weights of {type(backbone).__name__}: {', '.join(missing)}.")
    return backbone


def from_backbone_pretrained(cls, backbone_name_or_path: str | os.PathLike, **config_fields):
    """
    Builds a VTN from a pretrained image model: its weights as the backbone, and a fresh temporal encoder and head.

    Args:
        backbone_name_or_path (`str` or `os.PathLike`): A vision model, or a model with a vision tower (CLIP, SigLIP),
            on the Hub or in a local directory; ValueError if it gives no vector per frame.
        config_fields: Fields of [`VTNConfig`], such as `num_labels`.

    Returns:
        [`VTNForVideoClassification`], in eval mode like everything that `from_pretrained` gives.
    """
    backbone_config = load_backbone_config(backbone_name_or_path)
    model = cls(cls.config_class(backbone_config=backbone_config, **config_fields))
    model.vtn.backbone.load_state_dict(load_backbone(backbone_name_or_path).state_dict())
    return model.eval()
