"""`Trainer` for VTN: it says how fast it is, and what it saves and pushes is complete, so that `pipeline` loads it."""

import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..data.clips import ClipTransform
from ..data.feature_cache import CachedClips
from ..model_card_vtn import make_model_card
from .checkpoints import check_adapters, load_weights
from .optimization import RecipeTrainer
from .progress import ProgressMeter


# Where a checkpoint is while it is written, below the output directory. Trainer's pushes to the Hub pass over `_*`.
_UNFINISHED = "_unfinished"
_CARD_METRICS = ("top1", "top5", "map")


class SetEpoch(TrainerCallback):
    """Tells a [`ClipTransform`] or [`CachedClips`] which epoch begins, or goes on after a stop."""

    def __init__(self, transform: ClipTransform | CachedClips):
        self.transform = transform

    def on_epoch_begin(self, args, state, control, **kwargs):
        # A run that goes on in the middle of an epoch begins with a fraction.
        self.transform.set_epoch(int(state.epoch))


class VTNTrainer(RecipeTrainer):
    """
    A [`RecipeTrainer`] whose checkpoints hold code and both processors beside weights and configuration, and whose
    logs tell the speed (see [`ProgressMeter`]).

    A checkpoint gets its name when it is complete, and only then older ones are deleted: killed at any moment, or on
    a full disk, the last `checkpoint-*` is good to go on from.

    Its `processing_class` must be a [`VTNVideoProcessor`].
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if hasattr(self.model, "peft_config"):
            check_adapters(self.model)
        self._meter = ProgressMeter()
        self.add_callback(self._meter)
        self._is_saving_checkpoint = False

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        with self._meter.wait_for_data():
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._meter.count(sum(len(batch["labels"]) for batch in batches) * self.args.world_size)
        return batches, num_items

    def log(self, logs: dict[str, float], start_time: float | None = None):
        if "loss" in logs:
            logs |= self._meter.read(self.state)
        super().log(logs, start_time)

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

    def _get_output_dir(self, trial) -> str:
        output_dir = super()._get_output_dir(trial)
        return str(Path(output_dir, _UNFINISHED)) if self._is_saving_checkpoint else output_dir

    def _save_checkpoint(self, model: nn.Module, trial):
        output_dir = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        unfinished, checkpoint = output_dir / _UNFINISHED / name, output_dir / name
        if self.args.should_save:
            # What a killed run left.
            shutil.rmtree(unfinished.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._is_saving_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_global_step == self.state.global_step:
                self.state.best_model_checkpoint = str(checkpoint)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
                shutil.rmtree(checkpoint, ignore_errors=True)
                unfinished.rename(checkpoint)
        finally:
            self._is_saving_checkpoint = False
            if self.args.should_save:
                shutil.rmtree(unfinished.parent, ignore_errors=True)
        if self.args.should_save:
            # By number: a run that was killed while it deleted a checkpoint has touched it last.
            rotate_checkpoints(str(output_dir), self.args.save_total_limit, self.state.best_model_checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def _push_from_checkpoint(self, checkpoint_folder: str):
        # Uploads go on in the background: they start when the checkpoint is where it stays.
        if self._is_saving_checkpoint:
            return
        if self.is_world_process_zero():
            # transformers copies weights and configuration into what it pushes, but not the code that they need.
            for file in Path(checkpoint_folder).glob("*_vtn.py"):
                shutil.copy(file, self.args.output_dir)
        super()._push_from_checkpoint(checkpoint_folder)

    def _prepare_inputs(self, inputs: dict) -> dict:
        """Normalises on the device what the workers have left as bytes."""
        inputs = super()._prepare_inputs(inputs)
        pixel_values = inputs.get("pixel_values")
        if pixel_values is not None and pixel_values.dtype == torch.uint8:
            inputs["pixel_values"] = self.processing_class.normalize_uint8(pixel_values)
        return inputs

    def create_model_card(
        self, dataset: str | None = None, base_model: str | None = None, license: str = "apache-2.0", **kwargs
    ):
        """
        Writes `README.md` into the output directory, with the results of the last evaluation: `top1`, `top5` or `map`,
        and `coverage`, as far as `compute_metrics` gives them.

        Args:
            dataset (`str`, *optional*): Name of the collection of videos.
            base_model (`str`, *optional*): The model, or backbone, that training started from.
            license (`str`, *optional*, defaults to `"apache-2.0"`): Of the weights, as the Hub names it.
        """
        if not self.is_world_process_zero():
            return
        evaluation = next((entry for entry in reversed(self.state.log_history) if "eval_loss" in entry), {})
        metrics = {name: evaluation[f"eval_{name}"] for name in _CARD_METRICS if f"eval_{name}" in evaluation}
        # How many of the videos the accuracy stands for, where `compute_metrics` tells.
        coverage = f", {evaluation['eval_coverage']:.1%} of the videos" if "eval_coverage" in evaluation else ""
        make_model_card(
            self.model.config,
            self.hub_model_id or self.args.output_dir,
            base_model=base_model,
            dataset=dataset,
            metrics=metrics,
            protocol=f"whole videos, up to {self.processing_class.num_frames} frames, one centre crop{coverage}",
            training=f"Trained with `vtn_hf` for {self.state.epoch or 0:g} epochs.",
            license=license,
        ).save(Path(self.args.output_dir) / "README.md")
