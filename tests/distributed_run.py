"""
A training run that test_training_distributed.py starts, as one process or as one of several:

    torchrun --nproc_per_node 2 tests/distributed_run.py OUTPUT_DIR '{"per_device_train_batch_size": 2}'

Leaves `result.json` in OUTPUT_DIR, with the losses and what the evaluation saw, beside the model.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import TrainingArguments

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.training.trainer import SetEpoch, VTNTrainer


NUM_VIDEOS, NUM_EVALUATED, NUM_FEATURES = 16, 13, 8


class Clips(torch.utils.data.Dataset):
    """Noise of a few lengths, of two classes. The label of an evaluated video is its number."""

    def __init__(self, num_videos: int, num_classes: int):
        self.num_videos, self.num_classes = num_videos, num_classes

    def __len__(self) -> int:
        return self.num_videos

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        features = torch.randn(5, NUM_FEATURES, generator=generator)
        return {"inputs_embeds": features, "labels": torch.tensor(index % self.num_classes)}

    def set_epoch(self, epoch: int):
        """Nothing is drawn."""


def pretend_to_be_gpus(arguments: TrainingArguments):
    """accelerate takes no notice of FSDP on CPUs; torch does it there as well."""
    assert arguments.distributed_state.distributed_type == DistributedType.MULTI_CPU
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def main(output_dir: str, settings: dict):
    torch.set_num_threads(1)
    backbone = {"model_type": "vit", "hidden_size": NUM_FEATURES, "num_hidden_layers": 1, "num_attention_heads": 2}
    backbone |= {"intermediate_size": 8, "image_size": 16, "patch_size": 16}
    config = VTNConfig(
        backbone_config=backbone,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=NUM_EVALUATED,
        initializer_range=0.5,
        hidden_dropout_prob=settings.pop("dropout", 0.0),
        attention_probs_dropout_prob=0.0,
        classifier_dropout=0.0,
    )
    resume = settings.pop("resume", False)
    # What goes on must not owe anything to the weights that it begins with.
    torch.manual_seed(1 if resume else 0)
    # With Adam, rounding would decide over weights whose gradient is zero: the biases of the keys.
    defaults = {"num_train_epochs": 2, "optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.1}
    defaults |= {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    defaults |= {"per_device_eval_batch_size": 2}
    arguments = TrainingArguments(output_dir, **defaults | settings)
    if arguments.fsdp:
        pretend_to_be_gpus(arguments)
    clips = Clips(NUM_VIDEOS, 2)
    config.problem_type = "single_label_classification"
    model = VTNForVideoClassification(config)
    # It is not used here, and FSDP goes on only with weights that all have a state in the optimizer.
    model.freeze_backbone()
    trainer = VTNTrainer(
        model=model,
        args=arguments,
        train_dataset=clips,
        processing_class=VTNVideoProcessor(),
        callbacks=[SetEpoch(clips)],
    )
    trainer.train(resume_from_checkpoint=resume)
    prediction = trainer.predict(Clips(NUM_EVALUATED, NUM_EVALUATED))
    trainer.save_model()
    if trainer.is_world_process_zero():
        result = {
            "mode": str(trainer.accelerator.distributed_type),
            "num_processes": trainer.accelerator.num_processes,
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            "labels": prediction.label_ids.tolist(),
            "logits": prediction.predictions.tolist(),
            "eval_loss": prediction.metrics["test_loss"],
        }
        Path(output_dir, "result.json").write_text(json.dumps(result))
    # FSDP's backward threads outlive the process group otherwise.
    sys.stdout.flush()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
