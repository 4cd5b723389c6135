"""What a recipe of the paper or of today needs beyond transformers' `TrainingArguments`."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class VTNTrainingArguments(TrainingArguments):
    """`TrainingArguments`, and the parts of a recipe that it lacks."""

    lr_epochs: list[float] | None = field(
        default=None,
        metadata={"help": "Epochs, the first of them 0, at which the factors of lr_factors begin to hold."},
    )
    lr_factors: list[float] | None = field(
        default=None,
        metadata={"help": "Factors of the learning rate, one per lr_epochs; instead of lr_scheduler_type."},
    )
    decay_biases_and_norms: bool = field(
        default=False,
        metadata={"help": "Weight decay on biases and normalisations too, batch normalisation excepted."},
    )
    layer_decay: float | None = field(
        default=None,
        metadata={"help": "Factor of the learning rate from each block of the backbone to the one before it."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Decay per step of a running average of the weights, which is evaluated and saved."},
    )

    def __post_init__(self):
        super().__post_init__()
        epochs, factors = self.lr_epochs or [], self.lr_factors or []
        if len(epochs) != len(factors) or epochs != sorted(epochs) or epochs[:1] not in ([], [0]):
            raise ValueError(
                "`lr_epochs` must begin with 0, rise, and be as many as `lr_factors`, got "
                f"{self.lr_epochs} and {self.lr_factors}."
            )
        for name in ("layer_decay", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"`{name}` must be between 0 and 1, got {value}.")
        if self.ema_decay is not None and self.load_best_model_at_end:
            raise ValueError(
                "`load_best_model_at_end` would load weights that are not averaged; leave `ema_decay` out."
            )
