"""A `Trainer` that continues from a checkpoint exactly or not at all."""

import os
import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer import (
    FSDP_MODEL_NAME,
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
    TRAINING_ARGS_NAME,
)
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    TrainOutput,
    get_last_checkpoint,
    has_length,
    rotate_checkpoints,
    sort_checkpoints,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from .checkpoints import check_adapters, list_problems, load_weights, sync
from .recipe_trainer import AVERAGE_NAME, RecipeTrainer


# Where a checkpoint is while it is written, below the output directory. Trainer's pushes to the Hub pass over `_*`.
_UNFINISHED = "_unfinished"
# Name of ours in the trainer's state.
_PROGRESS = "VTNTrainer"


class CheckpointTrainer(RecipeTrainer):
    """
    A [`RecipeTrainer`] that, stopped at any moment and continued, ends with the weights and the curve that it would
    have had, or says why it cannot.

    A checkpoint gets its name when all of it is on the disk, and only then older ones are deleted: killed at any
    moment, or on a full disk, the last `checkpoint-*` is good to go on from. Weights are loaded all or not at all. A
    loss, weight or score that is not a finite number is an error.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if hasattr(self.model, "peft_config"):
            check_adapters(self.model)
        self._resumed_from: Path | None = None
        self._is_saving_checkpoint = False
        self.add_callback(_GoOn(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> TrainOutput:
        """
        As in `Trainer`.

        Raises:
            ValueError: If something is missing or damaged in the checkpoint; says which files, and which is the last
                checkpoint before it that is whole.
            FloatingPointError: If a loss, or in the end a weight, is not a finite number.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir) or True
        self._resumed_from = None
        if isinstance(resume_from_checkpoint, str | os.PathLike):
            self._resumed_from = Path(resume_from_checkpoint)
            self._check_checkpoint(self._resumed_from)
        output = super().train(resume_from_checkpoint, *args, **kwargs)
        self._check_finite_weights()
        return output

    def _check_checkpoint(self, checkpoint: Path):
        files = self._list_checkpoint_files()
        problems = list_problems(checkpoint, files)
        if not problems:
            return
        others = sort_checkpoints(str(checkpoint.parent))
        earlier = others[: others.index(str(checkpoint))] if str(checkpoint) in others else others
        whole = [other for other in earlier if not list_problems(other, files)]
        offer = "no checkpoint before it is whole."
        if whole:
            offer = f"{whole[-1]}, before it, is whole: ask for it with resume_from_checkpoint."
        raise ValueError(f"There is no going on from {checkpoint}: {'; '.join(problems)}; {offer}")

    def _list_checkpoint_files(self) -> list[str]:
        """The files that are needed to continue."""
        files = []
        if self.is_fsdp_enabled:
            is_whole = "FULL" in str(self.accelerator.state.fsdp_plugin.state_dict_type)
            files += [f"{name}.bin" if is_whole else f"{name}_0/.metadata" for name in (FSDP_MODEL_NAME, "optimizer")]
            files += [SCHEDULER_NAME]
        elif not self.is_deepspeed_enabled:  # which looks for its own files
            files += [SAFE_WEIGHTS_NAME, OPTIMIZER_NAME, SCHEDULER_NAME, TRAINING_ARGS_NAME]
        size = self.args.world_size
        files += [f"rng_state_{rank}.pth" for rank in range(size)] if size > 1 else ["rng_state.pth"]
        files += [SCALER_NAME] * (self.accelerator.scaler is not None)
        files += [AVERAGE_NAME] * (self._get_recipe("ema_decay") is not None)
        return files

    def log(self, logs: dict[str, float], start_time: float | None = None):
        if "train_loss" in logs:  # `Trainer` averages over the steps since it went on
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if not loss.isfinite():
            raise FloatingPointError(
                f"The loss of step {self.state.global_step + 1} is {loss.item()}: training stops. A lower "
                "learning_rate or max_grad_norm may help."
            )
        return loss

    def _check_finite_weights(self):
        for name, weight in self.model.named_parameters():
            own_part = weight.to_local() if hasattr(weight, "to_local") else weight  # with FSDP
            if not own_part.isfinite().all():
                raise FloatingPointError(f"After step {self.state.global_step} the weights {name} are not finite.")

    def prediction_step(self, *args, **kwargs) -> tuple:
        loss, logits, labels = super().prediction_step(*args, **kwargs)
        scores = loss if logits is None else logits[0] if isinstance(logits, tuple) else logits
        if scores is not None and not scores.isfinite().all():
            raise FloatingPointError("The scores of the model are not finite numbers, so it has no accuracy.")
        return loss, logits, labels

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None):
        if self._has_own_format():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model, resume_from_checkpoint)

    def _load_best_model(self):
        if self._has_own_format():
            super()._load_best_model()
        else:
            load_weights(self.model, self.state.best_model_checkpoint)

    def _has_own_format(self) -> bool:
        """FSDP and DeepSpeed write the weights once more, under the names of the model, and load these strictly."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        if self.is_fsdp_enabled and not _internal_call:
            # Of parts, with which checkpoints are written faster, no model can be made.
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        super().save_model(output_dir, _internal_call)

    def _note_progress(self):
        """
        Keeps in the trainer's state the losses that are not logged yet, so that the curve has no gap, and how far a
        stream has been read.
        """
        noted = {
            "losses": self.accelerator.gather(self._tr_loss.reshape(1)).tolist(),
            "total": self._total_loss_scalar,
            "step": self._globalstep_last_logged,
        }
        if not has_length(self.train_dataset):
            noted["places"] = self._gather_places()
        self.state.stateful_callbacks[_PROGRESS] = {"args": {}, "attributes": noted}

    def _gather_places(self) -> list[list[int]]:
        """Of each process, how often it has begun its stream, and how many batches it has had since."""
        num_batches = round((self.state.epoch - self._epoch) * self._num_batches_in_epoch)
        place = torch.tensor([[self._epoch, num_batches]], device=self.args.device)
        return self.accelerator.gather(place).tolist()

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        begun = super()._init_training_state(*args, **kwargs)
        places = self.state.stateful_callbacks.get(_PROGRESS, {}).get("attributes", {}).get("places")
        if self._resumed_from is None or places is None:
            return begun
        # `Trainer` does not know when a stream has begun anew, which each process does at a time of its own.
        epoch, num_batches = places[self.args.process_index]
        self.state.epoch = epoch
        return epoch, 0 if self.args.ignore_data_skip else num_batches

    def _run_epoch(self, *args, epoch: int, steps_in_epoch: int, **kwargs):
        self._epoch, self._num_batches_in_epoch = epoch, steps_in_epoch
        super()._run_epoch(*args, epoch=epoch, steps_in_epoch=steps_in_epoch, **kwargs)

    def _go_on(self):
        """Restores what `Trainer` does not: losses not logged yet, the best checkpoint of a folder that was moved."""
        if _PROGRESS in self.state.stateful_callbacks:
            noted = self.state.stateful_callbacks[_PROGRESS]["attributes"]
            self._tr_loss += noted["losses"][self.args.process_index]
            self._total_loss_scalar, self._globalstep_last_logged = noted["total"], noted["step"]
        if self.args.load_best_model_at_end and self.state.best_global_step:
            best = self._resumed_from.parent / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            if best.is_dir():
                self.state.best_model_checkpoint = str(best)
            if self.state.best_model_checkpoint is None:
                raise ValueError(
                    f"{best}, the best checkpoint so far, is missing, and load_best_model_at_end needs it."
                )

    def _get_output_dir(self, trial) -> str:
        output_dir = super()._get_output_dir(trial)
        return str(Path(output_dir, _UNFINISHED)) if self._is_saving_checkpoint else output_dir

    def _save_checkpoint(self, model: nn.Module, trial):
        output_dir = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        unfinished, checkpoint = output_dir / _UNFINISHED / name, output_dir / name
        if self.args.should_save:
            # Left behind by a run that was killed.
            shutil.rmtree(unfinished.parent, ignore_errors=True)
        self._check_finite_weights()
        self._note_progress()
        self.accelerator.wait_for_everyone()
        self._is_saving_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_global_step == self.state.global_step:
                self.state.best_model_checkpoint = str(checkpoint)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
                sync([*unfinished.rglob("*"), unfinished])
                shutil.rmtree(checkpoint, ignore_errors=True)
                unfinished.rename(checkpoint)
                sync([output_dir])
        finally:
            self._is_saving_checkpoint = False
            if self.args.should_save:
                shutil.rmtree(unfinished.parent, ignore_errors=True)
        if self.args.should_save:
            # By number: a run that was killed while it deleted a checkpoint has touched it last.
            rotate_checkpoints(str(output_dir), self.args.save_total_limit, self.state.best_model_checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))


class _GoOn(TrainerCallback):
    def __init__(self, trainer: CheckpointTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer._resumed_from is not None:
            self.trainer._go_on()
