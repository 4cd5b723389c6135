"""Several processes that work on one thing, as `accelerate launch` and `torchrun` start them."""

import contextlib
import gc
from collections.abc import Iterator

import torch
from accelerate import PartialState


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
