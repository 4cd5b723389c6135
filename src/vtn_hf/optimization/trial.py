"""Faster modules are tried against those that they replace, and left out where the results differ."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from .replacement import is_altered, restore


class Trial:
    """
    Tries replacements in a model, in eval mode and without the hooks of others.

    Args:
        model (`nn.Module`): The copy in which modules are replaced.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self._altered = {module for module in self.names if is_altered(module)}
        self._left_out: list[str] = []

    @contextmanager
    def running(self) -> Iterator["Trial"]:
        """Within it, modules can be tried; at its end, a warning names those that were left out."""
        modes = [(module, module.training) for module in self.names]
        hooks = [
            (kind, kind.copy())
            for module in self.names
            for kind in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        ]
        for kind, _ in hooks:
            kind.clear()
        for module, _ in modes:
            module.training = False
        try:
            with torch.no_grad(), torch.autocast(next(self.model.parameters()).device.type, enabled=False):
                yield self
        finally:
            for module, mode in modes:
                module.training = mode
            for kind, former in hooks:
                kind.update(former)
        if self._left_out:
            named, more = self._left_out[:20], len(self._left_out) - 20
            named += [f"{more} more"] * (more > 0)
            warnings.warn(
                f"vtn_hf.optimize leaves as they are: {'; '.join(named)}. They compute what they did before.",
                stacklevel=5,
            )

    def make_random(self, *shape: int, like: torch.Tensor) -> torch.Tensor:
        """The same normally distributed numbers each time, without a change of the state of torch's own."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu").to(like)

    def attempt(
        self,
        modules: list[nn.Module],
        put: Callable[[], None],
        run: Callable[[], Sequence[torch.Tensor]],
        *,
        relies_on: Iterable[nn.Module] = (),
        compare: Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], bool] | None = None,
    ) -> bool:
        """
        Replaces modules, unless that changes results.

        Args:
            modules (`list[nn.Module]`): What is replaced.
            put (`Callable`): Replaces them.
            run (`Callable`): Gives results with what is in place.
            relies_on (`Iterable[nn.Module]`, *optional*): Others that must do nothing else than their class.
            compare (`Callable`, *optional*): Tells whether results and those expected are alike; defaults to
                [`is_close`].

        Returns:
            `bool`: Whether they were replaced.
        """
        for module in (*modules, *relies_on):
            if module in self._altered:
                part = "it" if module is modules[0] else self.names[module]
                return self.leave_out(modules[0], f"{part} has a hook or a forward that is not its class's")
        try:
            expected = run()
            put()
            if (compare or is_close)(run(), expected):
                return True
            reason = "the results differ"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        for module in modules:
            restore(module)
        return self.leave_out(modules[0], reason)

    def leave_out(self, module: nn.Module, reason: str) -> bool:
        """Remembers it for the warning."""
        self._left_out.append(f"{self.names[module]} ({type(module).__name__}: {reason})")
        return False


def is_close(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: float | None = None) -> bool:
    """
    Whether the differences are small, relative to the largest number that each expected result holds: rounding errors
    of the dtype, or the tolerance.
    """
    for ours, theirs in zip(actual, expected, strict=True):
        allowed = 0.3 * torch.finfo(theirs.dtype).eps ** 0.5 if tolerance is None else tolerance
        if ours.shape != theirs.shape or not (ours - theirs).abs().max() <= allowed * theirs.abs().max():
            return False
    return True


def is_aligned(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], min_cosine: float = 0.99) -> bool:
    """Whether rows have nearly the same direction, as they do in a precision with fewer digits."""
    return all(
        ours.shape == theirs.shape
        and bool((nn.functional.cosine_similarity(ours, theirs, dim=-1) >= min_cosine).all())
        for ours, theirs in zip(actual, expected, strict=True)
    )
