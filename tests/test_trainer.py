"""VTNTrainer: its model card. (Its checkpoints are in test_resume.py, its logs in test_progress.py.)"""

from pathlib import Path

import pytest
from test_resume import make_trainer
from transformers import EvalPrediction


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
