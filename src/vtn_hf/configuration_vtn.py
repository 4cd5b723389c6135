"""The configuration of a Video Transformer Network: fields, defaults and the rules that tie them together."""

import difflib
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging


if TYPE_CHECKING:
    # Never runs. transformers copies the files that a file names along with it, and tells checkpoints' code apart by
    # them: so all of it is there or none, and each checkpoint runs its own.
    from .modeling_vtn import VTNModel  # noqa: F401
    from .video_processing_vtn import VTNVideoProcessor  # noqa: F401

# Travels with every checkpoint, and stands in its config.json as `vtn_hf_version`.
__version__ = "0.1.0"

logger = logging.get_logger(__name__)

_CHOICES = {
    "position_embedding_type": ("learned", "sinusoidal", "none"),
    "position_overflow": ("wrap", "spread", "stretch"),
    "frame_pooling": ("attention",),
    "hidden_act": tuple(ACT2FN),
    "problem_type": ("single_label_classification", "multi_label_classification", "regression"),
}
# What transformers takes beside the attributes of `PreTrainedConfig`.
_TRANSFORMERS_FIELDS = {"attn_implementation", "experts_implementation", "auto_map", "custom_pipelines"}
_TRANSFORMERS_FIELDS |= {"per_layer_config", "quantization_config", "task_specific_params"}


def choose_num_attention_heads(hidden_size: int) -> int:
    """The default of `num_attention_heads` for a temporal encoder of this width."""
    if hidden_size % 12 == 0:
        return 12
    if hidden_size % 64 == 0:
        return hidden_size // 64
    return max((number for number in range(1, hidden_size // 32 + 1) if hidden_size % number == 0), default=1)


def _check_value(name: str, value: Any):
    """Raises ValueError if a field may not have this value, whose type is checked already."""
    if name in _CHOICES:
        is_right, rule = value in _CHOICES[name], f"one of {', '.join(_CHOICES[name])}"
    elif name == "id2label":
        is_right = isinstance(value, dict) and len(value) > 0 and sorted(value) == list(range(len(value)))
        rule = "the names of the classes 0, 1, …"
    elif name == "attention_window":
        windows = [value] if isinstance(value, int) else value
        is_right, rule = all(window > 0 and window % 2 == 0 for window in windows), "even and positive"
    elif name == "frames_per_chunk":
        is_right, rule = value == "auto" or (isinstance(value, int) and value > 0), '"auto", at least 1, or None'
    elif "dropout" in name or name == "anytime_confidence":
        is_right, rule = 0 <= value <= 1, "between 0 and 1"
    elif name == "calibration_temperature":
        is_right, rule = 0 < value < float("inf"), "above 0"
    elif name in ("layer_norm_eps", "initializer_range"):
        is_right, rule = 0 <= value < float("inf"), "at least 0"
    elif name == "num_labels" or (isinstance(value, int) and name != "frame_changes"):
        least = 3 if name == "max_position_embeddings" else 1
        is_right, rule = type(value) is int and value >= least, f"at least {least}"
    else:
        return
    if not is_right:
        raise ValueError(f"`{name}` must be {rule}, got {value!r}.")


@strict
class VTNConfig(PreTrainedConfig):
    r"""
    Configuration of a [`VTNModel`] or [`VTNForVideoClassification`]. The defaults are those of ViT-B-VTN, the main
    model of [Video Transformer Network](https://huggingface.co/papers/2102.00719).

    Args:
        backbone_config: Configuration of the 2D backbone, any vision model that `AutoModel` can build. Defaults to
            ViT-B/16 at 224 x 224 pixels.
        hidden_size: Width of the temporal encoder. Defaults to the backbone's feature width; if the two differ, a
            linear projection joins them.
        num_hidden_layers: Number of layers of the temporal encoder.
        num_attention_heads: Number of attention heads in each layer; must divide `hidden_size`. Defaults to the 12 of
            the paper where they divide it, else to one per 64 features, else to as many as leave at least 32 to each.
        intermediate_size: Width of the feed-forward network in each layer.
        attention_window: Two-sided size of the sliding attention window, in frames: 18 is 9 frames on each side. Even;
            one number, or one per layer.
        max_position_embeddings: Rows of the position table; the last two belong to the class token and to padding, the
            others to frames.
        position_embedding_type: `"learned"`, `"sinusoidal"` or `"none"`.
        position_overflow: What happens in videos with frame positions beyond the table: `"wrap"` starts again at its
            first row, as the original does; `"spread"` squeezes the positions of such a video onto the table, so that
            neighbouring frames share rows; `"stretch"` puts every video onto the whole table, so that positions are
            shares of its length, whatever its speed.
        frame_grid: Side g of a g x g grid of the frame's own features beside its pooled vector, for videos in which it
            matters where in the picture something happens. Windows and positions count frames as before. Defaults to
            one vector per frame, as in the paper.
        frame_pooling: `"attention"` gathers the grid into one vector per frame, by one learned query per head, before
            the temporal encoder, which otherwise reads all of it.
        frame_changes: Whether the temporal encoder reads, in the place of each frame's features, how far they are from
            those of the frame before (of the first frame, zeros): for videos in which it matters how things move, not
            what is seen.
        hidden_act: Activation of the feed-forward networks and the head.
        hidden_dropout_prob: Dropout of embeddings and layer outputs.
        attention_probs_dropout_prob: Dropout of the attention weights.
        layer_norm_eps: Epsilon of the temporal encoder's layer norms.
        initializer_range: Standard deviation of the initial weights.
        classifier_hidden_size: Width of the head's hidden layer. Defaults to `hidden_size`.
        classifier_dropout: Dropout inside the head.
        num_frames: Frames that `pipeline()` takes from a video.
        frames_per_chunk: Frames per call of the backbone, which bounds the memory: `"auto"` is what suits the backbone
            on its device at inference, for frames of their size (up to 64), and all frames in training; a number holds
            at inference, and in training with activation checkpointing, where each call is then computed again in the
            backward pass; `None` passes all at once.
        calibration_temperature: Divides logits for calibrated scores.
        anytime_confidence: Calibrated score from which a few frames are as good as all.
        anytime_min_frames: Frames of the first look for which that is so.

    Raises:
        ValueError: If there is no such field, or it may not have such a value.
        StrictDataclassError: If it has another type, or fields contradict each other.

    Example:

    ```python
    >>> from vtn_hf import VTNConfig

    >>> backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 128]}
    >>> config = VTNConfig(backbone_config=backbone, intermediate_size=48)
    >>> config.hidden_size, config.num_attention_heads
    (128, 2)

    ```"""

    model_type = "vtn"
    # `sub_configs_defaults`, which transformers 5.23 prefers, sends a missing backbone config to its own default.
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    hidden_size: int | None = None
    num_hidden_layers: int = 3
    num_attention_heads: int | None = None
    intermediate_size: int = 3072
    attention_window: int | list[int] | tuple[int, ...] = 18
    max_position_embeddings: int = 288
    position_embedding_type: str = "learned"
    position_overflow: str = "wrap"
    frame_grid: int | None = None
    frame_pooling: str | None = None
    frame_changes: bool = False
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    classifier_hidden_size: int | None = None
    classifier_dropout: float | int = 0.5
    num_frames: int = 250
    frames_per_chunk: int | str | None = "auto"
    calibration_temperature: float | int = 1.0
    anytime_confidence: float | int | None = None
    anytime_min_frames: int | None = None
    vtn_hf_version: str = __version__

    def __post_init__(self, **kwargs):
        is_stored = self.transformers_version is not None  # perhaps by another release
        for mistake in self._find_mistakes(kwargs, cutoff=0.8 if is_stored else 0.0):
            if not is_stored:
                raise ValueError(mistake)
            logger.warning(mistake)
        if self.backbone_config is None:
            # ViT-B/16 as timm, and so the original, builds it: its layer norms have epsilon 1e-6.
            self.backbone_config = AutoConfig.for_model("vit", layer_norm_eps=1e-6)
        elif isinstance(self.backbone_config, dict):
            if "model_type" not in self.backbone_config:
                raise ValueError(f"`backbone_config` needs a `model_type`, it has {sorted(self.backbone_config)}.")
            self.backbone_config = AutoConfig.for_model(**self.backbone_config)
        if self.hidden_size is None:
            from .backbone_vtn import get_backbone_feature_size

            self.hidden_size = get_backbone_feature_size(self.backbone_config)
        if self.num_attention_heads is None:
            self.num_attention_heads = choose_num_attention_heads(self.hidden_size)
        if self.classifier_hidden_size is None:
            self.classifier_hidden_size = self.hidden_size
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any):
        if name == "id2label" and isinstance(value, dict):
            value = {int(label) if str(label).isdecimal() else label: text for label, text in value.items()}
        if value is not None and name in self._list_fields():
            _check_value(name, value)
        super().__setattr__(name, value)

    @classmethod
    def _list_fields(cls) -> list[str]:
        """The fields that are not the same in every model."""
        own = [field.name for field in fields(cls) if not hasattr(PreTrainedConfig, field.name)]
        return [*own, "num_labels", "id2label", "label2id", "problem_type"]

    @classmethod
    def _find_mistakes(cls, names: Iterable[str], cutoff: float) -> Iterator[str]:
        """What is wrong with those that are no fields, but as similar to one as `cutoff`."""
        known = cls._list_fields()
        for name in names:
            is_known = name in known or name in _TRANSFORMERS_FIELDS or hasattr(PreTrainedConfig, name)
            if not is_known and name[0] != "_" and difflib.get_close_matches(name, known, cutoff=cutoff):
                close = difflib.get_close_matches(name, known)
                hint = f"did you mean {' or '.join(close)}?" if close else f"its fields are {', '.join(known)}."
                yield f"{cls.__name__} has no field {name!r}; {hint}"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in transformers, but overrides are checked: their names, their values, and how these go together."""
        # Those of `from_pretrained` are among them, which are none of the configuration's.
        for mistake in cls._find_mistakes(kwargs, cutoff=0.8):
            raise ValueError(mistake)
        loaded = super().from_dict(config_dict, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).validate()
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """As in transformers, with the code that the Auto classes need where this package is not installed."""
        self.vtn_hf_version = __version__  # of the code that goes with it
        # transformers itself names the class that is saved only, so that another `AutoModel…` would not find its own.
        self.auto_map = {
            "AutoConfig": "configuration_vtn.VTNConfig",
            "AutoModel": "modeling_vtn.VTNModel",
            "AutoModelForVideoClassification": "modeling_vtn.VTNForVideoClassification",
        }
        pipeline_class = "video_processing_vtn.VTNVideoClassificationPipeline"
        task = {"impl": pipeline_class, "pt": ["AutoModelForVideoClassification"]}
        self.custom_pipelines = {"video-classification": task}
        super().save_pretrained(save_directory, push_to_hub, **kwargs)
        # `pipeline` would ask for leave to run the code of the checkpoint, where there may be none.
        del self.custom_pipelines

    @property
    def attention_windows(self) -> tuple[int, ...]:
        """The two-sided attention window of each layer, in frames."""
        if isinstance(self.attention_window, int):
            return (self.attention_window,) * self.num_hidden_layers
        return tuple(self.attention_window)

    @property
    def tokens_per_frame(self) -> int:
        """Vectors that the backbone gives per frame: the pooled one, and those of the grid."""
        return 1 + (self.frame_grid or 0) ** 2

    @property
    def encoder_tokens_per_frame(self) -> int:
        """Vectors per frame that the temporal encoder reads."""
        return self.tokens_per_frame if self.frame_pooling is None else 1

    def validate_architecture(self):
        """Part of `@strict`-powered validation. Checks the rules that tie fields together."""
        super().validate_architecture()
        if self.hidden_size % self.num_attention_heads != 0:
            sizes = f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads`"
            raise ValueError(f"{sizes} ({self.num_attention_heads}).")
        if self.frame_pooling is not None and self.frame_grid is None:
            raise ValueError(f"`frame_pooling` ({self.frame_pooling!r}) needs a `frame_grid` to gather from.")
        num_windows = len(self.attention_windows)
        if num_windows != self.num_hidden_layers:
            raise ValueError(f"`attention_window` has {num_windows} entries for {self.num_hidden_layers} layers.")


VTNConfig.register_for_auto_class()

__all__ = ["VTNConfig"]
