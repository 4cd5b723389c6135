"""Videos and labels as rows of data sets hold them, people's own included."""

import io
import math
import os
import re
from functools import cached_property
from typing import Any, BinaryIO, cast

import fsspec
import numpy as np
import torch

from ..video_decoding_vtn import VideoSource
from .coverage import NO_LABEL
from .listing import find_file
from .segments import VideoSegment


_OPTIONAL_COLUMNS = {"name": "", "start_sec": None, "end_sec": None}


class FetchedFile:
    """
    A binary file at a path of `fsspec`, all of which is fetched when it is first read.

    Args:
        name (`str`): The path, such as `hf://datasets/me/videos/a.mp4` or `zip://a.mp4::hf://datasets/me/videos/all.zip`.
    """

    def __init__(self, name: str):
        self.name = name

    @cached_property
    def _content(self) -> io.BytesIO:
        with fsspec.open(self.name, "rb") as file:
            return io.BytesIO(file.read())

    def seekable(self) -> bool:
        """Whether it can go back, as of any file."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as of any file."""
        return self._content.read(size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Goes to another place, as in any file."""
        return self._content.seek(place, whence)


def find_source(
    video: Any, name: str = "", start_sec: float | None = None, end_sec: float | None = None
) -> VideoSource:
    """
    What to decode of an entry in a column of videos.

    Args:
        video: A path, a URL, the bytes of a file or a binary file; or a dictionary of `path` and `bytes`, one of which
            may be missing, as columns of `Video(decode=False)` give. A path may be one of `fsspec`, such as `hf://…`
            in data sets that are streamed.
        name (`str`, *optional*): Of the video, for messages.
        start_sec, end_sec (`float`, *optional*): The part of it that is meant, from the columns of these names; `None`
            and NaN, as tables have for nothing, are its start and its end.

    Raises:
        ValueError: If it is none of them, or no such part can be.
    """
    segment = [None if seconds is None or math.isnan(seconds) else seconds for seconds in (start_sec, end_sec)]
    if segment != [None, None]:
        return VideoSegment(find_source(video, name), *segment)
    source = video
    if isinstance(video, dict):
        source = video.get("path") if video.get("bytes") is None else video["bytes"]
    if isinstance(source, str):
        if re.match(r"(?!https?:|file:)[a-z][a-z0-9+.-]*://", source):
            return cast(BinaryIO, FetchedFile(source))
        file = find_file(source) if source.startswith("file://") else source
        return os.path.expanduser(file) if file.startswith("~") and not os.path.exists(file) else file
    if isinstance(source, (os.PathLike, bytes, bytearray, memoryview)) or hasattr(source, "read"):
        return source
    raise ValueError(
        f"The video of row {name!r} must be a path, bytes, or a dictionary of path and bytes, got "
        f"{_show(video)}; columns of `datasets` need `cast_column(…, Video(decode=False))`."
    )


def find_sources(rows: dict[str, list]) -> list[VideoSource]:
    """[`find_source`] for a batch of rows, with the columns `name`, `start_sec` and `end_sec` where there are some."""
    videos = rows["video"]
    columns = [rows.get(column) or [default] * len(videos) for column, default in _OPTIONAL_COLUMNS.items()]
    return [find_source(*row) for row in zip(videos, *columns, strict=True)]


def find_label(label: Any, name: str = "") -> int | float | torch.Tensor:
    """
    The label of a video that has one.

    Args:
        label: A whole number of any type, 0-dimensional arrays and tensors included; truth values are 0 and 1. What
            is of floating-point type, for regression, and vectors of that or of truth values stay as they are.
        name (`str`, *optional*): Of the video, for messages.

    Returns:
        `int`, `float`, or `torch.Tensor` of dtype float32.

    Raises:
        ValueError: If it is none of them, or negative and not -100, which says that there is no label.
    """
    values = np.asarray(label)
    if values.ndim == 0 and values.dtype.kind in "biu":
        number = int(values)
        if number < 0 and number != NO_LABEL:
            raise ValueError(f"The label of {name!r} is {number}; labels are numbers of classes from 0 on.")
        return number
    if values.dtype.kind == "f" and np.isfinite(values).all() or (values.dtype.kind == "b" and values.size > 0):
        return float(values) if values.ndim == 0 else torch.from_numpy(values.astype(np.float32))
    hint = ""
    if values.dtype.kind in "US":
        hint = "; make numbers of names with `class_encode_column` of `datasets`"
    elif values.ndim > 0:
        hint = "; several labels need `num_labels`"
    raise ValueError(f"The label of {name!r} must be a number, got {_show(label)}{hint}.")


def find_label_vector(label: Any, num_labels: int, name: str = "") -> torch.Tensor:
    """
    Several labels as zeros and ones.

    Args:
        label: The number of a class; the numbers of some, each once, in a list or array; or one number per class, a
            truth value, 0 or 1, or for floating-point numbers between. Of any numeric type.
        num_labels (`int`): Number of classes.
        name (`str`, *optional*): Of the video, for messages.

    Returns:
        `torch.Tensor` of shape `(num_labels,)`, float32.

    Raises:
        ValueError: If it is none of them; or whole numbers for two classes, `[1, 0]`, that could be the one or the
            other.
    """
    values = np.asarray(label)
    if values.ndim == 0:
        values = np.array([find_label(label, name)])
    is_whole = values.dtype.kind in "iu"
    is_one_per_class = values.shape == (num_labels,) and (
        values.dtype.kind == "b" or (values.dtype.kind in "fiu" and bool(((values >= 0) & (values <= 1)).all()))
    )
    # Zeros and ones of three classes or more have one of them twice.
    numbers = np.unique(values).astype(np.int64) if is_whole or values.size == 0 else None
    if is_one_per_class and not (is_whole and num_labels < 3):
        return torch.from_numpy(values.astype(np.float32))
    is_clear = not is_one_per_class or bool((values == np.arange(num_labels)).all())
    if numbers is None or len(numbers) < values.size or not is_clear or not set(numbers) <= set(range(num_labels)):
        raise ValueError(
            f"The labels of {name!r} must be different numbers from 0 to {num_labels - 1}, or {num_labels} numbers "
            f"from 0 to 1, one per class (of floating-point type where there are two), got {_show(label)}."
        )
    vector = torch.zeros(num_labels)
    vector[numbers] = 1.0
    return vector


def _show(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:80] + '…'}"
