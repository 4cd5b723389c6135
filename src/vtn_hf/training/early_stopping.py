"""Early stopping by the log of a training, so that it counts on when the training is continued from a checkpoint."""

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopEarly(TrainerCallback):
    """
    Ends a training, for `Trainer(callbacks=…)` with `load_best_model_at_end`, after some evaluations in a row that are
    no better than the best one before them. Unlike transformers' `EarlyStoppingCallback`, it counts on when a run is
    continued from a checkpoint.

    Args:
        patience (`int`): Number of these evaluations.
    """

    def __init__(self, patience: int):
        self.patience = patience

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._decide(args, state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._decide(args, state, control)

    def _decide(self, args: TrainingArguments, state: TrainerState, control: TrainerControl):
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        values = [entry[name] for entry in state.log_history if name in entry]
        if values:
            best = values.index((max if args.greater_is_better else min)(values))
            control.should_training_stop |= len(values) - 1 - best >= self.patience
