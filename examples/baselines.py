"""Models that a VTN is compared with: the same backbone, and less or other use of time."""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from vtn_hf import VTNConfig, VTNForVideoClassification
from vtn_hf.modeling_vtn import VTNModel, VTNPreTrainedModel


class BaselineClassifier(VTNPreTrainedModel):
    """Takes what [`VTNForVideoClassification`] takes; a subclass pools frame features to one vector per video."""

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        self.vtn = VTNModel(config)
        # Only the backbone of the VTN is used.
        del self.vtn.temporal_encoder
        self.vtn.projection = nn.Identity()
        self.classifier = nn.Linear(self.vtn.feature_size, config.num_labels)

    def pool(self, features: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, features)`, with mask `(batch, frames)`, to `(batch, features)`."""
        raise NotImplementedError

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> ImageClassifierOutput:
        """Arguments are those of [`VTNForVideoClassification.forward`]; positions are ignored."""
        if inputs_embeds is None:
            inputs_embeds = self.vtn.get_frame_features(pixel_values, attention_mask)
        if attention_mask is None:
            attention_mask = torch.ones(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        logits = self.classifier(self.pool(inputs_embeds, attention_mask))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


class FrameAverageClassifier(BaselineClassifier):
    """The mean of the backbone's frame features and a linear layer: sees every frame, but not their order."""

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        self.post_init()

    def pool(self, features: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return (features * attention_mask[..., None]).sum(dim=1) / attention_mask.sum(dim=1, keepdim=True)


class LSTMClassifier(BaselineClassifier):
    """A bidirectional LSTM over the frame features, as wide as they are, and a linear layer on its final states."""

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        size = self.vtn.feature_size
        if size % 2 != 0:
            raise ValueError(f"The two directions share the {size} features of the backbone, an odd number.")
        self.lstm = nn.LSTM(size, size // 2, batch_first=True, bidirectional=True)
        self.post_init()

    def pool(self, features: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        lengths = attention_mask.sum(dim=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(features, lengths, batch_first=True, enforce_sorted=False)
        _, (final, _) = self.lstm(packed)
        # (2, batch, features / 2) to (batch, features)
        return final.transpose(0, 1).flatten(1)


class WindowedClassifier(VTNForVideoClassification):
    """A VTN without global attention: its class token learns nothing of the frames, whose mean is classified."""

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        for layer in self.vtn.temporal_encoder.layers:
            # What the class token takes from the frames, and could hand on to them, is zero.
            value = layer.attention.value_global
            init.zeros_(value.weight)
            init.zeros_(value.bias)
            value.requires_grad_(False)

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> ImageClassifierOutput:
        """Arguments are those of [`VTNForVideoClassification.forward`], for videos of equal length."""
        outputs = self.vtn(pixel_values=pixel_values, inputs_embeds=inputs_embeds, position_ids=position_ids)
        logits = self.classifier(outputs.last_hidden_state[:, 1:].mean(dim=1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)
