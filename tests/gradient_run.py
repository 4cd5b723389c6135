"""
The gradients of eight videos for every kind of labels and both trainers, by one process or several that share them:

    torchrun --nproc_per_node 2 tests/gradient_run.py RESULT.json
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from vtn_hf import VTNConfig, VTNForVideoClassification
from vtn_hf.training.recipe_trainer import RecipeTrainer


TRAINERS = (Trainer, RecipeTrainer)
# Where the type is not given, numbers with a fraction are several labels.
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression", None)


def make_clips(problem_type: str | None) -> list[dict[str, torch.Tensor]]:
    """Features of eight videos with labels; one of the videos has none, where that can be said."""
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(8, 4, 8, generator=generator), torch.randn(8, 3, generator=generator)
    labels = {
        "regression": targets,
        "single_label_classification": torch.tensor([0, 1, 2, -100, 1, 2, 0, 1]),
    }.get(problem_type, (targets > 0).float().index_fill(0, torch.tensor([5]), -100))
    return [{"inputs_embeds": each, "labels": label} for each, label in zip(features, labels, strict=True)]


def make_model(problem_type: str | None) -> VTNForVideoClassification:
    torch.manual_seed(0)
    backbone = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = VTNConfig(
        backbone_config=backbone | {"intermediate_size": 8, "image_size": 16, "patch_size": 16},
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=3,
        problem_type=problem_type,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout=0.0,
    )
    model = VTNForVideoClassification(config)
    model.freeze_backbone()  # it has no part in features, which several processes would complain of
    return model


def measure(trainer_class: type[Trainer], problem_type: str | None, num_batches: int) -> tuple[float, list[float]]:
    """The loss that is logged and the gradient of a step over the eight videos in so many batches of each process."""
    gradient = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            gradient.extend(
                value for weight in model.parameters() if weight.grad is not None for value in weight.grad.flatten()
            )

    with tempfile.TemporaryDirectory() as output_dir:
        arguments = TrainingArguments(
            output_dir,
            per_device_train_batch_size=8 // num_batches // int(os.environ.get("WORLD_SIZE", 1)),
            gradient_accumulation_steps=num_batches,
            max_steps=1,
            max_grad_norm=0,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = trainer_class(
            model=make_model(problem_type), args=arguments, train_dataset=make_clips(problem_type), callbacks=[Watch()]
        )
        trainer.train()
    (loss,) = (entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return loss, torch.stack(gradient).tolist()


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = [measure(trainer, kind, num_batches=2) for trainer in TRAINERS for kind in PROBLEM_TYPES]
    if os.environ.get("RANK", "0") == "0":
        Path(sys.argv[1]).write_text(json.dumps(results))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
