"""The quickstart, and the models that it compares a VTN with."""

import contextlib
import json
from pathlib import Path

import pytest
import quickstart
import torch
from baselines import FrameAverageClassifier, LSTMClassifier
from torch.testing import assert_close
from transformers import TrainingArguments

from vtn_hf import VTNConfig, VTNVideoProcessor
from vtn_hf.training.trainer import VTNTrainer


BACKBONE = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}


@pytest.mark.parametrize("model_class", [FrameAverageClassifier, LSTMClassifier])
def test_baselines_train(model_class: type, tmp_path: Path):
    torch.manual_seed(0)
    model = model_class(VTNConfig(backbone_config=BACKBONE, num_labels=3))
    videos = [{"pixel_values": torch.randn(4, 3, 32, 32), "labels": number % 3} for number in range(4)]
    args = TrainingArguments(tmp_path, max_steps=2, per_device_train_batch_size=2, report_to="none", use_cpu=True)
    args.remove_unused_columns = False
    before = model.classifier.weight.clone()
    trainer = VTNTrainer(model=model, args=args, train_dataset=videos, processing_class=VTNVideoProcessor())
    trainer.train()
    assert not torch.equal(model.classifier.weight, before)
    with torch.no_grad():
        pixels = torch.stack([video["pixel_values"] for video in videos])
        assert_close(trainer.model.eval()(pixels).logits, model.eval()(pixels).logits)


@pytest.mark.slow
def test_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quickstart, "NUM_TRAIN", 40)
    monkeypatch.setattr(quickstart, "NUM_VAL", 20)
    with contextlib.chdir(tmp_path):
        quickstart.main()
    summary = json.loads((tmp_path / "runs/quickstart/summary.json").read_text())
    assert summary["num_classes"] == 10
    assert all(0 <= summary[name] <= 1 for name in ("top1", "top1_shuffled", "top1_frame_average"))
