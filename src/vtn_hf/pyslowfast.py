"""Reads checkpoints of PySlowFast, and trusts nothing that is in them: neither code, nor sizes, nor numbers."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml


# A buffer in checkpoints that were made with older releases of transformers.
_POSITION_IDS = "temporal_encoder.embeddings.position_ids"


class ConversionError(ValueError):
    """A checkpoint cannot be converted; the message says why."""


def read_checkpoint(path: str | Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """
    Reads a checkpoint of the original without running any code that it may hold. The weights stay on disk until they
    are used, where the file has the format of today.

    Returns:
        The PySlowFast configuration, and the weights under the original's names.

    Raises:
        ConversionError: If the file is damaged, would execute code, or is not a PySlowFast checkpoint.
    """
    checkpoint = _load(Path(path))
    if not isinstance(checkpoint, dict) or not {"model_state", "cfg"} <= checkpoint.keys():
        found = sorted(map(str, checkpoint))[:10] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ConversionError(f"{path} is not a PySlowFast checkpoint: it needs `model_state` and `cfg`, got {found}.")
    state_dict = checkpoint["model_state"]
    if not isinstance(state_dict, dict) or not all(
        isinstance(name, str) and isinstance(weight, torch.Tensor) for name, weight in state_dict.items()
    ):
        raise ConversionError(f"{path} is not a PySlowFast checkpoint: its `model_state` are no named tensors.")
    try:
        cfg = yaml.safe_load(checkpoint["cfg"])
    except (yaml.YAMLError, AttributeError, ValueError, RecursionError):
        cfg = None
    if not isinstance(cfg, dict):
        raise ConversionError(f"{path} is not a PySlowFast checkpoint: its `cfg` is no mapping in yaml.")
    state_dict = {name: weight for name, weight in state_dict.items() if name != _POSITION_IDS}
    _check_numbers(Path(path), state_dict)
    return cfg, state_dict


def _load(path: Path) -> Any:
    if path.is_dir():
        raise ConversionError(f"{path} is a directory; give the checkpoint file.")
    try:
        if is_archive := zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                sizes = [entry.file_size for entry in archive.infolist()]
                is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
                # As torch saves it. Otherwise a small file could become any number of bytes in memory.
                if not is_stored or sum(sizes) > path.stat().st_size:
                    raise ConversionError(f"{path} is no checkpoint of torch: its content is compressed.")
                if damaged := archive.testzip():  # torch does not look
                    raise ConversionError(f"{path} is damaged: the checksum of its part {damaged} is another.")
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except ConversionError:
        raise
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror or error}.") from error
    except pickle.UnpicklingError as error:
        # torch's own message goes on to say how to execute the code after all.
        raise ConversionError(f"{path} is not read, because it is no checkpoint or would execute code.") from error
    except Exception as error:  # what a damaged file leads to is up to the file
        raise ConversionError(f"{path} cannot be read: it is truncated or no checkpoint.") from error


def _check_numbers(path: Path, state_dict: dict[str, torch.Tensor]):
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for name, weight in state_dict.items():
        if weight.dtype not in floats or weight.layout != torch.strided or weight.device.type != "cpu":
            raise ConversionError(f"{path} cannot be converted. The weight {name} is no plain tensor of floats.")
    # A tensor can repeat what it has, and so be larger than the file.
    num_bytes = sum(weight.numel() * weight.element_size() for weight in state_dict.values())
    if num_bytes > path.stat().st_size:
        raise ConversionError(f"{path} cannot be converted. Its weights take {num_bytes:,} bytes, more than the file.")
    for name, weight in state_dict.items():
        if not weight.isfinite().all():
            raise ConversionError(f"{path} cannot be converted. The weight {name} has values that are not finite.")
