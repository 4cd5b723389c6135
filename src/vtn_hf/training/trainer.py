"""The `Trainer` for VTN: it logs its speed, and what it saves and pushes is complete, so that `pipeline` loads it."""

import shutil
from pathlib import Path

import torch
from transformers import TrainerCallback

from ..data.clips import ClipTransform
from ..data.feature_cache import CachedClips
from ..model_card import make_model_card
from ..optimization import find_vtn, optimize_once
from .checkpoint_trainer import CheckpointTrainer
from .progress import ProgressMeter


_CARD_METRICS = ("top1", "top5", "map")


class SetEpoch(TrainerCallback):
    """Tells a [`ClipTransform`] or [`CachedClips`] which epoch begins or is continued."""

    def __init__(self, transform: ClipTransform | CachedClips):
        self.transform = transform

    def on_train_begin(self, args, state, control, **kwargs):
        # A run that is continued in the middle of an epoch starts with a fraction.
        self._next = int(state.epoch)

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Of a stream, whose length nobody knows, `state.epoch` does not tell how often it has begun.
        self.transform.set_epoch(self._next)
        self._next += 1


class VTNTrainer(CheckpointTrainer):
    """
    A [`CheckpointTrainer`] whose checkpoints hold code and both processors beside weights and configuration, and whose
    logs tell the speed (see [`ProgressMeter`]).

    Its `processing_class` must be a [`VTNVideoProcessor`].

    Args:
        optimize (`bool`, *optional*, defaults to `True`): On a CPU, compute with `vtn_hf.optimize(model)`, whose
            weights are those of the model given.
        args, kwargs: As in `Trainer`.
    """

    def __init__(self, *args, optimize: bool = True, **kwargs):
        super().__init__(*args, **kwargs)
        is_on_cpu = self.args.device.type == "cpu" and not self._has_own_format()
        if optimize and is_on_cpu and find_vtn(self.model) is not None:
            self.model = self.model_wrapped = optimize_once(self.model)
        self._meter = ProgressMeter()
        self.add_callback(self._meter)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        with self._meter.wait_for_data():
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._meter.count(sum(len(batch["labels"]) for batch in batches) * self.args.world_size)
        return batches, num_items

    def log(self, logs: dict[str, float], start_time: float | None = None):
        if "loss" in logs:
            logs |= self._meter.read(self.state)
        super().log(logs, start_time)

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
