"""What recipes, the paper's and today's, need beyond transformers' `TrainingArguments`."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from .class_balance import CLASS_BALANCES


# Prefixes of the fields of `TrainingArguments` that change neither the weights nor what they are evaluated on.
_FREE = (
    *("dataloader_num_workers", "dataloader_p", "dataloader_multiprocessing_context"),  # p: pin, persist, prefetch
    *(
        "logging_",
        "log_",
        "disable_tqdm",
        "report_to",
        "run_name",
        "project",
        "trackio_",
        "debug",
        "skip_memory_metrics",
    ),
    *("eval_", "per_device_eval_batch_size", "batch_eval_metrics", "include_for_metrics", "prediction_loss_only"),
    *("save_", "enable_jit_checkpoint", "push_to_hub", "hub_"),
    *("use_cpu", "activation_checkpointing", "gradient_checkpointing", "torch_compile", "torch_empty_cache_steps"),
    *("ddp_", "do_"),
)
# Fields that say where a run is, and how this call of the command deals with it.
_PLACES = ("output_dir", "overwrite", "resume_from_checkpoint", "local_rank")


@dataclass
class VTNTrainingArguments(TrainingArguments):
    """`TrainingArguments`, and the parts of a recipe that it lacks; it has no default for `output_dir`."""

    output_dir: str | None = field(default=None, metadata={"help": "folder to write: a new one, or one to go on with"})
    overwrite: bool = field(default=False, metadata={"help": "replace what is there: begin the run anew"})
    lr_epochs: list[float] | None = field(
        default=None,
        metadata={"help": "epochs, the first of them 0, at which the factors of lr_factors begin to hold"},
    )
    lr_factors: list[float] | None = field(
        default=None,
        metadata={"help": "factors of the learning rate, one per lr_epochs; instead of lr_scheduler_type"},
    )
    decay_biases_and_norms: bool = field(
        default=False,
        metadata={"help": "weight decay on biases and normalisations too, batch normalisation excepted"},
    )
    layer_decay: float | None = field(
        default=None,
        metadata={"help": "factor of the learning rate from each block of the backbone to the one before it"},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "decay per step of a running average of the weights, which is evaluated and saved"},
    )
    early_stopping: int | None = field(
        default=None,
        metadata={"help": "end after so many evaluations that are not the best; needs load_best_model_at_end"},
    )
    class_balance: str = field(
        default="none",
        metadata={
            "help": "for rare classes: sampler shows all classes equally often, loss weighs the loss of each video by "
            "the rarity of its class; none does neither"
        },
    )

    def __post_init__(self):
        if not self.output_dir:
            raise ValueError("Give --output_dir, the folder of the run.")
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
        if self.early_stopping is not None and not (self.early_stopping > 0 and self.load_best_model_at_end):
            raise ValueError(
                f"`early_stopping` must be a number of evaluations, got {self.early_stopping}, and needs "
                "`load_best_model_at_end`."
            )
        if self.class_balance not in CLASS_BALANCES:
            raise ValueError(
                f"`class_balance` must be one of {', '.join(CLASS_BALANCES)}, got {self.class_balance!r}."
            )
        if self.ema_decay is not None and self.load_best_model_at_end:
            raise ValueError(
                "`load_best_model_at_end` would load weights that are not averaged; leave `ema_decay` out."
            )

    def split_settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields that the result of a run depends on, and those that may change when it is continued."""
        fields = {name: value for name, value in self.to_dict().items() if name not in _PLACES}
        free = {name: value for name, value in fields.items() if name.startswith(_FREE)}
        return {name: value for name, value in fields.items() if name not in free}, free
