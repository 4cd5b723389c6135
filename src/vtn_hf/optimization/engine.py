"""
The backbone by another engine, on CPUs, at inference: OpenVINO runs a graph of it that is compiled for the processor,
in float32 or bfloat16, for any number of frames.

A graph holds a copy of the weights, and is made anew when these have changed.
"""

import copy
import ctypes
import importlib.util
import os
import threading
import time
import warnings
from collections.abc import Hashable
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.constants import HF_HOME
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from ..backbone_vtn import choose_frames_per_chunk, encode, get_frame_shape, is_convolutional
from .linear import is_plain_float32
from .replacement import Replacement, all_modules_are_heard, is_altered, replace, restore
from .trial import Trial, is_aligned, is_close


if TYPE_CHECKING:
    import openvino

logger = logging.get_logger(__name__)

ENGINES = ("torch", "openvino", "auto")
DTYPES = {"float32": "f32", "bfloat16": "bf16"}  # and their names in OpenVINO
# Of graphs that are compiled: to compile one again takes seconds.
CACHE_DIR = Path(HF_HOME, "vtn_hf", "openvino")
_NUM_TIMINGS = 3
# Through a convolutional network, of 224 x 224 pixels: with more, a call takes hardly less time per frame.
FRAMES_PER_CALL = 32
# Of these, those that a thread takes at a time: they stay in the cache of its core.
_FRAMES_PER_REQUEST = 2
# Of all graphs: torch.export takes one thread at a time.
_making = threading.Lock()


class OpenVINO(Replacement):
    """
    A backbone whose graph OpenVINO runs. In training, where gradients are asked for, where someone listens to its
    modules, and in a forked process, which has none of OpenVINO's threads, as it was.
    """

    def forward(self, pixel_values: torch.Tensor | None = None, **kwargs) -> Any:
        is_plain = not kwargs and pixel_values is not None and self._graphs.process_id == os.getpid()
        weights = find_plain_weights(self) if is_plain else None
        if weights is None or not _needs_values_only(pixel_values, weights) or len(pixel_values) == 0:
            return super().forward(pixel_values=pixel_values, **kwargs)
        return self._graphs.get(self, weights, pixel_values.shape[1:])(pixel_values)


def find_plain_weights(backbone: nn.Module) -> list[torch.Tensor] | None:
    """
    All parameters and buffers, unless somebody listens to a module, has changed what it computes, or has put it into
    training mode, even just a dropout.
    """
    if all_modules_are_heard():
        return None
    weights, modules = [], [backbone]
    while modules:  # several times as fast as `modules()` and `parameters()`, for a network that takes milliseconds
        module = modules.pop()
        own = module.__dict__
        has_hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"]
        if own["training"] or ((has_hooks or "forward" in own) and is_altered(module)):
            return None
        weights += filter(_is_there, (*own["_parameters"].values(), *own["_buffers"].values()))
        modules += filter(_is_there, own["_modules"].values())
    return weights


def _is_there(item: Any) -> bool:
    return item is not None


def _needs_values_only(pixel_values: torch.Tensor, weights: list[torch.Tensor]) -> bool:
    """Whether nobody asks for gradients, for a graph or for another precision."""
    needs_gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (pixel_values, *weights))
    return not needs_gradients and is_plain_float32(pixel_values, weights[0])


def use_engine(
    trial: Trial,
    backbone: PreTrainedModel,
    engine: str | None,
    dtype: torch.dtype | str | None,
    frame_grid: int | None = None,
):
    """
    Replaces a backbone, unless the package is missing, the features differ or, for `"auto"`, PyTorch is as fast.

    Raises:
        ValueError: If the engine or the dtype is unknown, or the backbone is not in float32 on a CPU.
    """
    dtype = check_engine(engine, dtype)
    first = next(backbone.parameters())
    if engine in (None, "torch"):
        return
    if first.device.type != "cpu" or first.dtype != torch.float32:
        raise ValueError(
            f"engine={engine!r} takes a model in float32 on a CPU, this is {first.dtype} on {first.device}."
        )
    if importlib.util.find_spec("openvino") is None:
        warnings.warn(
            f"engine={engine!r} needs OpenVINO, which is not installed (pip install 'vtn_hf[openvino]'); PyTorch "
            "computes.",
            stacklevel=5,
        )
        return
    num_channels, height, width = get_frame_shape(backbone.config)
    num_frames = choose_frames_per_chunk("auto", backbone, height * width)
    frames = trial.make_random(num_frames, num_channels, height, width, like=first)
    run = partial(encode, backbone, frames, frame_grid)
    plain_sec = _measure(run) if engine == "auto" else None
    put = partial(replace, backbone, OpenVINO, _graphs=_Graphs(DTYPES[dtype]))
    compare = is_close if dtype == "float32" else is_aligned
    is_in_use = trial.attempt([backbone], put, lambda: [run()], relies_on=backbone.modules(), compare=compare)
    if is_in_use and plain_sec is not None:
        seconds = _measure(run)
        logger.info(f"{num_frames} frames take PyTorch {plain_sec:.3f} s, and OpenVINO in {dtype} {seconds:.3f} s.")
        if seconds >= plain_sec:
            restore(backbone)
            return
    if is_in_use and is_convolutional(backbone):
        backbone.frames_per_call = FRAMES_PER_CALL


def check_engine(engine: str | None, dtype: torch.dtype | str | None) -> str:
    """The name of the dtype, if there are such an engine and such a dtype."""
    if engine not in (None, *ENGINES):
        raise ValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {engine!r}.")
    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    if engine in (None, "torch") and dtype is not None:
        raise ValueError(f"dtype={name!r} is that of an engine; for PyTorch, `model.to(torch.{name})` does it.")
    return name


def _measure(run) -> float:
    """Median of some seconds, after one to warm up."""
    seconds = []
    for _ in range(1 + _NUM_TIMINGS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


class _Graphs:
    """The graph of a backbone for the present weights and size of pictures, in the process that made it."""

    def __init__(self, precision: str):
        self._precision = precision
        self.process_id = os.getpid()
        self._made: tuple[Hashable, _Snapshot, _Graph] | None = None  # what for, and of which weights

    def get(self, backbone: nn.Module, weights: list[torch.Tensor], frame_shape: torch.Size) -> "_Graph":
        key = (tuple(frame_shape), torch.get_num_threads())
        if (graph := self._find(key, weights)) is None:
            with _making:
                if (graph := self._find(key, weights)) is None:  # nor has another thread made it meanwhile
                    snapshot = _Snapshot(weights)
                    graph = _Graph(backbone, frame_shape, self._precision)
                    self._made = key, snapshot, graph
        return graph

    def _find(self, key: Hashable, weights: list[torch.Tensor]) -> "_Graph | None":
        if self._made is None:
            return None
        known_key, known_weights, graph = self._made
        return graph if known_key == key and known_weights.is_same(weights) else None

    def __reduce__(self):
        return _Graphs, (self._precision,)  # a copy has weights of its own


class _Snapshot:
    """
    Weights as they were: their places in memory, how often they were written to, and some of their values, for those
    who write past PyTorch's count.
    """

    NUM_VALUES = 64  # of each tensor

    def __init__(self, tensors: list[torch.Tensor]):
        self._signature = self._sign(tensors)
        flat = [tensor.detach().reshape(-1) for tensor in tensors if tensor.is_floating_point()]
        # Views, which keep the memory, so that nothing else can be put there.
        self._views = [tensor[:: max(1, len(tensor) // self.NUM_VALUES)] for tensor in flat]
        self._values = torch.cat(self._views)

    def is_same(self, tensors: list[torch.Tensor]) -> bool:
        return self._sign(tensors) == self._signature and torch.equal(torch.cat(self._views), self._values)

    @staticmethod
    def _sign(tensors: list[torch.Tensor]) -> list[tuple]:
        return [(tensor.data_ptr(), None if tensor.is_inference() else tensor._version) for tensor in tensors]


class _Graph:
    """A backbone as OpenVINO runs it: frames `(frames, channels, height, width)` to the backbone's outputs."""

    def __init__(self, backbone: nn.Module, frame_shape: torch.Size, precision: str):
        import openvino

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch, transformers and OpenVINO about each other
            exported, self._shapes = _export(backbone, frame_shape)
            converted = openvino.convert_model(exported)
        # Convolutions of a few frames are too small to be shared by threads: each gets frames of its own.
        has_streams = is_convolutional(backbone)
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "THROUGHPUT" if has_streams else "LATENCY",
            "CACHE_DIR": str(CACHE_DIR),
        }
        compiled = _get_core().compile_model(converted, "CPU", settings)
        self._requests = openvino.AsyncInferQueue(compiled)
        num_pixels = frame_shape[-2] * frame_shape[-1]
        self._request_size = max(1, _FRAMES_PER_REQUEST * 224 * 224 // num_pixels) if has_streams else None
        self._lock = threading.Lock()

    def __call__(self, frames: torch.Tensor) -> BaseModelOutputWithPooling:
        import openvino

        frames, num_frames = frames.detach().contiguous(), len(frames)
        outputs = {name: torch.empty(num_frames, *shape) for name, shape in self._shapes.items()}
        size = min(self._request_size or num_frames, -(-num_frames // len(self._requests)))
        with self._lock:
            try:
                for part, *results in zip(*(each.split(size) for each in (frames, *outputs.values())), strict=True):
                    request = self._requests[self._requests.get_idle_request_id()]  # the one that starts next
                    for number, result in enumerate(results):
                        request.set_output_tensor(number, openvino.Tensor(result.numpy(), shared_memory=True))
                    self._requests.start_async([part.numpy()], share_inputs=True)
            finally:  # whoever interrupts it must not free memory that is still written to
                self._requests.wait_all()
        return BaseModelOutputWithPooling(**outputs)


@cache
def _get_core() -> "openvino.Core":
    """
    OpenVINO itself, one for all graphs, which is never let go of: in a forked process, such as one that loads data,
    whoever gives up the last of it waits forever for threads that only the parent has.
    """
    import openvino

    core = openvino.Core()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(core))
    return core


class _Outputs(nn.Module):
    """A backbone that gives the tensors that features are made of."""

    NAMES = ("last_hidden_state", "pooler_output")

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.backbone(pixel_values=pixel_values)
        return {name: outputs[name] for name in self.NAMES if outputs.get(name) is not None}


def _export(
    backbone: nn.Module, frame_shape: torch.Size
) -> tuple[torch.export.ExportedProgram, dict[str, torch.Size]]:
    """The graph for any number of frames, and the names of what it gives with their shapes per frame."""
    # Of modules of its own, with the same weights, as torch.export exchanges those of what it traces, for all threads;
    # `share_weights` would share the dictionaries in which it does so.
    weights = (*backbone.parameters(), *backbone.buffers())
    module = _Outputs(copy.deepcopy(backbone, {id(tensor): tensor for tensor in weights})).eval()
    frames = torch.zeros(2, *frame_shape)
    exported = torch.export.export(module, (frames,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    return exported, {name: output.shape[1:] for name, output in exported.module()(frames).items()}
