"""The parts of a recipe: loss, parameter groups, schedule, and the running average of the weights."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ..configuration_vtn import VTNConfig
from ..modeling_vtn import compute_losses, find_problem_type
from ..optimization.replacement import get_plain_class


class VideoClassificationLoss:
    """
    For `Trainer(compute_loss_func=…)`: the mean over all labels other than -100, of all devices and accumulated
    batches; 0 if there are none.

    Args:
        config ([`VTNConfig`]): Says by its `problem_type` what the labels are; where that is `None`, the first labels
            decide, as in the model.
        label_smoothing (`float`, *optional*, defaults to 0.0): Share of the targets that goes to all classes alike.
        class_weights (`torch.Tensor` of shape `(classes,)`, *optional*): What the loss of a video is multiplied by in
            training, by its class; where its label is shares of classes, by their weighted mean.
    """

    def __init__(self, config: VTNConfig, label_smoothing: float = 0.0, class_weights: torch.Tensor | None = None):
        self.config = config
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights

    def __call__(
        self, outputs: dict, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """
        Args:
            outputs (`dict`): With `logits` of shape `(batch, classes)`.
            labels (`torch.Tensor` of shape `(batch,)` or `(batch, classes)`): As in
                [`VTNForVideoClassification.forward`].
            num_items_in_batch (`int`, *optional*): Number of label entries other than -100 to average over, those of
                other devices and accumulated batches included. Defaults to those of this batch.
        """
        losses, is_labelled = self.compute_each(outputs["logits"], labels)
        if self.class_weights is not None:
            losses = losses * self._weigh(labels).to(losses)
        count = is_labelled.sum()
        if num_items_in_batch is not None:
            count = torch.as_tensor(num_items_in_batch) * is_labelled.numel() / labels.numel()
        return losses.sum() / count.clamp(min=1)

    def _weigh(self, labels: torch.Tensor) -> torch.Tensor:
        """The weight of each video, `(batch,)`."""
        weights = self.class_weights.to(labels.device)
        if labels.ndim == 2:  # shares of classes
            return labels.clamp(min=0).to(weights) @ weights
        return weights[labels.clamp(min=0)]

    def compute_each(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`compute_losses`]."""
        if self.config.problem_type is None:
            self.config.problem_type = find_problem_type(labels, self.config.num_labels)
        return compute_losses(logits, labels, self.config.problem_type, self.label_smoothing)


class WeightAverage(AveragedModel):
    """
    The exponentially running average of a model's weights and statistics.

    Args:
        model (`nn.Module`): It is copied.
        decay (`float`): Share of the average that each step keeps. At first it is less, `(1 + steps) / (10 + steps)`,
            so that the random weights of the start are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self._decay = decay
        super().__init__(model, multi_avg_fn=self._blend, use_buffers=True)
        # Not a submodule, which it would become by plain assignment.
        self._source = [model]

    def _blend(self, averages: list[torch.Tensor], current: list[torch.Tensor], num_averaged: torch.Tensor):
        step = int(num_averaged)
        for average, tensor in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(tensor.to(average.dtype), 1 - min(self._decay, (1 + step) / (10 + step)))
            else:
                average.copy_(tensor)

    def update(self):
        """Updates the average with the model's weights."""
        self.update_parameters(self._source[0])

    def write(self):
        """Copies the average into the model."""
        self._source[0].load_state_dict(self.module.state_dict())

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the `with` block, the model has the averaged weights."""
        own = {name: tensor.clone() for name, tensor in self._source[0].state_dict().items()}
        self.write()
        try:
            yield
        finally:
            self._source[0].load_state_dict(own)


def list_parameters_without_batch_norm(model: nn.Module) -> list[str]:
    """
    The names of all parameters but those of batch (and instance) normalisations, to which the original applies no
    weight decay.
    """
    spared = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for parameter in module.parameters(recurse=False)
    }
    return [name for name, parameter in model.named_parameters() if id(parameter) not in spared]


def make_step_schedule(
    optimizer: torch.optim.Optimizer,
    epochs: list[float],
    factors: list[float],
    num_epochs: float,
    num_training_steps: int,
) -> LambdaLR:
    """
    The original's schedule, "steps with relative learning rates": before each step, the factor of the last of `epochs`
    that is not after the current, fractional epoch.

    Args:
        optimizer (`torch.optim.Optimizer`): Its learning rates are multiplied.
        epochs (`list[float]`): Rising, the first one 0.
        factors (`list[float]`): One for each of `epochs`.
        num_epochs (`float`), num_training_steps (`int`): Length of the run in epochs and in steps.
    """

    def get_factor(step: int) -> float:
        epoch = step * num_epochs / num_training_steps
        return factors[sum(start <= epoch for start in epochs) - 1]

    return LambdaLR(optimizer, get_factor)


def group_by_layer(
    model: nn.Module,
    layer_decay: float,
    learning_rate: float,
    weight_decay: float,
    decay_parameter_names: list[str],
) -> list[dict]:
    """
    Parameter groups whose learning rate falls from block to block of the backbone, from its end to its start.

    The temporal encoder and the head, which begin at random, learn at the full rate; the last block of the backbone at
    `layer_decay` times it, the one before at `layer_decay` squared, …, and what comes before the first block slowest.

    Args:
        model (`nn.Module`): A VTN.
        layer_decay (`float`): Between 0 and 1.
        learning_rate, weight_decay (`float`): Of the temporal encoder and the head.
        decay_parameter_names (`list[str]`): The parameters that `weight_decay` applies to.

    Returns:
        `list[dict]`: Groups for an optimizer, that of the full rate first.
    """
    backbone = next(module for name, module in model.named_modules() if name.split(".")[-1] == "backbone")
    blocks = list_blocks(backbone)
    depths = _find_depths(backbone, blocks)
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = depths.get(id(parameter), len(blocks) + 1)
        scale = layer_decay ** (len(blocks) + 1 - depth)
        decay = weight_decay if name in decay_parameter_names else 0.0
        group = {"params": [], "lr": learning_rate * scale, "weight_decay": decay}
        groups.setdefault((scale, decay), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]


def _find_depths(backbone: nn.Module, blocks: list[nn.Module]) -> dict[int, int]:
    """The number of each parameter's block, from 1 on; 0 before the first one."""
    block_of = {
        id(parameter): depth for depth, block in enumerate(blocks, start=1) for parameter in block.parameters()
    }
    depths, depth = {}, 0
    for parameter in backbone.parameters():
        # Parameters between the blocks belong to the block before them.
        depth = block_of.get(id(parameter), depth)
        depths[id(parameter)] = depth
    return depths


def list_blocks(backbone: nn.Module) -> list[nn.Module]:
    """
    The blocks of a backbone in their order: the elements of its lists of like modules, and where such an element is a
    stage that has a list of its own, the elements of that.
    """
    return [block for stage in _list_elements(backbone) for block in _list_elements(stage) or [stage]]


def _list_elements(module: nn.Module) -> list[nn.Module]:
    """The elements of the outermost lists of like modules below a module."""
    elements = []
    for child in module.children():
        inner = list(child.children())
        is_list = isinstance(child, (nn.ModuleList, nn.Sequential)) and len(set(map(get_plain_class, inner))) == 1
        # Layers without parts, such as convolutions, are no blocks.
        if is_list and any(inner[0].children()):
            elements += inner
        else:
            elements += _list_elements(child)
    return elements
