"""Stops runs in which too few videos can be read, instead of training on black frames."""

import math

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.coverage import SkippedVideos


def check_coverage(num_read: int, num_videos: int, min_coverage: float, what: str):
    """
    Checks how many of the videos could be read; `what` they are is said in the error.

    Raises:
        ValueError: If less than `min_coverage` of the videos could be read, or none at all.
    """
    if num_videos > 0 and num_read < max(min_coverage * num_videos, 1):
        raise ValueError(
            f"Only {num_read:,} of {num_videos:,} {what} could be read; --min_coverage asks for {min_coverage:.0%}."
        )


def is_hopeless(num_failed: int, num_tried: int, min_coverage: float) -> bool:
    """Whether more videos failed than chance explains (five standard deviations), if `min_coverage` can be read."""
    allowed = 1 - min_coverage
    return num_failed > num_tried * allowed + 5 * math.sqrt((num_tried + 4) * allowed * min_coverage)


class CheckCoverage(TrainerCallback):
    """
    Stops a training in which too few videos can be decoded: after each epoch, and before that as soon as it is clear.

    Args:
        skipped (`SkippedVideos`): The list that the [`ClipTransform`] of the training writes.
        num_videos (`int`, *optional*): Videos that are trained on; `None` for a stream, which does not tell.
        num_left_out (`int`): Annotated videos that are not among them.
        min_coverage (`float`): Share of the annotated videos that must be readable.

    Raises:
        ValueError: In training, if fewer are.
    """

    def __init__(self, skipped: SkippedVideos, num_videos: int | None, num_left_out: int, min_coverage: float):
        self.skipped, self.min_coverage = skipped, min_coverage
        self.num_videos, self.num_left_out = num_videos, num_left_out

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._first_step, self._num_failed_before = state.global_step, self.skipped.count()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        # The workers are ahead of the steps, and so are the failures that they note.
        num_ahead = 1 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
        num_rounds = (state.global_step - self._first_step) * args.gradient_accumulation_steps + num_ahead
        num_tried = num_rounds * args.train_batch_size * args.world_size
        num_failed = self.skipped.count() - self._num_failed_before
        if is_hopeless(num_failed, num_tried, self.min_coverage):
            check_coverage(max(num_tried - num_failed, 0), num_tried, self.min_coverage, "training videos so far")

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.num_videos is not None:
            num_read = self.num_videos - len(self.skipped.summarize())
            check_coverage(num_read, self.num_videos + self.num_left_out, self.min_coverage, "training videos")
