"""What a training run logs about itself: speed, waiting for data, memory, time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ProgressMeter(TrainerCallback):
    """
    Measures the training steps between two logs; evaluating and saving do not count, except in the time left.

    A step lasts from the request for its batches ([`wait_for_data`]) to the end of the optimizer's step.
    """

    def __init__(self):
        self._reset()

    def _reset(self):
        self._num_videos = 0
        self._seconds = 0.0
        self._waiting_seconds = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._reset()
        self._train_begin = time.perf_counter()
        self._first_step = state.global_step

    @contextmanager
    def wait_for_data(self) -> Iterator[None]:
        """To be put around the request for the batches of the next step."""
        self._step_begin = time.perf_counter()
        yield
        self._waiting_seconds += time.perf_counter() - self._step_begin

    def count(self, num_videos: int):
        """Counts the videos in the batches of this step, over all processes."""
        self._num_videos += num_videos

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._seconds += time.perf_counter() - self._step_begin

    def read(self, state: TrainerState) -> dict[str, float]:
        """
        Measures the steps since the last call.

        Returns:
            `dict[str, float]`: `videos_per_sec` over all processes; `data_wait`, the share of the time in which this
            process waited for its data workers, between 0 and 1; `memory_gib`, resident in this process and its
            workers, memory that they share being counted for each; `gpu_memory_gib`, the most that was allocated
            since the start, where there is a GPU; `minutes_left`, evaluations and saves included.
        """
        process = psutil.Process()
        memory = sum(member.memory_info().rss for member in (process, *process.children(recursive=True)))
        seconds_per_step = (time.perf_counter() - self._train_begin) / (state.global_step - self._first_step)
        readings = {
            "videos_per_sec": self._num_videos / self._seconds,
            "data_wait": self._waiting_seconds / self._seconds,
            "memory_gib": memory / 2**30,
            "minutes_left": (state.max_steps - state.global_step) * seconds_per_step / 60,
        }
        if torch.cuda.is_available():
            readings["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._reset()
        return readings
