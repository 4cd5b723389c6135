"""Models small enough for a test to make, train and save them in a moment."""

import torch

from vtn_hf import VTNConfig, VTNForVideoClassification


RESNET = {
    "model_type": "resnet",
    "layer_type": "basic",
    "embedding_size": 4,
    "hidden_sizes": [4, 8],
    "depths": [1, 1],
}
# Arguments of VTNConfig.
RESNET_VTN = {"backbone_config": RESNET, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


# The same with a ViT, whose weights have other names in files.
VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
}
VIT_VTN = {"backbone_config": VIT, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def make_vit_vtn(seed: int = 0, **settings) -> VTNForVideoClassification:
    """For pictures of 16 x 16; its weights are so large that videos differ in their scores."""
    torch.manual_seed(seed)
    config = VTNConfig(
        backbone_config=VIT | {"initializer_range": 0.2},
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        attention_window=4,
        initializer_range=0.4,
        **settings,
    )
    return VTNForVideoClassification(config).eval()
