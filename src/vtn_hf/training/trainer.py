"""`Trainer` for VTN: what it saves is complete, so that `pipeline` loads it."""

from pathlib import Path

from transformers import Trainer, TrainerCallback

from ..data.clips import ClipTransform
from .model_card import make_model_card


class SetEpoch(TrainerCallback):
    """Tells a [`ClipTransform`] which epoch begins, or goes on after a stop."""

    def __init__(self, transform: ClipTransform):
        self.transform = transform

    def on_epoch_begin(self, args, state, control, **kwargs):
        # A run that goes on in the middle of an epoch begins with a fraction.
        self.transform.set_epoch(int(state.epoch))


class VTNTrainer(Trainer):
    """
    A `Trainer` whose checkpoints hold both processors and a model card beside weights and configuration.

    Its `processing_class` must be a [`VTNVideoProcessor`].
    """

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        super()._save(output_dir, state_dict)
        self.processing_class.to_image_processor().save_pretrained(output_dir or self.args.output_dir)

    def create_model_card(self, dataset: str | None = None, base_model: str | None = None, **kwargs):
        """
        Writes `README.md` into the output directory, with the results of the last evaluation.

        Args:
            dataset (`str`, *optional*): Name of the collection of videos.
            base_model (`str`, *optional*): The model, or backbone, that training started from.
        """
        if not self.is_world_process_zero():
            return
        evaluations = [entry for entry in self.state.log_history if "eval_top1" in entry]
        metrics = {name: evaluations[-1][f"eval_{name}"] for name in ("top1", "top5")} if evaluations else None
        config = self.model.config
        make_model_card(
            title=Path(self.args.output_dir).name,
            description=(
                f"A [Video Transformer Network](https://huggingface.co/papers/2102.00719) on a "
                f"{config.backbone_config.model_type} backbone, trained with `vtn_hf` for "
                f"{self.state.epoch or 0:g} epochs to tell {config.num_labels} classes apart: "
                f"{', '.join(config.id2label.values())}."
            ),
            model_id=self.hub_model_id or "MODEL_DIR_OR_REPO",
            base_model=base_model,
            dataset=dataset,
            metrics=metrics,
            protocol=f"whole videos, up to {self.processing_class.num_frames} frames, one centre crop",
        ).save(Path(self.args.output_dir) / "README.md")
