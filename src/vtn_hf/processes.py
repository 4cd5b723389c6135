"""Several processes that work on one thing, as `accelerate launch` and `torchrun` start them."""

import contextlib
import gc
from collections.abc import Iterator
from datetime import timedelta

import torch
from accelerate import PartialState


# Of one process that waits for others, which may be at long videos.
_MAX_WAIT = timedelta(days=30)


def find_processes(device: torch.device) -> PartialState:
    """
    The processes that were launched together, this one alone if it was not launched.

    Args:
        device (`torch.device`): What kind of device they compute on; without an accelerator, several processes find
            each other only if they are told that there is none.
    """
    return PartialState(cpu=device.type == "cpu", timeout=_MAX_WAIT)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """
    Put around all that a script does, so that its processes end together: one that ends while another one still works
    takes the connections with it, and threads that are left when Python ends may abort the process.

    A process that fails does not wait; the launcher then ends the others.
    """
    yield
    if torch.distributed.is_initialized():
        PartialState().wait_for_everyone()
        gc.collect()  # a wrapped model that is still about holds on to the connections
        torch.distributed.destroy_process_group()
