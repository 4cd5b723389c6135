"""Tiny models and inputs in the form in which transformers' shared suites ask for them."""

import torch
from transformers import PreTrainedConfig, VivitConfig

from vtn_hf import VTNConfig


VIT = {
    "model_type": "vit",
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}


class VideoModelTester:
    """What the suites call a model tester: a tiny configuration and a batch of two videos for it."""

    is_training = True
    batch_size = 2
    num_frames = 4
    image_size = 16
    num_hidden_layers = 2
    hidden_size = 32
    num_attention_heads = 4

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> PreTrainedConfig:
        raise NotImplementedError

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict]:
        shape = (self.batch_size, self.num_frames, 3, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": torch.rand(shape)}


class VTNModelTester(VideoModelTester):
    seq_length = 1 + VideoModelTester.num_frames

    def __init__(self, parent, backbone_config: dict):
        super().__init__(parent)
        self.backbone_config = backbone_config

    def get_config(self) -> VTNConfig:
        return VTNConfig(
            backbone_config=self.backbone_config,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            attention_window=2,
            max_position_embeddings=20,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[VTNConfig, dict]:
        config, inputs = super().prepare_config_and_inputs_for_common()
        return config, {**inputs, "attention_mask": torch.ones(self.batch_size, self.num_frames, dtype=torch.long)}


class VivitModelTester(VideoModelTester):
    # The class token and tubes of 2 frames of 8 x 8 pixels.
    seq_length = 1 + 2 * 2 * 2

    def get_config(self) -> VivitConfig:
        return VivitConfig(
            num_frames=self.num_frames,
            image_size=self.image_size,
            tubelet_size=[2, 8, 8],
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
        )
