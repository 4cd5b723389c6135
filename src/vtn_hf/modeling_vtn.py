"""The Video Transformer Network: a 2D backbone per frame, a temporal encoder over the frames, a head."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce, wraps
from typing import TYPE_CHECKING, Self

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import ImageClassifierOutput, ModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .backbone_vtn import (
    encode_frames,
    get_backbone_feature_size,
    has_attention_heads,
    make_backbone,
    normalizes_over_frames,
)
from .configuration_vtn import VTNConfig
from .temporal_encoder_vtn import VTNAttention, VTNEmbeddings, VTNFramePooling, VTNLayer, VTNTemporalEncoder


@dataclass
class VTNModelOutput(ModelOutput):
    """
    What [`VTNModel`] returns.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, 1 + frames, hidden_size)`):
            Output of the last layer of the temporal encoder, the class token first.
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): The class token of `last_hidden_state`.
        frame_embeds (`torch.FloatTensor` of shape `(batch, frames, backbone features)`):
            What the backbone gave for each frame, or the `inputs_embeds`; zeros at padding frames. With a `frame_grid`
            of shape `(batch, frames, tokens, backbone features)`, and below there are `frames * tokens` frames, unless
            `frame_pooling` has made one of each frame's.
        hidden_states (`tuple` of `torch.FloatTensor` of shape `(batch, 1 + frames, hidden_size)`, *optional*):
            Input of the first layer and output of each layer, with `output_hidden_states=True`.
        attentions (`tuple` of `torch.FloatTensor` of shape `(batch, heads, 1 + frames, 1 + frames)`, *optional*):
            Attention weights of each layer, with `output_attentions=True` on the eager attention; row 0 is the class
            token, the other rows are the frames, whose weights are zero outside of their window.
        global_attentions (`tuple` of `torch.FloatTensor` of shape `(batch, heads, 1 + frames)`, *optional*):
            The class token's attention weights in each layer, with `output_attentions=True` on any attention.
        pooling_attentions (`tuple` of one `torch.FloatTensor` of shape `(batch, frames, heads, tokens)`, *optional*):
            The weights of `frame_pooling`, with `output_attentions=True`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    frame_embeds: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    global_attentions: tuple[torch.FloatTensor, ...] | None = None
    pooling_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class VTNVideoClassifierOutput(ImageClassifierOutput):
    """
    What [`VTNForVideoClassification`] returns: that of transformers' classifiers, and the class token's attention.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): When labels were given.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Class scores before the softmax or sigmoid.
        hidden_states, attentions, global_attentions, pooling_attentions: As in [`VTNModelOutput`].
    """

    global_attentions: tuple[torch.FloatTensor, ...] | None = None
    pooling_attentions: tuple[torch.FloatTensor, ...] | None = None


class VTNPreTrainedModel(PreTrainedModel):
    """What the VTN models share with every model of transformers: initialisation, loading, saving, flags."""

    config: VTNConfig
    base_model_prefix = "vtn"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["VTNEmbeddings", "VTNFramePooling", "VTNLayer"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_record_outputs = {
        "hidden_states": VTNLayer,
        "attentions": OutputRecorder(VTNAttention, index=1),
        "global_attentions": OutputRecorder(VTNAttention, index=2),
        "pooling_attentions": OutputRecorder(VTNFramePooling, index=1),
    }

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        self.model_tags = ["vtn", "video-classification"]  # of its own: pushing a model can add more

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs):
        """
        Args:
            attn_implementation (`str` or `dict`): A name for all parts, which a backbone without attention passes
                over; or names for the temporal encoder, `""`, and the backbone, `"backbone_config"`, where a part that
                is left out stays as it is.
        """
        if isinstance(attn_implementation, str) and not has_attention_heads(self.config.backbone_config):
            attn_implementation = {"": attn_implementation}
        super().set_attn_implementation(attn_implementation, **kwargs)

    def freeze_backbone(self):
        """Freezes the weights of the backbone and, in training mode too, its normalisation statistics and dropout."""
        self.base_model.is_backbone_frozen = True
        self.base_model.backbone.requires_grad_(False)
        self.base_model.backbone.eval()

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor], strict: bool = True, assign: bool = False):
        """
        As in torch, under the names of `state_dict()` or those in the files of [`~PreTrainedModel.save_pretrained`]:
        there, transformers gives the weights of many backbones other names, under which `Trainer` loads them.
        """
        if not state_dict.keys() <= self.state_dict().keys():
            state_dict = self._rename_weights(state_dict)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _rename_weights(self, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Gives weights the names of `state_dict()`, by way of a model that transformers loads them into."""
        # One that holds the values of all, whatever they are stored in.
        dtype = reduce(torch.promote_types, (tensor.dtype for tensor in state_dict.values()), torch.bfloat16)
        options = {"dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True}
        model, info = self.from_pretrained(None, config=self.config, state_dict=dict(state_dict), **options)
        renamed = {name: tensor for name, tensor in model.state_dict().items() if name not in info["missing_keys"]}
        # What is wrong stays wrong, for torch to say so.
        renamed |= {name: torch.empty(found) for name, found, _ in info["mismatched_keys"]}
        return renamed | {name: state_dict[name] for name in info["unexpected_keys"]}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, VTNEmbeddings):
            init.normal_(module.cls_token, std=self.config.initializer_range)
        if isinstance(module, VTNFramePooling):
            init.normal_(module.query, std=self.config.initializer_range)

    def _set_gradient_checkpointing(self, *args, **kwargs):
        super()._set_gradient_checkpointing(*args, **kwargs)
        if isinstance(self.config.frames_per_chunk, int):
            # Chunks are computed again as a whole, so the layers inside of them need not be, a third time.
            for module in self.base_model.backbone.modules():
                if hasattr(module, "gradient_checkpointing"):
                    module.gradient_checkpointing = False


def with_other_attentions(forward: Callable) -> Callable:
    """Makes `output_attentions` ask `capture_outputs` for the weights of class token and pooling as well."""

    @wraps(forward)
    def wrapper(self, *args, output_attentions: bool | None = None, **kwargs):
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        kwargs |= {"output_attentions": output_attentions, "output_global_attentions": output_attentions}
        kwargs["output_pooling_attentions"] = output_attentions and self.config.frame_pooling is not None
        return forward(self, *args, **kwargs)

    return wrapper


class VTNModel(VTNPreTrainedModel):
    """
    The Video Transformer Network without a head: a 2D backbone, then a temporal encoder.

    The backbone turns each frame into one vector, which is the first that exists of:

    1. its pooled output, where the architecture defines how an image is pooled (the mean over a feature map, an
       attention-pooling head, a class token after its final norm);
    2. its class token, where the pooler is BERT's dense layer and tanh (ViT, DeiT): image checkpoints leave those
       weights untrained, so that pooler is removed;
    3. the mean of its last hidden state over space.

    With a `frame_grid`, means over the places of a g x g grid follow it: of the last hidden state, where that is a
    feature map, else of its patches, without the class token and registers before them.

    Args:
        config ([`VTNConfig`]): What to build, with random weights; `from_pretrained` loads trained ones.
    """

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        self.backbone = make_backbone(config.backbone_config)
        self.is_backbone_frozen = False
        self.gradient_checkpointing = False
        self.feature_size = get_backbone_feature_size(config.backbone_config)
        widths = self.feature_size, config.hidden_size
        self.projection = nn.Identity() if self.feature_size == config.hidden_size else nn.Linear(*widths)
        if config.frame_pooling is not None:
            self.frame_pooling = VTNFramePooling(config)
        self.temporal_encoder = VTNTemporalEncoder(config)
        self.post_init()

    def init_parallel_plans(self):
        super().init_parallel_plans()
        # transformers' default names the layers of a language model; here, those of both parts.
        layers = {*self._no_split_modules, *(self.backbone._no_split_modules or ())}
        self._fsdp_plan = {
            re.sub(r"\.\d+(?=\.|$)", ".*", name): "free_full_weight"
            for name, module in self.named_modules()
            if type(module).__name__ in layers and name[-1].isdigit()
        }

    def get_input_embeddings(self) -> nn.Module:
        try:
            return self.backbone.get_input_embeddings()
        except NotImplementedError:  # convolutional networks have no name for their first layer
            return next(self.backbone.children())

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.is_backbone_frozen:
            self.backbone.eval()
        return self

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of what the backbone gives per frame: `(features,)`, with a `frame_grid` `(tokens, features)`."""
        tokens = () if self.config.frame_grid is None else (self.config.tokens_per_frame,)
        return (*tokens, self.feature_size)

    def get_frame_features(
        self, pixel_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Runs the backbone on each frame, `frames_per_chunk` frames at a time: in eval mode, and, where the
        configuration gives a number, in training mode with activation checkpointing, which then computes each chunk
        again in the backward pass.

        Args:
            pixel_values, attention_mask: As in [`VTNModel.forward`]; padding does not go through the backbone.

        Returns:
            `torch.Tensor` of shape `(batch, frames, backbone features)`, with a `frame_grid` `(batch, frames, tokens,
            backbone features)`: One vector per frame, or several, zeros at padding; can be kept and passed to
            `forward` as `inputs_embeds`.
        """
        num_channels, shape = getattr(self.config.backbone_config, "num_channels", 3), tuple(pixel_values.shape)
        if len(shape) != 5 or shape[2] != num_channels:
            axes = f"(batch, frames, {num_channels} channels, height, width)"
            raise ValueError(f"`pixel_values` must have 5 dimensions {axes}, got the shape {shape}.")
        if 0 in shape:
            raise ValueError(f"`pixel_values` holds no frames: its shape is {shape}.")
        _check_frames(pixel_values.shape[:2], attention_mask)
        frames = pixel_values.flatten(0, 1)
        if attention_mask is None:
            features = self._encode_frames(frames)
        elif self._can_skip_padding(attention_mask):
            features = self._encode_frames(frames, attention_mask.flatten().nonzero()[:, 0])
        else:
            # Pixels, too: a gradient of zero would not keep out what is infinite or not a number.
            features = self._encode_frames(_clear_padding(frames, attention_mask.flatten()))
            features = _clear_padding(features, attention_mask.flatten())
        return features.unflatten(0, pixel_values.shape[:2])

    def _can_skip_padding(self, attention_mask: torch.Tensor) -> bool:
        """Not where the host would wait for a device to tell, unless padding would change the features of frames."""
        if attention_mask.device.type == "meta" or torch.compiler.is_compiling():
            return False
        return attention_mask.device.type == "cpu" or normalizes_over_frames(self.backbone)

    def _encode_frames(self, frames: torch.Tensor, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """As [`encode_frames`], in chunks where they save memory: in training, where they are computed again."""
        recompute = self.backbone.training and self.gradient_checkpointing
        is_chunked = not self.backbone.training or (recompute and self.config.frames_per_chunk != "auto")
        chunk_size = self.config.frames_per_chunk if is_chunked else None
        options = {"chunk_size": chunk_size, "recompute": recompute, "frame_grid": self.config.frame_grid}
        return encode_frames(self.backbone, frames, numbers, **options)

    @with_other_attentions
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        class_token_only: bool = False,
        **kwargs,
    ) -> VTNModelOutput:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, frames, channels, height, width)`, *optional*): Normalised
                pixels of the frames.
            inputs_embeds (`torch.Tensor` of shape `(batch, frames, backbone features)`, *optional*): Features computed
                beforehand with `get_frame_features`, instead of `pixel_values`; with a `frame_grid` of shape `(batch,
                frames, tokens, backbone features)`.
            position_ids (`torch.LongTensor` of shape `(batch, frames)`, *optional*): Number of each frame in its
                video. Defaults to 0, 1, 2, …
            attention_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*): 1 for frames, 0 for padding, which
                influences nothing. Defaults to all ones.
            class_token_only (`bool`, *optional*, defaults to `False`): Leave out the frames in the last layer, which a
                classifier does not read: faster, and `last_hidden_state` holds the class token alone.
            kwargs: `output_hidden_states`, `output_attentions` and `return_dict`, as everywhere in transformers.

        Raises:
            ValueError: If not exactly one of `pixel_values` and `inputs_embeds` is given, there are no frames, or a
                shape or value does not fit.

        Example:

        ```python
        >>> import torch
        >>> from vtn_hf import VTNConfig, VTNModel

        >>> backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 24]}
        >>> model = VTNModel(VTNConfig(backbone_config=backbone)).eval()
        >>> outputs = model(torch.rand(1, 5, 3, 64, 64))
        >>> outputs.last_hidden_state.shape
        torch.Size([1, 6, 24])

        ```"""
        if (pixel_values is None) == (inputs_embeds is None):
            given = "neither" if pixel_values is None else "both"
            raise ValueError(f"Give exactly one of `pixel_values` and `inputs_embeds`, got {given}.")
        if inputs_embeds is None:
            inputs_embeds = self.get_frame_features(pixel_values, attention_mask)
            if inputs_embeds.shape[-1] != self.feature_size:
                gives = f"{type(self.backbone).__name__} gives {inputs_embeds.shape[-1]} features per frame"
                raise ValueError(f"{gives}, but its configuration promises {self.feature_size}.")
        shape = tuple(inputs_embeds.shape)
        if shape[2:] != self.feature_shape or len(shape) < 3 or 0 in shape:
            axes = ", ".join(["batch", "frames", *map(str, self.feature_shape)])
            raise ValueError(f"`inputs_embeds` must have the shape ({axes}) with at least one frame, got {shape}.")
        _check_frames(inputs_embeds.shape[:2], attention_mask, position_ids)
        if attention_mask is not None:
            # A weight of zero would not keep out what is infinite or not a number.
            inputs_embeds = _clear_padding(inputs_embeds, attention_mask)
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]

        frames = inputs_embeds
        if self.config.frame_changes:
            frames = torch.cat([torch.zeros_like(frames[:, :1]), frames.diff(dim=1).abs()], dim=1)
        frames = self.projection(frames)
        if self.config.frame_pooling is not None:
            frames, _ = self.frame_pooling(frames)
        states = self.temporal_encoder(frames, position_ids, attention_mask, class_token_only)
        return VTNModelOutput(last_hidden_state=states, pooler_output=states[:, 0], frame_embeds=inputs_embeds)


class VTNClassificationHead(nn.Module):
    """The MLP that reads the class token: `(B, H)` to `(B, num_labels)`."""

    def __init__(self, config: VTNConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.classifier_hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.classifier_hidden_size, config.num_labels)

    def forward(self, class_token: torch.Tensor) -> torch.Tensor:
        return self.out_proj(self.dropout(self.activation(self.dense(self.norm(class_token)))))


class VTNForVideoClassification(VTNPreTrainedModel):
    """
    The Video Transformer Network with an MLP on the class token, for single-label, multi-label or regression.

    Args:
        config ([`VTNConfig`]): What to build, `num_labels` and `problem_type` included, with random weights;
            `from_pretrained` loads trained ones, `from_backbone_pretrained` those of an image model for the backbone.
    """

    if TYPE_CHECKING:  # the installed package adds it

        @classmethod
        def from_backbone_pretrained(cls, backbone_name_or_path, **config_fields) -> Self:
            """A VTN on a pretrained image model, from its name or path and fields of the configuration."""

    def __init__(self, config: VTNConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vtn = VTNModel(config)
        self.classifier = VTNClassificationHead(config)
        self.loss_function = compute_loss
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> VTNVideoClassifierOutput:
        """
        Args:
            pixel_values, inputs_embeds, position_ids, attention_mask: As in [`VTNModel.forward`].
            labels (`torch.Tensor` of shape `(batch,)` or `(batch, num_labels)`, *optional*):
                Class indices in `[0, num_labels)`, or the share of each class, for
                `problem_type="single_label_classification"`; 0.0 and 1.0 per class for `"multi_label_classification"`;
                targets for `"regression"`. -100 takes no part in the loss.
            kwargs: As in [`VTNModel.forward`]; `num_items_in_batch` goes to the loss.

        Raises:
            ValueError: As in [`VTNModel.forward`], and if a label is not one of the classes.

        Example:

        ```python
        >>> import torch
        >>> from vtn_hf import VTNConfig, VTNForVideoClassification

        >>> backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 24]}
        >>> config = VTNConfig(backbone_config=backbone, num_labels=10)
        >>> model = VTNForVideoClassification(config).eval()
        >>> model(torch.rand(2, 5, 3, 64, 64), labels=torch.tensor([3, 7])).logits.shape
        torch.Size([2, 10])

        ```"""
        flags = ("output_hidden_states", "output_attentions")
        reads_frames = any(getattr(self.config, name) if kwargs.get(name) is None else kwargs[name] for name in flags)
        inputs = pixel_values, inputs_embeds, position_ids, attention_mask
        outputs = self.vtn(*inputs, class_token_only=not reads_frames, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            _check_labels(labels, self.config)
            loss = self.loss_function(labels, logits, self.config, **kwargs)
        asked_for = outputs.hidden_states, outputs.attentions, outputs.global_attentions, outputs.pooling_attentions
        return VTNVideoClassifierOutput(loss, logits, *asked_for)


def compute_loss(
    labels: torch.Tensor,
    logits: torch.Tensor,
    config: VTNConfig,
    num_items_in_batch: torch.Tensor | int | None = None,
    **kwargs,
) -> torch.Tensor:
    """
    The mean loss over all labels other than -100, as in [`VTNForVideoClassification.forward`]. Unlike transformers'
    losses for several labels and for regression, it is the same however videos are cut into batches.

    Args:
        config ([`VTNConfig`]): Its `problem_type`, where it is `None`, is found from the labels, and set.
        num_items_in_batch (`int`, *optional*): Number of labels that the mean goes over, where this batch is one of
            several whose losses are summed up. Defaults to those of this batch.
    """
    if config.problem_type is None:
        config.problem_type = find_problem_type(labels, config.num_labels)
    losses, is_labelled = compute_losses(logits, labels, config.problem_type)
    if num_items_in_batch is None:
        return losses.sum() / is_labelled.sum()
    return losses.sum() / (num_items_in_batch * is_labelled.numel() / labels.numel())


def find_problem_type(labels: torch.Tensor, num_labels: int) -> str:
    """What kind of labels these are, by the rule of transformers."""
    if num_labels == 1:
        return "regression"
    is_index = labels.ndim == 1 and not labels.is_floating_point()
    return "single_label_classification" if is_index else "multi_label_classification"


def compute_losses(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The loss of each label, 0 where the label is -100, and whether it is another one: two `torch.Tensor`s of shape
    `(batch,)` for `"single_label_classification"`, else `(batch, num_labels)`.
    """
    logits, labels = logits.float(), labels.to(logits.device)
    cross_entropy = partial(nn.functional.cross_entropy, reduction="none", label_smoothing=label_smoothing)
    if problem_type == "single_label_classification" and labels.shape != logits.shape:
        labels = labels.flatten() if labels.is_floating_point() else labels.flatten().long()
        return cross_entropy(logits, labels), labels != -100
    labels = labels.reshape(logits.shape).to(logits.dtype)
    is_labelled = labels != -100
    if problem_type == "single_label_classification":  # shares of classes
        losses = cross_entropy(logits, labels.clamp(min=0))
        is_labelled = is_labelled.all(dim=1)
    elif problem_type == "regression":
        losses = nn.functional.mse_loss(logits, labels, reduction="none")
    else:
        labels = labels * (1 - label_smoothing) + label_smoothing / 2
        losses = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return losses.where(is_labelled, 0.0), is_labelled


def _clear_padding(values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    return values.masked_fill((attention_mask == 0)[(..., *[None] * (values.ndim - attention_mask.ndim))], 0.0)


def _check_frames(shape: torch.Size, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None = None):
    """Refuses a mask and positions that do not fit frames of the shape `(batch, frames)`."""
    for name, tensor in (("attention_mask", attention_mask), ("position_ids", position_ids)):
        if tensor is not None and tensor.shape != shape:
            has = f"has the shape {tuple(tensor.shape)}, but the input has {tuple(shape)} (batch, frames)"
            raise ValueError(f"`{name}` {has}.")
    if position_ids is not None and not _holds_integers(position_ids):
        raise ValueError(f"`position_ids` must be integers, the numbers of the frames, got {position_ids.dtype}.")
    if _is_readable(attention_mask):
        is_wrong = (attention_mask != 0) & (attention_mask != 1)
        _refuse(attention_mask, is_wrong, "`attention_mask` must hold 0 and 1 only")
        num_frames = attention_mask.bool().sum(dim=1)
        if not num_frames.all():
            raise ValueError(f"`attention_mask` leaves a video without frames: {num_frames.tolist()} each.")
    if _is_readable(position_ids):
        is_frame = attention_mask is None or attention_mask != 0
        _refuse(position_ids, (position_ids < 0) & is_frame, "`position_ids` must not be negative")


def _check_labels(labels: torch.Tensor, config: VTNConfig):
    """Out-of-range labels would be an opaque assertion on a GPU, after which the process cannot use it any more."""
    problem_type = config.problem_type or find_problem_type(labels, config.num_labels)
    if problem_type == "single_label_classification" and labels.ndim == 1 and _is_readable(labels):
        is_wrong = (labels != -100) & ((labels < 0) | (labels >= config.num_labels))
        _refuse(labels, is_wrong, f"Labels must be in [0, {config.num_labels})")


def _is_readable(tensor: torch.Tensor | None) -> bool:
    """Whether its values are at hand: for those on a device, the host would have to wait."""
    return tensor is not None and tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _holds_integers(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _refuse(tensor: torch.Tensor, is_wrong: torch.Tensor, rule: str):
    if is_wrong.any():
        raise ValueError(f"{rule}, got {tensor[is_wrong].unique()[:10].tolist()}.")


VTNModel.register_for_auto_class("AutoModel")
VTNForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")

__all__ = ["VTNForVideoClassification", "VTNModel", "VTNPreTrainedModel"]
