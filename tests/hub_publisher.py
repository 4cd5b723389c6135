"""
Run by test_hub.py as a process that has vtn_hf: publishes a model through `push_to_hub`, and another one through
`VTNTrainer`, and leaves in a folder what they answer.

    python hub_publisher.py CLIP.mp4 FOLDER [--model_only]
"""

import sys
from pathlib import Path

import conftest  # noqa: F401 - lets torchvision be imported
import torch
from tiny_models import make_vit_vtn
from transformers import TrainingArguments, pipeline

from vtn_hf import VTNVideoProcessor
from vtn_hf.training.metrics import compute_top_accuracy, keep_logits
from vtn_hf.training.trainer import VTNTrainer


NUM_FRAMES = 8


def main(clip: str, folder: Path, model_only: bool):
    model = make_vit_vtn(num_frames=NUM_FRAMES, num_labels=5)
    processor = VTNVideoProcessor(
        num_frames=NUM_FRAMES, size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16}
    )
    model.push_to_hub("tester/vtn")
    if model_only:
        return
    processor.push_to_hub("tester/vtn")

    inputs = processor(clip, return_tensors="pt")
    with torch.no_grad():
        outputs = {"logits": model(**inputs).logits, "pooler_output": model.vtn(**inputs).pooler_output}
    model.save_pretrained(folder / "local")
    processor.save_pretrained(folder / "local")
    scores = pipeline("video-classification", model=str(folder / "local"))(clip)

    examples = [{"pixel_values": inputs.pixel_values[0], "labels": label} for label in range(4)]
    trainer = VTNTrainer(
        model=model,
        args=TrainingArguments(
            folder / "trained",
            push_to_hub=True,
            hub_model_id="tester/trained",
            max_steps=2,
            save_steps=1,
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=examples,
        eval_dataset=examples,
        processing_class=processor,
        compute_metrics=compute_top_accuracy,
        preprocess_logits_for_metrics=keep_logits,
    )
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub(dataset="motion-clips", base_model="facebook/dinov2-small")
    model.eval()
    with torch.no_grad():
        trained_logits = model(**inputs).logits
    torch.save(
        {"inputs": dict(inputs), "scores": scores, "trained_logits": trained_logits, **outputs}, folder / "expected.pt"
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), "--model_only" in sys.argv)
