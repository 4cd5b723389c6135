"""Loss, groups, schedule and average, against their definitions."""

import numpy as np
import pytest
import torch
from gradient_run import PROBLEM_TYPES, TRAINERS, measure
from torch import nn
from transformers import TrainingArguments

from vtn_hf import VTNConfig, VTNForVideoClassification, optimize
from vtn_hf.training.arguments import VTNTrainingArguments
from vtn_hf.training.recipe import (
    VideoClassificationLoss,
    WeightAverage,
    group_by_layer,
    list_blocks,
    list_parameters_without_batch_norm,
    make_step_schedule,
)
from vtn_hf.training.recipe_trainer import RecipeTrainer


VIT = {
    "model_type": "vit",
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 8,
    "patch_size": 4,
}
RESNET = {
    "model_type": "resnet",
    "layer_type": "basic",
    "embedding_size": 4,
    "hidden_sizes": [4, 8],
    "depths": [1, 2],
}


def make_model(backbone, num_labels=3, **kwargs):
    torch.manual_seed(0)
    config = VTNConfig(
        backbone_config=backbone,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=8,
        num_labels=num_labels,
        **kwargs,
    )
    return VTNForVideoClassification(config)


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-1.0, 3.0, 1.0]])


def make_loss(problem_type, label_smoothing=0.0):
    return VideoClassificationLoss(
        VTNConfig(backbone_config=VIT, num_attention_heads=2, num_labels=3, problem_type=problem_type), label_smoothing
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_classes(smoothing):
    loss = make_loss("single_label_classification", smoothing)
    labels = torch.tensor([0, 2, 1])
    expected = nn.functional.cross_entropy(LOGITS, labels, label_smoothing=smoothing)
    torch.testing.assert_close(loss({"logits": LOGITS}, labels), expected)
    # Shares of classes are the same labels in other words.
    torch.testing.assert_close(loss({"logits": LOGITS}, torch.eye(3)[labels]), expected)
    # Accumulated over batches of which this is a half.
    torch.testing.assert_close(loss({"logits": LOGITS}, labels, 6), expected / 2)
    torch.testing.assert_close(loss({"logits": LOGITS}, torch.eye(3)[labels], 18), expected / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_several_labels(smoothing):
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]])
    loss = make_loss("multi_label_classification", smoothing)
    targets = labels * (1 - smoothing) + smoothing / 2
    expected = nn.functional.binary_cross_entropy_with_logits(LOGITS, targets)
    torch.testing.assert_close(loss({"logits": LOGITS}, labels), expected)
    torch.testing.assert_close(loss({"logits": LOGITS}, labels, 18), expected / 2)


def test_loss_of_targets():
    labels = torch.randn(3, 3)
    expected = nn.functional.mse_loss(LOGITS, labels)
    torch.testing.assert_close(make_loss("regression")({"logits": LOGITS}, labels), expected)
    torch.testing.assert_close(make_loss("regression", 0.1)({"logits": LOGITS}, labels, 18), expected / 2)


@pytest.mark.parametrize(
    ("problem_type", "as_vectors"),
    [("single_label_classification", False), *((problem_type, True) for problem_type in PROBLEM_TYPES[:3])],
)
def test_videos_without_label_take_no_part(problem_type, as_vectors):
    loss = make_loss(problem_type)
    labels = torch.eye(3)[[0, 2]] if as_vectors else torch.tensor([0, 2])
    nothing = torch.full_like(labels[:1], -100)
    expected = loss({"logits": LOGITS[:2]}, labels)
    torch.testing.assert_close(loss({"logits": LOGITS}, torch.cat([labels, nothing])), expected)
    # Nothing at all is no loss, and no gradient that is not a number.
    logits = LOGITS[:1].clone().requires_grad_()
    for num_items in (None, torch.tensor(0)):
        total = loss({"logits": logits}, nothing, num_items)
        total.backward()
        assert total == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_labels_that_are_not_known_take_no_part():
    """Of several labels per video, some."""
    labels = torch.tensor([[1.0, -100, 1], [0, 0, -100], [1, 1, 1]])
    is_known = labels != -100
    expected = nn.functional.binary_cross_entropy_with_logits(LOGITS[is_known], labels[is_known])
    loss = make_loss("multi_label_classification")
    torch.testing.assert_close(loss({"logits": LOGITS}, labels), expected)
    torch.testing.assert_close(loss({"logits": LOGITS}, labels, is_known.sum()), expected)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_eight_videos_give_one_gradient_however_they_are_cut(trainer_class, problem_type):
    """For several processes, see test_training_distributed.py."""
    loss, gradient = measure(trainer_class, problem_type, num_batches=1)
    assert max(map(abs, gradient)) > 1e-3
    for num_batches in (2, 4):
        other_loss, other_gradient = measure(trainer_class, problem_type, num_batches)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(other_gradient, gradient, rtol=1e-4, atol=1e-7)


def test_decay_of_the_original():
    model = make_model(RESNET)
    names = list_parameters_without_batch_norm(model)
    spared = {name for name, _ in model.named_parameters()} - set(names)
    assert spared
    modules = dict(model.named_modules())
    assert all(isinstance(modules[name.rpartition(".")[0]], nn.BatchNorm2d) for name in spared)
    # Biases, layer normalisations, embeddings and the class token decay.
    assert {"classifier.out_proj.bias", "classifier.norm.weight", "classifier.norm.bias"} <= set(names)
    assert any("cls_token" in name for name in names)
    assert len(list_parameters_without_batch_norm(make_model(VIT))) == len(list(make_model(VIT).parameters()))


def test_step_schedule():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = make_step_schedule(optimizer, [0, 13, 24], [1, 0.1, 0.01], num_epochs=25, num_training_steps=75)
    rates = []
    for _ in range(75):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, [1e-3] * 39 + [1e-4] * 33 + [1e-5] * 3, rtol=1e-12)


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 7, 15014])
def test_step_schedule_changes_at_whole_epochs(steps_per_epoch):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_step_schedule(optimizer, [0, 13, 24], [1, 0.1, 0.01], 25, 25 * steps_per_epoch)
    (get_factor,) = schedule.lr_lambdas
    for epoch, before, after in ((13, 1, 0.1), (24, 0.1, 0.01)):
        assert get_factor(epoch * steps_per_epoch - 1) == before
        assert get_factor(epoch * steps_per_epoch) == after


def test_layer_decay_of_a_vit():
    model = make_model(VIT)
    assert len(list_blocks(model.vtn.backbone)) == len(list_blocks(optimize(model).vtn.backbone)) == 3
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    some = [name for name in names.values() if name.endswith("weight")]
    groups = group_by_layer(model, 0.5, 1.0, 0.05, some)
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    decays = {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert rates.keys() == set(names.values())
    assert groups[0]["lr"] == 1.0
    assert all(decays[name] == (0.05 if name in some else 0) for name in decays)
    for name, rate in rates.items():
        if not name.startswith("vtn.backbone."):
            assert rate == 1.0, name
        elif ".embeddings." in name:
            assert rate == 0.5**4, name
        elif "layer." in name or "layers." in name:
            number = next(int(part) for part in name.split(".") if part.isdigit())
            assert rate == 0.5 ** (3 - number), name
        else:
            assert rate == 0.5, name


@pytest.mark.parametrize(
    ("backbone", "num_blocks"),
    [
        (RESNET, 3),
        ({"model_type": "swin", "embed_dim": 4, "depths": [1, 2], "num_heads": [1, 1], "image_size": 32}, 3),
        ({"model_type": "convnext", "hidden_sizes": [4, 8], "depths": [2, 1], "num_stages": 2}, 3),
        ({**VIT, "model_type": "dinov2"}, 3),
        ({**VIT, "model_type": "clip_vision_model"}, 3),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_layer_decay_of_other_backbones(backbone, num_blocks):
    model = make_model(backbone)
    assert len(list_blocks(model.vtn.backbone)) == num_blocks
    assert len(list_blocks(optimize(model).vtn.backbone)) == num_blocks
    groups = group_by_layer(model, 0.5, 1.0, 0.0, [])
    assert sorted({group["lr"] for group in groups}) == [0.5**power for power in range(num_blocks + 1, -1, -1)]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_weight_average():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.9)
    expected = None
    for step in range(100):
        with torch.no_grad():
            model.weight.add_(torch.tensor([1.0, -2.0]))
            model.num_batches_tracked.add_(1)
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = model.weight.detach().clone() if step == 0 else decay * expected + (1 - decay) * model.weight
    own = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight, expected)
        assert model.num_batches_tracked == 100
    assert torch.equal(model.weight, own)
    average.write()
    torch.testing.assert_close(model.weight, expected)


class Features(torch.utils.data.Dataset):
    """Features of videos of three classes."""

    def __init__(self, size):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(size) % 3
        self.features = torch.randn(size, 4, 8, generator=generator) + self.labels[:, None, None]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"inputs_embeds": self.features[index], "labels": self.labels[index]}


def train(tmp_path, resume=False, **kwargs):
    args = VTNTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **kwargs,
    )
    model = make_model(VIT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0)
    trainer = RecipeTrainer(model=model, args=args, train_dataset=Features(12), eval_dataset=Features(6))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_trainer_with_an_average(tmp_path):
    kept = train(tmp_path / "a", save_strategy="steps", save_steps=1, ema_decay=0.5, learning_rate=0.01)
    plain = train(tmp_path / "b", save_strategy="no", learning_rate=0.01)
    # The same steps, another result.
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (kept, plain)]
    assert losses[0] == losses[1]
    name = "classifier.out_proj.weight"
    assert not torch.equal(kept.model.state_dict()[name], plain.model.state_dict()[name])
    # A run that goes on has the same average in the end.
    for path in (tmp_path / "a").iterdir():
        if path.name not in ("checkpoint-1", "checkpoint-2", "checkpoint-3"):
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    resumed = train(tmp_path / "a", resume=True, save_strategy="no", ema_decay=0.5, learning_rate=0.01)
    for key, value in kept.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_trainer_evaluates_the_average(tmp_path):
    trainer = train(tmp_path, save_strategy="no", eval_strategy="epoch", ema_decay=0.9, learning_rate=0.05)
    evaluated = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    # After the last step the average was evaluated, and is what is left.
    assert trainer.evaluate()["eval_loss"] == pytest.approx(evaluated[-1], abs=1e-6)


def test_trainer_builds_what_the_recipe_says(tmp_path):
    trainer = train(
        tmp_path,
        save_strategy="no",
        optim="sgd",
        optim_args="momentum=0.9,nesterov=True",
        learning_rate=1.0,
        weight_decay=0.1,
        decay_biases_and_norms=True,
        layer_decay=0.5,
        lr_epochs=[0, 1],
        lr_factors=[1, 0.1],
        max_grad_norm=0,
    )
    optimizer = trainer.optimizer.optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
    assert sorted(group["initial_lr"] for group in optimizer.param_groups) == [0.5**4, 0.5**3, 0.25, 0.5, 1.0]
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    np.testing.assert_allclose(rates, [1.0] * 3 + [0.1] * 3)


def test_plain_training_arguments_will_do(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), max_steps=1, report_to="none", save_strategy="no", use_cpu=True)
    trainer = RecipeTrainer(model=make_model(VIT), args=args, train_dataset=Features(4))
    trainer.train()
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr_epochs": [0, 1], "lr_factors": [1]}, "as many as `lr_factors`"),
        ({"lr_epochs": [1, 2], "lr_factors": [1, 1]}, "must begin with 0"),
        ({"lr_epochs": [0, 2, 1], "lr_factors": [1, 1, 1]}, "rise"),
        ({"layer_decay": 1.5}, "`layer_decay` must be between 0 and 1, got 1.5"),
        (
            {"ema_decay": 0.9, "load_best_model_at_end": True, "save_strategy": "epoch", "eval_strategy": "epoch"},
            "would load weights that are not averaged",
        ),
    ],
)
def test_arguments_that_contradict_each_other(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        VTNTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **fields)
