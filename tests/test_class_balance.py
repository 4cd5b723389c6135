"""Rare classes: how often they are drawn, how much they weigh, and that training does so."""

from collections import Counter

import pytest
import torch
from datasets import Dataset
from test_recipe import RESNET, make_model
from torch import nn

from vtn_hf.training.arguments import VTNTrainingArguments
from vtn_hf.training.class_balance import BalancedSampler, compute_class_weights, read_labels
from vtn_hf.training.recipe import VideoClassificationLoss
from vtn_hf.training.recipe_trainer import RecipeTrainer


# One of class 1 for twenty of class 0, and of class 2 none.
LABELS = [0] * 200 + [1] * 10


def test_weights():
    weights = compute_class_weights([[label] for label in LABELS], 3)
    assert weights.tolist() == pytest.approx([105 / 200, 10.5, 1.0])
    assert weights[LABELS].mean() == pytest.approx(1.0)


def test_sampler():
    sampler = BalancedSampler([[label] for label in LABELS], 3, seed=0)
    first = list(sampler)
    assert len(first) == len(sampler) == 210 and set(first) <= set(range(210))
    assert list(sampler) == first
    draws = first
    for epoch in range(1, 20):
        sampler.set_epoch(epoch)
        draws = draws + list(sampler)
    assert draws[210:420] != first
    counts = Counter(LABELS[index] for index in draws)
    assert counts[1] / len(draws) == pytest.approx(0.5, abs=0.03)
    assert len({index for index in draws if LABELS[index]}) == 10
    # A video of several classes is drawn as often as the rarest of them.
    assert BalancedSampler([[0], [0], [0, 1], []], 2, 0)._weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2, 1])


def test_loss():
    """That of torch, which divides by the weights' sum, while here their mean is 1 over all videos."""
    model, generator = make_model(RESNET), torch.Generator().manual_seed(0)
    logits, labels = torch.randn(210, 3, generator=generator), torch.tensor(LABELS)
    weights = compute_class_weights([[label] for label in LABELS], 3)
    loss = VideoClassificationLoss(model.config, class_weights=weights)
    model.config.problem_type = "single_label_classification"
    expected = nn.functional.cross_entropy(logits, labels, weight=weights)
    torch.testing.assert_close(loss({"logits": logits}, labels), expected)
    one_hot = nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(loss({"logits": logits}, one_hot), expected)
    hidden = torch.cat([labels, torch.tensor([-100])])
    torch.testing.assert_close(loss({"logits": torch.cat([logits, logits[:1]])}, hidden), expected)


class Features(torch.utils.data.Dataset):
    """Two frames of two numbers each, with the columns of a data set that training reads labels from."""

    def __init__(self, labels):
        self.rows = Dataset.from_dict({"label": labels})

    def with_format(self, _):
        return self.rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"inputs_embeds": torch.ones(2, 8), "labels": self.rows[index]["label"], "number": index}


def make_trainer(tmp_path, balance, **settings):
    model = make_model(RESNET)
    for name, value in settings.items():
        setattr(model.config, name, value)
    args = VTNTrainingArguments(
        tmp_path, class_balance=balance, use_cpu=True, report_to="none", per_device_train_batch_size=70
    )
    return RecipeTrainer(model, args, train_dataset=Features(LABELS))


def test_trainer(tmp_path):
    counts = {}
    for balance in ("none", "sampler", "loss"):
        trainer = make_trainer(tmp_path, balance)
        counts[balance] = sum((batch["labels"] == 1).sum().item() for batch in trainer.get_train_dataloader())
        weights = trainer.compute_loss_func.class_weights
        assert (weights is None) == (balance != "loss")
    assert counts["none"] == counts["loss"] == 10 and 80 < counts["sampler"] < 130
    trainer.train()
    assert trainer.state.global_step == 9


def test_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="`class_balance` must be one of none, sampler, loss, got 'both'"):
        VTNTrainingArguments(tmp_path, class_balance="both")
    with pytest.raises(ValueError, match="one class per video"):
        make_trainer(tmp_path, "loss", problem_type="multi_label_classification")
    stream = Dataset.from_dict({"label": [0]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="a stream does not tell"):
        read_labels(stream)
    assert read_labels(Dataset.from_dict({"label": [[0, 2], []]})) == [[0, 2], []]
