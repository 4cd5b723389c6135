"""When a training ends that does not get better."""

import pytest
from transformers import TrainerControl, TrainerState

from vtn_hf.training.arguments import VTNTrainingArguments
from vtn_hf.training.early_stopping import StopEarly


SETTINGS = {"eval_strategy": "epoch", "save_strategy": "epoch", "use_cpu": True}


@pytest.mark.parametrize(
    ("metric", "values", "is_over"),
    [
        (None, [], False),
        (None, [3, 2, 1], False),
        (None, [3, 2, 1, 1, 1], True),
        (None, [3, 1, 2, 1.5], True),
        (None, [3, 1, 2], False),
        ("top1", [0.1, 0.2, 0.3], False),
        ("eval_top1", [0.3, 0.3, 0.2], True),
    ],
)
def test_two_evaluations_without_a_better_one(tmp_path, metric, values, is_over):
    args = VTNTrainingArguments(str(tmp_path), load_best_model_at_end=True, metric_for_best_model=metric, **SETTINGS)
    log = [{f"eval_{(metric or 'loss').removeprefix('eval_')}": value} for value in values] + [{"loss": 1.0}]
    for event in ("on_evaluate", "on_train_begin"):  # also where a run goes on
        control = TrainerControl()
        getattr(StopEarly(2), event)(args, TrainerState(log_history=log), control)
        assert control.should_training_stop == is_over


@pytest.mark.parametrize("settings", [{"early_stopping": 0, "load_best_model_at_end": True}, {"early_stopping": 3}])
def test_what_it_needs(tmp_path, settings):
    with pytest.raises(ValueError, match="`early_stopping` must be a number of evaluations, got "):
        VTNTrainingArguments(str(tmp_path), **settings, **SETTINGS)
