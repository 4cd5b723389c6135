"""VTNTrainer: its model card, and which model it trains. (Checkpoints: test_resume.py, logs: test_progress.py.)"""

from pathlib import Path

import pytest
import torch
from test_resume import Clips, make_trainer
from tiny_models import make_vit_vtn
from transformers import EvalPrediction, TrainingArguments

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.optimization.replacement import Replacement
from vtn_hf.training.trainer import VTNTrainer


@pytest.mark.parametrize(
    ("metrics", "results", "protocol"),
    [
        ({"top1": 0.5}, ["| top1 | 0.5000 |"], "one centre crop."),
        (
            {"top1": 0.5, "top5": 1.0, "coverage": 0.95},
            ["| top1 | 0.5000 |", "| top5 | 1.0000 |"],
            "one centre crop, 95.0% of the videos.",
        ),
        ({"map": 0.25}, ["| map | 0.2500 |"], "one centre crop."),
        ({"mine": 0.5}, [], None),
    ],
    ids=["no coverage", "all", "several labels", "none of them"],
)
def test_the_card_has_the_results_that_there_are(tmp_path: Path, metrics: dict, results: list, protocol: str | None):
    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return metrics

    trainer = make_trainer(tmp_path, max_steps=1, compute_metrics=compute_metrics)
    trainer.train()
    trainer.evaluate()
    trainer.create_model_card(dataset="clips")
    card = (tmp_path / "README.md").read_text()
    assert [line for line in card.splitlines() if line.startswith(("| top", "| map", "| mine"))] == results
    assert ("## Results" in card) == (protocol is not None)
    assert protocol is None or f"On clips; whole videos, up to 250 frames, {protocol}" in card


@pytest.mark.parametrize("optimize", [True, False])
def test_on_a_cpu_the_faster_model_is_trained_and_so_is_the_one_given(tmp_path: Path, optimize: bool):
    model = make_vit_vtn(num_labels=2)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = VTNTrainer(
        model=model,
        args=TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, learning_rate=1e-2, save_strategy="no"),
        train_dataset=Clips(),
        processing_class=VTNVideoProcessor(),
        optimize=optimize,
    )
    assert any(isinstance(module, Replacement) for module in trainer.model.modules()) == optimize
    assert (trainer.model is model) != optimize
    trainer.train()
    after = model.state_dict()
    assert any(not torch.equal(after[name], weight) for name, weight in before.items())
    trainer.save_model(str(tmp_path / "saved"))
    saved = VTNForVideoClassification.from_pretrained(tmp_path / "saved")
    assert not any(isinstance(module, Replacement) for module in saved.modules())
    assert all(torch.equal(after[name], weight) for name, weight in saved.state_dict().items())
