"""What is trained on filmed videos, by name."""

from dataclasses import dataclass, field, replace

import torch
from baselines import FrameAverageClassifier, LSTMClassifier
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from vtn_hf import VTNConfig, VTNForVideoClassification
from vtn_hf.data.time_augmentation import TimeAugmentation


@dataclass(frozen=True)
class Variant:
    """
    What is trained.

    Args:
        model: A VTN or a baseline.
        fields: Of `VTNConfig`. With a `backbone_config`, all of it is trained from random weights, on pictures;
            without one, on the features of the frozen backbone.
        training: Of `VTNTrainingArguments`.
        time: Random changes in time.
        is_mirrored: Whether every other epoch sees the features of mirror images.
        feature_drop_prob: Share of the features that are left out.
        mixup_alpha: Of mixup; 0 is off.
        pictures: Of pictures: their side in pixels (`size`), and arguments of `ClipAugmentation`.
        is_shuffled: Whether frames come in random order, in training and at the test.
    """

    model: type[PreTrainedModel] = VTNForVideoClassification
    fields: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    time: TimeAugmentation | None = None
    is_mirrored: bool = False
    feature_drop_prob: float = 0.0
    mixup_alpha: float = 0.0
    pictures: dict = field(default_factory=dict)
    is_shuffled: bool = False

    @property
    def is_end_to_end(self) -> bool:
        return "backbone_config" in self.fields

    @property
    def frame_grid(self) -> int | None:
        return self.fields.get("frame_grid")

    def change(self, fields: dict | None = None, training: dict | None = None, **others) -> "Variant":
        """Another one that differs in this."""
        return replace(self, fields=self.fields | (fields or {}), training=self.training | (training or {}), **others)


class NarrowLSTMClassifier(LSTMClassifier):
    """As wide as the temporal encoder, behind a projection like its own."""

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        size = config.hidden_size
        self.vtn.projection = nn.Linear(self.vtn.feature_size, size)
        self.lstm = nn.LSTM(size, size // 2, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(size, config.num_labels)
        self.post_init()

    def pool(self, features: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return super().pool(self.vtn.projection(features), attention_mask)


# The recipe `cached_features`.
PLAIN = Variant(
    fields={
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "intermediate_size": 1024,
        "position_embedding_type": "sinusoidal",
    },
    training={
        "num_train_epochs": 8,
        "per_device_train_batch_size": 16,
        "learning_rate": 5e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.05,
        "max_grad_norm": 1.0,
    },
)
_NARROW = {"hidden_size": 128, "num_hidden_layers": 1, "intermediate_size": 512}
# One change of it each.
STEPS = {
    "mirror images": replace(PLAIN, is_mirrored=True),
    "label smoothing": PLAIN.change(training={"label_smoothing_factor": 0.1}),
    "changes in time": replace(PLAIN, time=TimeAugmentation(0.7, 0.3, (0.7, 1.4))),
    "features left out": replace(PLAIN, feature_drop_prob=0.5),
    "mixup": replace(PLAIN, mixup_alpha=0.8),
    "one layer of width 128": PLAIN.change(_NARROW),
    "24 epochs": PLAIN.change(training={"num_train_epochs": 24}),
    "stretched positions": PLAIN.change({"position_overflow": "stretch", "max_position_embeddings": 18}),
}
SMALL = PLAIN.change(_NARROW, is_mirrored=True)
CHANGES = SMALL.change({"frame_changes": True})
# More than one vector per frame.
PLACES = {
    "2 x 2": {"frame_grid": 2},
    "3 x 3": {"frame_grid": 3},
    "attention pooling of 3 x 3": {"frame_grid": 3, "frame_pooling": "attention"},
}
# A ConvNeXt of one patch: a linear layer on 16 x 16 pixels, and layer norms.
_ONE_PATCH = {
    "model_type": "convnext",
    "image_size": 16,
    "patch_size": 16,
    "num_stages": 1,
    "hidden_sizes": [128],
    "depths": [0],
}
END_TO_END = Variant(
    fields={
        "backbone_config": _ONE_PATCH,
        "hidden_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 8,
        "intermediate_size": 256,
        "position_embedding_type": "sinusoidal",
        "position_overflow": "stretch",
        "max_position_embeddings": 14,
        "attention_window": 64,
        "initializer_range": 0.05,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    training={
        "num_train_epochs": 30,
        "per_device_train_batch_size": 64,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.05,
        "max_grad_norm": 1.0,
        "label_smoothing_factor": 0.1,
    },
    time=TimeAugmentation(drop_prob=0.2),
    pictures={"size": 16, "flip_prob": 0.5, "warp": (0.25, 0.05, 6)},
)
PIXELS = "kernel ridge on pixels"
VARIANTS: dict[str, Variant | None] = {
    PIXELS: None,
    "VTN on changes": CHANGES,
    "VTN": SMALL,
    "frame average": replace(SMALL, model=FrameAverageClassifier),
    "VTN on changes, frames shuffled": replace(CHANGES, is_shuffled=True),
    "VTN, frames shuffled": replace(SMALL, is_shuffled=True),
    "LSTM": replace(SMALL, model=NarrowLSTMClassifier),
    **{f"VTN, {name}": SMALL.change(fields) for name, fields in PLACES.items()},
    **{f"VTN on changes, {name}": CHANGES.change(fields) for name, fields in PLACES.items()},
    "recipe": PLAIN,
    **{f"recipe, {name}": variant for name, variant in STEPS.items()},
    "VTN end to end": END_TO_END,
    "VTN end to end, frames shuffled": replace(END_TO_END, is_shuffled=True),
    "frame average end to end": replace(END_TO_END, model=FrameAverageClassifier),
    "LSTM end to end": replace(END_TO_END, model=NarrowLSTMClassifier),
}
