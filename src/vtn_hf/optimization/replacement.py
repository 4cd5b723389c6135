"""Modules whose class is exchanged for a faster one, and weights that are kept in a faster form."""

from collections.abc import Callable, Hashable, Iterator
from functools import cache

import torch
from torch import nn


class Replacement:
    """
    What a module does faster. A subclass is mixed into the class of the module that it replaces, before it: so
    `super().forward` is what is replaced, and names, hooks, pickling and `isinstance` stay.
    """

    def __reduce_ex__(self, protocol):
        return _rebuild, type(self).__bases__, self.__getstate__()


def replace(module: nn.Module, replacement: type[Replacement], **attributes):
    """Exchanges the class of a module; the attributes are for the new one."""
    module.__class__ = _mix(replacement, type(module))
    module.__dict__.update(attributes)


def restore(module: nn.Module):
    """Takes back [`replace`], where it was done."""
    module.__class__ = get_plain_class(module)


def get_plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module has, or had before it was replaced."""
    return type(module).__bases__[1] if isinstance(module, Replacement) else type(module)


def find_modules(model: nn.Module, class_name: str) -> Iterator[nn.Module]:
    """Those of a class of this package; by its name, as that of the code in a checkpoint is another class."""
    return (each for each in model.modules() if class_name in (kind.__name__ for kind in type(each).__mro__))


def computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module has the `forward` of this class, and nothing that changes what comes of it."""
    return get_plain_class(module).forward is kind.forward and not is_altered(module)


def is_from_library(module: nn.Module) -> bool:
    """Whether its class is known to be what it is: of torch, timm or transformers, and not made for this model."""
    return get_plain_class(module).__module__.partition(".")[0] in ("torch", "timm", "transformers")


def is_altered(module: nn.Module) -> bool:
    """Whether a module has another `forward` than its class, or a hook that may change its output."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    # Those of transformers only write down what is asked for.
    return "forward" in vars(module) or any(
        hook.__module__ != "transformers.utils.output_capturing" for kind in hooks if kind for hook in kind.values()
    )


def all_modules_are_heard() -> bool:
    """Whether somebody listens to every module there is, as torch's FlopCounterMode does, and may change outputs."""
    return bool(nn.modules.module._has_any_global_hook())


class Derived:
    """What is computed from weights, and computed again when they have changed, in whatever way."""

    # Assigning to `tensor.data[...]` moves neither address nor version. Who trains or loads in that way changes many
    # values, of which every 61st is compared, a number that divides no width.
    STRIDE = 61

    def __init__(self):
        self._kept = None  # the sources, the key and the value, exchanged at once: threads may share a module

    def get(self, compute: Callable, *tensors: torch.Tensor | None, key: Hashable = None):
        """`compute(*tensors)`, which may also depend on what the key stands for."""
        sources, known_key, value = self._kept or (None, None, None)
        if sources is None or known_key != key or not all(map(_Source.is_same, sources, tensors)):
            with torch.no_grad():
                value = compute(*tensors)
            self._kept = [_Source(tensor) for tensor in tensors], key, value
        return value

    def __reduce__(self):
        return Derived, ()  # a copy has weights of its own


class _Source:
    """A tensor as it was."""

    def __init__(self, tensor: torch.Tensor | None):
        if tensor is None:
            self.seen = None
            return
        # It keeps its memory, which nothing else can be put in as long as this exists.
        self.seen = tensor.detach()
        self.version = _get_version(tensor)
        is_large = tensor.numel() > 4096 and tensor.is_contiguous()
        self.view = self.seen.view(-1)[:: Derived.STRIDE] if is_large else self.seen
        self.values = self.view.clone()

    def is_same(self, tensor: torch.Tensor | None) -> bool:
        if tensor is None or self.seen is None:
            return tensor is self.seen
        return (
            tensor.data_ptr() == self.seen.data_ptr()
            and tensor.dtype == self.seen.dtype
            and tensor.stride() == self.seen.stride()
            and _get_version(tensor) == self.version
            and torch.equal(self.view, self.values)
        )


def _get_version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


@cache
def _mix(replacement: type[Replacement], plain: type[nn.Module]) -> type[nn.Module]:
    return type(
        f"{replacement.__name__}{plain.__name__}", (replacement, plain), {"__module__": replacement.__module__}
    )


def _rebuild(replacement: type[Replacement], plain: type[nn.Module]) -> nn.Module:
    mixed = _mix(replacement, plain)
    return mixed.__new__(mixed)
