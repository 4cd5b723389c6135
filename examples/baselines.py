"""Models that a VTN is compared with: the same backbone, and less or other use of time."""

import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from vtn_hf import VTNConfig
from vtn_hf.modeling_vtn import VTNModel, VTNPreTrainedModel


class FrameAverageClassifier(VTNPreTrainedModel):
    """The mean of the backbone's frame features and a linear layer: sees every frame, but not their order."""

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        self.vtn = VTNModel(config)
        # Only the backbone of the VTN is used.
        del self.vtn.temporal_encoder
        self.classifier = nn.Linear(self.vtn.feature_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> ImageClassifierOutput:
        """Takes what [`VTNForVideoClassification`] takes, and ignores the positions."""
        features = self.vtn.get_frame_features(pixel_values, attention_mask)
        if attention_mask is None:
            average = features.mean(dim=1)
        else:
            average = features.sum(dim=1) / attention_mask.sum(dim=1, keepdim=True)
        logits = self.classifier(average)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)
