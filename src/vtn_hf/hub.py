"""
What the installed package adds to the classes that travel with a checkpoint: model cards, a look at the code that a
checkpoint brings, the names of damaged files, models and processors for a backbone, pixels that stay bytes, and
pipelines that save all that they have loaded.
"""

import functools
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from packaging.version import InvalidVersion, Version
from safetensors import SafetensorError, safe_open
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from .backbone_preprocessing import from_backbone_pretrained as make_processor
from .configuration_vtn import VTNConfig, __version__
from .image_processing_vtn import PixelProcessorMixin, VTNImageProcessor
from .model_card import make_model_card, replace_generic_card
from .modeling_vtn import VTNForVideoClassification, VTNPreTrainedModel
from .pixel_bytes import normalize_uint8, to_uint8_processor
from .pretrained_backbone import from_backbone_pretrained as make_model
from .video_processing_vtn import VTNVideoProcessor


logger = logging.get_logger(__name__)


def complete_classes():
    """Adds it. Code that a checkpoint brings does without: it has transformers' own cards and pipelines."""
    VTNForVideoClassification._upload_modified_files = _upload_with_card
    VTNPreTrainedModel.from_pretrained = classmethod(_name_damaged_files(VTNPreTrainedModel.from_pretrained.__func__))
    for loaded_class in (VTNPreTrainedModel, VTNImageProcessor, VTNVideoProcessor):
        loaded_class.from_pretrained = classmethod(_check_code_first(loaded_class.from_pretrained.__func__))
    VTNForVideoClassification.from_backbone_pretrained = classmethod(make_model)
    PixelProcessorMixin.from_backbone_pretrained = classmethod(make_processor)
    VTNVideoProcessor.to_image_processor = to_image_processor
    PixelProcessorMixin.to_uint8_processor = to_uint8_processor
    PixelProcessorMixin.normalize_uint8 = normalize_uint8
    VTNConfig.from_dict = classmethod(_without_custom_pipelines(VTNConfig.from_dict.__func__))
    name = "vtn_hf.video_processing_vtn.VTNVideoClassificationPipeline"
    PIPELINE_REGISTRY.supported_tasks["video-classification"]["impl"] = name


def to_image_processor(self: VTNVideoProcessor) -> VTNImageProcessor:
    """The [`VTNImageProcessor`] with the same pixel settings, for frames that are decoded already."""
    names = VTNImageProcessor.valid_kwargs.__annotations__
    return VTNImageProcessor(**{name: getattr(self, name) for name in names if hasattr(self, name)})


def check_code(checkpoint: str | os.PathLike, is_asked_for: bool = False, **hub_keywords):
    """
    Compares the code that a checkpoint brings with that of this package, which transformers runs in its place.

    Args:
        checkpoint (`str` or `os.PathLike`): A directory or a repository on the Hub.
        is_asked_for (`bool`, *optional*, defaults to `False`): Whether the checkpoint's code was to run.
        hub_keywords: Of `snapshot_download`, such as `revision`.

    Raises:
        ValueError: If another code was to run. If it was not, there is a warning, unless it is an earlier release's.
    """
    own = {path.name: path.read_text("utf-8") for path in Path(__file__).parent.glob("*_vtn.py")}
    folder = Path(checkpoint) if os.path.isdir(checkpoint) else _download_code(str(checkpoint), **hub_keywords)
    brought = {path.name: path.read_text("utf-8", errors="replace") for path in folder.glob("*_vtn.py")}
    different = sorted(name for name in own.keys() & brought.keys() if own[name] != brought[name])
    if not different:
        return
    version = re.search(r'^__version__ = "(.+)"', brought.get("configuration_vtn.py", ""), re.MULTILINE)
    version = None if version is None else version.group(1)
    message = (
        f"{checkpoint} brings code of vtn_hf {version or 'before 0.1'}, which differs from that of the vtn_hf "
        f"{__version__} imported here: {', '.join(different)}. "
    )
    own_code = "load it with `trust_remote_code=True` in a process that does not import vtn_hf"
    if is_asked_for:
        raise ValueError(f"{message}To run its own code, {own_code}; to run this one, leave `trust_remote_code` out.")
    if not _is_earlier(version):
        logger.warning_once(f"{message}The latter runs. To run its own code, {own_code}.")


@functools.cache
def _download_code(repository: str, **hub_keywords) -> Path:
    """The folder of a repository's code; one that is empty where it cannot be had, which loading the model tells."""
    try:
        return Path(snapshot_download(repository, allow_patterns="*_vtn.py", **hub_keywords))
    except (OSError, ValueError, HfHubHTTPError):
        return Path("/nowhere")


def _is_earlier(version: str | None) -> bool:
    try:
        return version is None or Version(version) < Version(__version__)
    except InvalidVersion:
        return False


def _without_custom_pipelines(load):
    """`pipeline` takes this package's, and need not ask for leave to run that of the checkpoint."""

    @functools.wraps(load)
    def from_dict(cls, config_dict, **kwargs):
        return load(cls, {name: value for name, value in config_dict.items() if name != "custom_pipelines"}, **kwargs)

    return from_dict


def _check_code_first(load):
    @functools.wraps(load)
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        # Who names a class, and not an Auto class, has chosen its code: none is fetched to compare it with.
        is_auto = "_from_auto" in kwargs or "trust_remote_code" in kwargs
        if is_auto or os.path.isdir(pretrained_model_name_or_path or ""):
            names = {"cache_dir", "local_files_only", "revision", "token"} & kwargs.keys()
            is_asked_for = kwargs.get("trust_remote_code") is True
            check_code(pretrained_model_name_or_path, is_asked_for, **{name: kwargs[name] for name in names})
        return load(cls, pretrained_model_name_or_path, *args, **kwargs)

    return from_pretrained


def _name_damaged_files(load):
    @functools.wraps(load)
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        folder = Path(pretrained_model_name_or_path or "/nowhere", kwargs.get("subfolder") or "")
        # `pipeline()` would do without a processor that cannot be read.
        _check_files(folder.glob("*processor_config.json"))
        try:
            return load(cls, pretrained_model_name_or_path, *args, **kwargs)
        except (SafetensorError, json.JSONDecodeError):
            _check_files(folder.glob("*.safetensors*"))
            raise

    return from_pretrained


def _check_files(paths: Iterable[Path]):
    for path in paths:
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            else:
                safe_open(path, framework="pt")
        except (ValueError, SafetensorError) as error:
            raise OSError(f"{path} is damaged: {error}") from error


def _upload_with_card(self, working_dir: str | os.PathLike, repo_id: str, *args, **kwargs):
    # Both ways of pushing a model end here, with a card that says no more than "a transformers model".
    replace_generic_card(Path(working_dir) / "README.md", make_model_card(self.config, repo_id))
    return super(VTNForVideoClassification, self)._upload_modified_files(working_dir, repo_id, *args, **kwargs)
