"""`Trainer` with the recipes of [`VTNTrainingArguments`]."""

import contextlib
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from .class_balance import BalancedSampler, compute_class_weights, read_labels
from .recipe import (
    VideoClassificationLoss,
    WeightAverage,
    group_by_layer,
    list_parameters_without_batch_norm,
    make_step_schedule,
)


AVERAGE_NAME = "ema.pt"


class RecipeTrainer(Trainer):
    """
    A `Trainer` that knows the recipes of [`VTNTrainingArguments`]; with plain `TrainingArguments` it does what every
    `Trainer` does.

    The loss is [`VideoClassificationLoss`], unless `compute_loss_func` is given. The loss of an evaluation is its mean
    over all labels, each counted once. (`Trainer` averages the losses of batches, of which the last may repeat videos
    to be full, so that the result depends on the number of processes.)
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self._get_recipe("class_balance") == "sampler" and isinstance(self.train_dataset, IterableDataset):
            read_labels(self.train_dataset)  # says why not; `Trainer` would leave the sampler out
        if self.compute_loss_func is None:
            self.compute_loss_func = VideoClassificationLoss(
                self.model.config, self.args.label_smoothing_factor, self._find_class_weights()
            )
        self._average: WeightAverage | None = None
        if self._get_recipe("ema_decay") is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError(
                    "`ema_decay` needs whole weights on each device, which FSDP and DeepSpeed do not have."
                )
            self.add_callback(_KeepAverage(self))
        # (videos, 2): of each evaluated video the sum of the losses of its labels, and their number.
        self._eval_losses: list[torch.Tensor] = []

    def _find_class_weights(self) -> torch.Tensor | None:
        if self._get_recipe("class_balance") != "loss":
            return None
        if self.model.config.problem_type == "multi_label_classification":
            raise ValueError(
                '`class_balance="loss"` is for one class per video; take "sampler" where there are several.'
            )
        return compute_class_weights(read_labels(self.train_dataset), self.model.config.num_labels)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self._get_recipe("class_balance") != "sampler":
            return super()._get_train_sampler(train_dataset)
        labels = read_labels(self.train_dataset if train_dataset is None else train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return BalancedSampler(labels, self.model.config.num_labels, seed)

    def prediction_step(self, *args, **kwargs) -> tuple:
        loss, logits, labels = super().prediction_step(*args, **kwargs)
        if isinstance(self.compute_loss_func, VideoClassificationLoss) and logits is not None and labels is not None:
            each = self.compute_loss_func.compute_each(logits[0] if isinstance(logits, tuple) else logits, labels)
            sums = [values.flatten(1).sum(dim=1) if values.ndim > 1 else values for values in each]
            self._eval_losses.append(self.gather_function(torch.stack(sums, dim=1)))
        return loss, logits, labels

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        self._eval_losses = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._eval_losses:
            total, count = torch.cat(self._eval_losses).sum(dim=0)
            output.metrics[f"{metric_key_prefix}_loss"] = (total / count).item()
        return output

    def _get_recipe(self, name: str):
        return getattr(self.args, name, None)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        if not self._get_recipe("decay_biases_and_norms"):
            return super().get_decay_parameter_names(model)
        return list_parameters_without_batch_norm(model)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        layer_decay = self._get_recipe("layer_decay")
        if self.optimizer is None and layer_decay is not None:
            model = self.model if model is None else model
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = group_by_layer(
                model,
                layer_decay,
                settings["lr"],
                self.args.weight_decay,
                self.get_decay_parameter_names(model),
            )
            self.optimizer = optimizer_class(groups, **settings)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None and self._get_recipe("lr_factors"):
            self.lr_scheduler = make_step_schedule(
                optimizer or self.optimizer,
                self.args.lr_epochs,
                self.args.lr_factors,
                self.args.num_train_epochs,
                num_training_steps,
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self._average.applied() if self._average else contextlib.nullcontext():
            return super().evaluate(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str):
        super()._save_optimizer_and_scheduler(output_dir)
        if self._average and self.args.should_save:
            torch.save(self._average.state_dict(), Path(output_dir, AVERAGE_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._get_recipe("ema_decay") is not None:
            self._average = WeightAverage(self.model, self.args.ema_decay)
            path = Path(checkpoint, AVERAGE_NAME)
            if not path.is_file():
                raise FileNotFoundError(f"{checkpoint} has no {AVERAGE_NAME}: its run had no `ema_decay`.")
            self._average.load_state_dict(torch.load(path, map_location=self.args.device, weights_only=True))


class _KeepAverage(TrainerCallback):
    """Keeps the average of a [`RecipeTrainer`] up to date, and makes it the result of the training."""

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer._average is None:  # else it came with the checkpoint
            self.trainer._average = WeightAverage(self.trainer.model, args.ema_decay)

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer._average.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer._average.write()
        self.trainer._average = None
