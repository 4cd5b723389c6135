"""Video decoding: a container (file, URL or bytes) becomes RGB frames at given frame numbers, with PyAV alone.

The frames returned are the frames asked for, all of them, or there is an error. Packets are counted first, without
decoding them, for headers lie. If the decoder then gives another number of frames, this is damage, and an error, or
the format is one whose packets are not all frames, and the caller is asked again with the true count. Decoding begins
as if nothing had been counted; where timestamps tell which packet is which frame, it leaves out what no wanted frame
needs. A file never makes FFmpeg open another file or address, and what it may cost is limited.
"""

import contextlib
import io
import itertools
import math
import operator
import os
import re
import tempfile
import threading
import time
import traceback
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, BinaryIO
from urllib.request import url2pathname

import numpy as np
from torch.utils.data import get_worker_info
from transformers.video_utils import VideoMetadata

from .pixels_vtn import ChooseRegion, FrameConverter


class VideoPart:
    """A video that is a part of another one: `source` is the file, and `make_reader` what reads it."""

    source: Any
    make_reader: Callable[["VideoFile", ChooseRegion | None], "VideoReader"]


def is_source(video: Any) -> bool:
    """Whether this is a file, by name or by content, or a part of one, and no frames."""
    kinds = (str, bytes, bytearray, memoryview, os.PathLike, VideoPart)
    return isinstance(video, kinds) or hasattr(video, "read")


VideoSource = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | VideoPart
SampleIndices = Callable[["TimedVideoMetadata"], Sequence[int] | np.ndarray]
ConvertFrame = Callable[[np.ndarray], np.ndarray]

_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_MATROSKA = "matroska,webm"
# Containers that store a presentation timestamp with each packet, and codecs that show one frame per packet.
TIMED_FORMATS = (_MP4, _MATROSKA)
_ONE_FRAME_PER_PACKET = ("h264", "hevc", "vp9", "av1")
# Containers in which going back to the start may bring the same packets again; others are opened again.
_REWINDABLE_FORMATS = (*TIMED_FORMATS, "avi")
# FFmpeg's own decoders leave out the transparency that lies beside the pictures of a WebM.
_DECODERS_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# FFmpeg's AVFMT_TS_DISCONT: containers made to be cut and joined. A longer step than this is a joint, not a pause.
_FLAG_OF_JOINED_FORMATS = 0x200
_MAX_STEP_SEC = 10
# More ticks than this are no time, but damage.
_MAX_TICKS = 2**52
NO_TIME = -(2**63)
# In decoding order, a frame comes after at most this many that are shown after it: decoders keep no more pictures.
MAX_REORDERED = 16
# A seek empties the decoder's threads; decoding fewer frames than this, only to pass over them, is cheaper. One thread
# loses nothing but the seek itself.
_MIN_FRAMES_TO_SKIP = 16
_MIN_FRAMES_TO_SKIP_IN_WORKER = 2
# Of the frames that later calls will ask for, at most this many times the number read so far are kept, as decoded, and
# no more than fit into 200 MB (8-bit 4:2:0).
_KEPT_PER_READ = 3
_MAX_KEPT_PIXELS = 2**27

# FFmpeg makes an index of all frames that a container claims, and takes a time that grows with the square of their
# number for tags; and both of them before anything else can be asked.
_MAX_INDEX_ENTRIES = 2**24
_MAX_TAGS = 2**12
_MAX_OPEN_SEC = 4
_MAX_HEADER_BYTES = 2**28
_MAX_OGG_HEADERS_BYTES = 2**20
# What a tag begins with, in formats of which FFmpeg reads many slowly; by the first bytes of the file.
_TAG_MARKS = {b"\x1aE\xdf\xa3": (b"\x67\xc8",), b"\x89PNG": (b"tEXt", b"zTXt", b"iTXt")}
# Pixels that any file may decode to.
_FREE_PIXELS = 2**31
# A pipe that sends nothing for longer will not go on.
_MAX_SILENCE_SEC = 5
# Errors give this much of a name, which may be that of an attacker.
_MAX_NAME_LENGTH = 300
# A part of a file, as FFmpeg writes it: tar files hold other files as they are.
_PART_OF_FILE = re.compile(r"subfile,,start,(\d+),end,(\d+),,:(.+)", re.DOTALL)
# Playlists, lists of files, session descriptions.
_REFERENCES = re.compile(rb"\s*(#EXTM3U|ffconcat|v=0\r?\n)")


class VideoDecodeError(ValueError):
    """
    A video that cannot be decoded; the message names the source and the reason.

    Example:

    ```python
    >>> from vtn_hf import VTNVideoProcessor

    >>> VTNVideoProcessor()(b"not a video")
    Traceback (most recent call last):
    vtn_hf.video_decoding_vtn.VideoDecodeError: <11 bytes>: Invalid data found when processing input.

    ```"""


class FrameCountError(VideoDecodeError):
    """Decoding ended without an error, but gave another number of frames than there are packets."""


@dataclass(frozen=True)
class DecodeLimits:
    """
    What a video may cost. One that would cost more is refused before it does.

    Args:
        max_pixels: Pixels of one frame; the default is twice those of 8K video.
        max_pixels_per_byte: Pixels of all frames decoded, for each byte of the file, beyond 2**31 (half a minute of
            1080p), which are free. The default is what a still picture in 4K comes to.
        max_duration_sec: Seconds that the whole video lasts.
        max_bytes: Bytes of all frames returned together.
        max_decode_sec: Seconds of reading and decoding. What hangs inside FFmpeg ends with its process only.
        max_file_bytes: Bytes that are downloaded, or read from a pipe.
        max_download_sec: Seconds that a download may take, with its second try.

    Raises:
        ValueError: If a limit is no number greater than 0.
    """

    max_pixels: int = 2**26
    max_pixels_per_byte: int = 2**18
    max_duration_sec: float = 24 * 60 * 60
    max_bytes: int = 2**33
    max_decode_sec: float | None = None
    max_file_bytes: int = 2**31
    max_download_sec: float = 600

    def __post_init__(self):
        for item in fields(self):
            limit = getattr(self, item.name)
            if not (limit is None and item.default is None) and not (isinstance(limit, (int, float)) and limit > 0):
                raise ValueError(f"`{item.name}` must be a number greater than 0, got {limit!r}.")

    @classmethod
    def from_settings(cls, settings: dict[str, float] | None) -> "DecodeLimits":
        """The limits of a processor: those that are named, and the defaults of the others."""
        settings = {} if settings is None else settings
        names = [item.name for item in fields(cls)]
        if not isinstance(settings, dict) or not settings.keys() <= set(names):
            raise ValueError(f"`decode_limits` must be a dictionary, keys {', '.join(names)}, got {settings!r}.")
        return cls(**settings)


@dataclass
class TimedVideoMetadata(VideoMetadata):
    """
    The metadata of a decoded video, which know the time of each frame: `frame_times`, float64 of shape
    `(total_num_frames,)`, has the seconds from the first frame on by the timestamps of the frames, never decreasing;
    `None` where neither these nor a frame rate are known. `is_joined` tells whether timestamps start again or jump on
    the way, as in files joined end to end; `frame_times` go on.
    """

    frame_times: np.ndarray | None = field(default=None, repr=False, compare=False)
    is_joined: bool = False

    @property
    def timestamps(self) -> list[float]:
        """Seconds from the first frame of the video to each of `frames_indices`."""
        if self.frame_times is None or self.frames_indices is None:
            return super().timestamps
        return self.frame_times[self.frames_indices].tolist()


def decode_video(
    source: VideoSource,
    sample_indices: SampleIndices | None = None,
    *,
    convert_frame: ConvertFrame | None = None,
    choose_region: ChooseRegion | None = None,
    limits: DecodeLimits | None = None,
) -> tuple[np.ndarray, TimedVideoMetadata]:
    """Decode the frames of a video that `sample_indices` chooses.

    Args:
        source: Path, http(s) or file URL, part of a file ("subfile,,start,512,end,9000,,:videos.tar"), the bytes of a
            file, or a binary file object, which is read from its start and left open; a pipe is read to its end first.
            Or a part of any of these (`vtn_hf.data.segments`).
        sample_indices: Called with the metadata (`width` and `height` follow with the first frame); returns frame
            numbers, counted from 0 as they are shown, in any order and with repetitions. It is called again if the
            number of frames turns out to be another one. `None` takes all frames.
        convert_frame: Called with each frame, uint8 (height, width, 3), valid until the next; returns the array that
            takes its place. What makes frames smaller belongs here: no two large ones are kept.
        choose_region: Called with height and width of the upright picture; says which region of it libswscale turns
            into a small RGB picture. Faster than to convert whole frames and resize them, and not the same pixels.
        limits: What the video may cost; default: `DecodeLimits()`.

    Returns:
        The frames as uint8 RGB of shape (number of indices, height, width, 3), or what `convert_frame` made of them,
        upright and all in the size of the first; and the metadata, with the frame numbers as `frames_indices`.

    Raises:
        VideoDecodeError: If the source cannot be read, is no video, is damaged where it is needed for the frames
            asked for, or costs more than the limits.
        ValueError: If a frame number lies outside the video, or none is asked for, or the source is nothing of these.
        ImportError: If PyAV is not installed.
    """
    with open_video(source, choose_region, limits) as video:
        with contextlib.suppress(FrameCountError):
            return video.gather(sample_indices, convert_frame)
        # By now the video knows its true number of frames.
        return video.gather(sample_indices, convert_frame)


@contextlib.contextmanager
def open_video(
    source: VideoSource, choose_region: ChooseRegion | None = None, limits: DecodeLimits | None = None
) -> Iterator["VideoReader"]:
    """Open a video for reading frames by their numbers, with its packets counted; arguments as in `decode_video`."""
    make_reader = VideoReader
    if isinstance(source, VideoPart):
        source, make_reader = source.source, source.make_reader
    with contextlib.ExitStack() as stack:
        file = VideoFile(source, limits or DecodeLimits())
        try:
            file.open(stack)
            video = stack.enter_context(contextlib.closing(make_reader(file, choose_region)))
            video.open()
            yield video
        except VideoDecodeError as error:
            # An error may be kept, and what its traceback holds with it: packets, and so the decoder.
            traceback.clear_frames(error.__traceback__)
            raise


class VideoFile:
    """
    Any source as one seekable file, whole or a part of one, that limits what it costs and words what is wrong with it.
    What errors call it is no attribute `name`, from which FFmpeg would guess a format and the names of other files.
    """

    def __init__(self, source: VideoSource, limits: DecodeLimits):
        try:
            import av
        except ImportError as error:
            raise ImportError("Decoding a video needs PyAV: `pip install av`.") from error
        self.av, self.limits, self._source = av, limits, source
        self._deadline = time.monotonic() + (limits.max_decode_sec or math.inf)
        self._start = self._end = self._place = self.num_tags = 0
        self.head, self.hint = b"", ""  # the first bytes; what may be behind an error
        self.opening_since = None  # CPU time of this thread, while FFmpeg learns about the file
        self.position = self.num_frames = None  # how far decoding has come
        if not is_source(source) or isinstance(source, VideoPart):
            raise ValueError(f"A video must be a path, a URL, bytes or a binary file, got {type(source).__name__}.")
        name = getattr(source, "name", None) if hasattr(source, "read") else source
        name = name if name and isinstance(name, (str, os.PathLike)) else "<file>"
        self.title = os.fsdecode(name).encode(errors="backslashreplace").decode()[:_MAX_NAME_LENGTH]

    def open(self, stack: contextlib.ExitStack) -> None:
        """Open the file, or copy what comes from elsewhere, until `stack` closes it."""
        is_address = isinstance(self._source, str) and "://" in self._source
        self.hint = "; of addresses, those of http and https are opened" if is_address else ""
        with self.reporting_errors():
            self._file = self._open(stack)
            num_bytes = self._file.seek(0, os.SEEK_END)
            if self.title == "<file>":
                self.title = f"<{num_bytes} bytes>"
            if num_bytes == 0:
                raise self.error("there is nothing in it")
            start, end = self._start, self._end or num_bytes
            if not start < end <= num_bytes:
                raise self.error(f"the file has {num_bytes:,} bytes, and no part from {start:,} to {end:,}")
            self._end, self.num_bytes = end, end - start
            self.head = self.read_at(0, 32)
        self.hint = ""

    def read(self, size: int) -> bytes:
        chunk = self._file.read(max(0, min(size, self._end - self._place)))
        self._place += len(chunk)
        self.check_time()
        if self.opening_since is not None:
            self.add_tags(sum(map(chunk.count, _TAG_MARKS.get(self.head[:4], ()))))
            if time.thread_time() - self.opening_since > _MAX_OPEN_SEC:
                raise self.error(f"to open it takes more than {_MAX_OPEN_SEC} s")
        return chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + {os.SEEK_SET: self._start, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[whence]
        if place < self._start:
            raise ValueError(f"negative seek position {place - self._start}")
        self._place = self._file.seek(place)
        return self.tell()

    def tell(self) -> int:
        return self._place - self._start

    def read_at(self, start: int, size: int) -> bytes:
        self.seek(start)
        return self.read(size)

    def check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise self.error(f"decoding takes longer than max_decode_sec={self.limits.max_decode_sec}")

    def check(self, limit: str, cost: float, message: str, advice: str = "") -> None:
        """Refuse what costs more than a limit, which the message leads to."""
        if cost > getattr(self.limits, limit):
            raise self.error(f"{message}{getattr(self.limits, limit):,}{advice}")

    def add_tags(self, number: int) -> None:
        self.num_tags += number
        if self.num_tags > _MAX_TAGS:
            raise self.error(f"its metadata have more than {_MAX_TAGS:,} tags")

    def error(self, reason: str) -> VideoDecodeError:
        progress = "" if self.position is None else f"; {self.position} of {self.num_frames} frames decoded"
        return VideoDecodeError(f"{self.title}: {reason}{progress}.")

    @contextlib.contextmanager
    def reporting_errors(self) -> Iterator[None]:
        """Turn what FFmpeg, PyAV and the file raise into `VideoDecodeError`."""
        try:
            yield
        except VideoDecodeError:
            raise
        # Damage also shows as Python's own errors: an offset before the file's start, a stream that appears late.
        except (self.av.FFmpegError, OSError, ValueError, LookupError, MemoryError) as error:
            self.check_time()
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__) + self.hint
            if _REFERENCES.match(self.head):
                reason = "it only refers to other files or addresses, and these are not opened"
            elif self.head[8:16] == b"WEBPVP8X" and int.from_bytes(self.head[20:21]) & 2:
                reason = "animated WebP cannot be decoded"
            raise self.error(reason) from error

    def _open(self, stack: contextlib.ExitStack) -> BinaryIO:
        source = self._source
        if isinstance(source, (bytes, bytearray, memoryview)):
            return io.BytesIO(source)
        if isinstance(source, io.TextIOBase):
            raise self.error("the file is open as text; open it with mode='rb'")
        if hasattr(source, "read"):
            is_seekable = getattr(source, "seekable", bool)()
            return source if is_seekable else self._receive(stack, partial(self._copy, _read_pipe(source)))
        path = os.fsdecode(source)
        scheme, _, place = path.partition("://")
        if scheme.lower() in ("http", "https"):
            return self._receive(stack, partial(self._download, path), is_download=True)
        if scheme.lower() == "file":
            path = url2pathname(place.removeprefix("localhost"))
        elif path.startswith("~") and not os.path.lexists(path):
            path = os.path.expanduser(path)
        if part := _PART_OF_FILE.fullmatch(path):
            path, self._start, self._end = part[3], int(part[1]), int(part[2])
        if os.path.isfile(path):
            return stack.enter_context(open(path, "rb"))
        return self._receive(stack, partial(self._copy, _read_pipe(path)))

    def _receive(
        self, stack: contextlib.ExitStack, fill: Callable[[BinaryIO], None], is_download: bool = False
    ) -> BinaryIO:
        """Have a thread fill a file, in time or not at all: what waits for ever is left to it."""
        errors: list[Exception] = []

        def run() -> None:
            try:
                fill(file)
            except Exception as error:
                errors.append(error)

        max_silence = math.inf if is_download else _MAX_SILENCE_SEC  # HTTP has its own
        max_download_sec = self.limits.max_download_sec if is_download else math.inf
        ends = (self._deadline, "max_decode_sec"), (time.monotonic() + max_download_sec, "max_download_sec")
        deadline, limit = min(ends)
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            num_bytes, left = file.tell(), deadline - time.monotonic()
            if left <= 0:
                raise self.error(f"it takes longer to arrive than {limit}={getattr(self.limits, limit)}")
            thread.join(min(left, max_silence, threading.TIMEOUT_MAX))
            if thread.is_alive() and left > max_silence and file.tell() == num_bytes:
                raise self.error(f"nothing comes for {max_silence} s")
        if errors:
            raise errors[0]
        return file

    def _copy(self, chunks: Iterable[bytes], file: BinaryIO) -> None:
        for chunk in chunks:
            file.write(chunk)  # an error where nobody waits for it any more, and the file is closed
            self.check("max_file_bytes", file.tell(), "it has more bytes than max_file_bytes=")

    def _download(self, url: str, file: BinaryIO) -> None:
        """Copy what is behind a URL. FFmpeg opens URLs too, but not every build of it speaks https."""
        from huggingface_hub.utils import httpx

        for again in ("", " (twice)"):
            file.seek(0)
            file.truncate()
            try:
                with httpx.stream("GET", url, follow_redirects=True) as response:
                    response.raise_for_status()
                    num_bytes = int(response.headers.get("content-length", 0))
                    self.check("max_file_bytes", num_bytes, "it has more bytes than max_file_bytes=")
                    return self._copy(response.iter_bytes(), file)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if again or getattr(getattr(error, "response", None), "status_code", 500) < 500:
                    reason = (str(error) or type(error).__name__).splitlines()[0]
                    raise self.error(f"{reason}{again}") from error


def _read_pipe(source: BinaryIO | str) -> Iterator[bytes]:
    """Read to the end of a pipe, which is opened here, in the thread, as that waits for its writer."""
    file = source if hasattr(source, "read") else open(source, "rb", buffering=0)  # noqa: SIM115 (ends with the thread)
    read = getattr(file, "read1", file.read)
    while chunk := read(2**16):
        yield chunk


class _Layout:
    """
    What the structure of a file tells before FFmpeg reads it. What claims more than can be true is refused, as FFmpeg
    would make an index of it.

    Attributes:
        is_fragmented: Whether it is an mp4 in fragments, whose frames no table lists before they come.
        is_cut: Whether the end of the frames is missing, where FFmpeg takes such an end for a proper one.
    """

    _BEFORE_FRAMES = (b"moof", b"mdat", b"styp", b"sidx", b"emsg", b"prft")
    _CLUSTER = b"\x1fC\xb6u"

    def __init__(self, file: VideoFile):
        self._file = file
        self.is_fragmented = self.is_cut = False
        self._num_samples = self._num_entries = 0  # what the boxes claim, and what FFmpeg's index of them would have
        head = file.head
        if head[:4] == b"RIFF":
            # Written to a pipe, the size is not known; and a last byte that pads may be missing.
            self.is_cut = file.num_bytes + 1 < 8 + int.from_bytes(head[4:8], "little") < 2**31
        elif head[:4] == b"\x1aE\xdf\xa3":
            self.is_cut = self._is_cut_matroska()
        elif head[:4] == b"OggS":
            headers = file.read_at(0, _MAX_OGG_HEADERS_BYTES)
            for mark in re.finditer(rb"(?s)(?:\x03vorbis|OpusTags|\x81theora|OVP80\x02 )(?=(.{4}))", headers):
                start = mark.end() + 4 + int.from_bytes(mark[1], "little")  # behind the name of the encoder
                file.add_tags(int.from_bytes(headers[start : start + 4], "little"))
        else:
            self._read_boxes()
        if self._num_samples > file.num_bytes or self._num_entries > _MAX_INDEX_ENTRIES:
            claim = f"its index claims {self._num_entries:,} samples, in a file of {file.num_bytes:,} bytes"
            raise file.error(claim)

    def _read_boxes(self) -> None:
        """Look at the boxes of an mp4, or of what may be one."""
        start, is_complete, num_bytes = 0, False, self._file.num_bytes
        while head := self._file.read_at(start, 16):
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if size == 1:  # for one of eight bytes behind the kind; 0 for all that is left
                size = int.from_bytes(head[8:], "big")
            size = size or num_bytes - start
            if len(head) < 8 or size < 8:
                break
            if kind not in (b"mdat", b"free", b"skip", b"wide", b"uuid") and size < _MAX_HEADER_BYTES:
                self._count_samples(self._file.read_at(start, size))
            self.is_fragmented |= kind == b"moof"
            is_complete |= kind == b"mfra"
            if start + size > num_bytes:
                break
            start += size
        # What is behind the last whole box is the beginning of another one, or was never part of the video.
        is_box = size >= 8 if len(head) >= 8 else head[:1] == b"\0" and (len(head) < 4 or any(head[:4]))
        is_before_frames = any(kind.startswith(head[4:8]) for kind in self._BEFORE_FRAMES)
        self.is_cut = is_box and is_before_frames and self.is_fragmented and not is_complete

    def _count_samples(self, data: bytes) -> None:
        self.is_fragmented |= b"mvex" in data
        for track in data.split(b"trak"):
            sizes = _find(track, b"st(?:sz|z2)", 8) + _find(track, b"trun", 4)
            handlers, times = _find(track, b"hdlr", 8), _find(track, b"stts", 4) + _find(track, b"stts", 12)
            # Of sound of which each sample lasts one tick, FFmpeg's index has chunks, not samples.
            if b"soun" in handlers and b"vide" not in handlers and set(times) == {b"\0\0\0\1"}:
                continue
            num_samples = sum(map(int.from_bytes, sizes))
            num_edits = max(map(int.from_bytes, _find(track, b"elst", 4)), default=0)
            self._num_samples += num_samples
            self._num_entries += num_samples * max(1, num_edits)

    def _is_cut_matroska(self) -> bool:
        """Whether the file is shorter than it says, and ends before the last of its clusters does."""
        num_bytes = self._file.num_bytes
        end_of_header = self._read_element(0)[2]
        kind, start, end = self._read_element(min(end_of_header, num_bytes))
        if kind != b"\x18S\x80g" or not num_bytes < end < math.inf:
            return False
        has_clusters = False
        while start < num_bytes:
            kind, _, start = self._read_element(start)
            has_clusters |= kind == self._CLUSTER
        return start == math.inf or kind == self._CLUSTER or not has_clusters

    def _read_element(self, start: int) -> tuple[bytes, int, float]:
        """Identifier, begin of the body, and end of an EBML element, which is infinite where it is not known."""
        head = self._file.read_at(start, 16)
        # The leading zeros of the first byte of identifier and size tell how many bytes they take.
        length = 9 - int.from_bytes(head[:1]).bit_length()
        size = head[length:]
        num_bytes = 9 - int.from_bytes(size[:1]).bit_length()
        body = start + length + num_bytes
        unknown = 2 ** (7 * num_bytes) - 1
        value = int.from_bytes(size[:num_bytes], "big") & unknown
        is_known = num_bytes <= len(size) and value != unknown
        return head[:length], body, body + value if is_known else math.inf


def _find(data: bytes, kind: bytes, distance: int) -> list[bytes]:
    """The four bytes at a distance behind each place where a kind of box is named."""
    return re.findall(kind + b"(?=.{%d}(.{4}))" % distance, data, re.DOTALL)


class Packets:
    """
    What is kept of the packets, in the order of decoding: a few bytes of each, for there may be millions. Frames are
    shown of those that are whole and not to be left out; `ticks` are the times of these, in no certain order.
    """

    def __init__(self, packets: Iterator[Any], container_format: Any, time_base: Any):
        pts, dts, durations, flags = array("q"), array("q"), array("q"), array("b")
        self.changes_setup, self.first = False, None
        for packet in packets:
            self.first = self.first or _identify(packet)
            self.changes_setup |= packet.is_keyframe and packet.has_sidedata("new_extradata")
            pts.append(NO_TIME if packet.pts is None else packet.pts)
            dts.append(NO_TIME if packet.dts is None else packet.dts)
            durations.append(packet.duration or 0)
            flags.append(packet.is_keyframe + 2 * packet.is_corrupt + 4 * packet.is_discard)
        has_pts, has_dts = NO_TIME not in pts, NO_TIME not in dts
        self.pts, dts, durations, flags = (np.asarray(each) for each in (pts, dts, durations, flags))
        self.are_keys, are_whole, are_wanted = flags & 1 != 0, flags & 2 == 0, flags & 4 == 0
        times = (self.pts if has_pts else dts)[are_wanted]
        # Matroska stores no decoding timestamps: FFmpeg makes them up, and not always in order.
        if has_dts and container_format.name != _MATROSKA:
            may_jump = container_format.flags & _FLAG_OF_JOINED_FORMATS
            starts = _find_starts(dts[are_wanted], float(_MAX_STEP_SEC / time_base) if may_jump else math.inf)
        else:
            starts = _find_starts_at_key_frames(times, self.are_keys[are_wanted])
        self.ticks, self.is_joined = _lay_out_times(times, durations[are_wanted], starts)
        # In MPEG-TS, the mark says that a counter does not go on, as where files are joined.
        if container_format.name == "mpegts" and self.ticks is not None and not are_whole.all():
            are_whole[are_wanted] |= _find_joints(self.ticks, ~are_whole[are_wanted], self.are_keys[are_wanted])
        if self.ticks is not None:
            self.ticks = self.ticks[are_whole[are_wanted]]
        self.num_before_loss = len(pts) if are_whole.all() else int(are_whole.argmin())
        self.are_shown = are_whole & are_wanted
        self.num_whole, self.num_shown = int(are_whole.sum()), int(self.are_shown.sum())
        self.are_unique = has_pts and len(np.unique(self.pts)) == len(pts)
        self.are_reordered = bool((np.diff(self.pts) < 0).any())


def _identify(packet: Any) -> tuple:
    """What tells a packet from the others: timestamps, place in the file, and what is given with it only once."""
    return packet.pts, packet.dts, packet.pos, [bytes(side_data) for side_data in packet.iter_sidedata()]


def _find_starts(times: np.ndarray, max_step: float = math.inf) -> list[int]:
    """Where a new part begins: times that never decrease go back, or jump by more than a step."""
    steps = np.diff(times)
    # A slide show has long steps, too, but more than one.
    jumps = (steps > max_step) & (steps > 10 * np.r_[0, steps[:-1]])
    return (np.flatnonzero((steps < 0) | jumps) + 1).tolist()


def _find_starts_at_key_frames(times: np.ndarray, are_keys: np.ndarray) -> list[int]:
    """Where presentation timestamps start again: all that is decoded before a key frame is shown before it."""
    padded = np.pad(times, (MAX_REORDERED + 1, 0), constant_values=np.iinfo(np.int64).max)
    earliest_before = np.lib.stride_tricks.sliding_window_view(padded, MAX_REORDERED + 1)[:-1].min(axis=1)
    goes_back = times < np.maximum.accumulate(times)
    return np.flatnonzero(are_keys & goes_back & (times <= earliest_before)).tolist()


def _lay_out_times(times: np.ndarray, durations: np.ndarray, starts: list[int]) -> tuple[np.ndarray | None, bool]:
    """
    When frames are shown, in ticks from the first frame on, or `None` without timestamps that make sense; and whether
    new parts begin, at `starts`. The times of a part are in any order, a duration is 0 where it is not known.
    """
    if not len(times) or times.min() == NO_TIME or int(times.max()) - int(times.min()) > _MAX_TICKS:
        return None, False
    ticks, end = np.empty_like(times), 0
    for start, stop in itertools.pairwise([0, *starts, len(times)]):
        part = times[start:stop] - times[start:stop].min() + end
        ticks[start:stop] = part
        last = part.argmax()
        # The next part begins where this one ends.
        end = part[last] + (durations[start:stop][last] or np.ptp(part) // max(1, len(part) - 1))
    return ticks, bool(starts)


def _find_joints(ticks: np.ndarray, are_marked: np.ndarray, are_keys: np.ndarray) -> np.ndarray:
    """
    Which of the marked packets end a part: a key frame follows, and no frame is missing around it. FFmpeg marks up to
    two packets before the one whose counter is off.
    """
    are_joints = np.zeros(len(ticks), dtype=bool)
    ordered = np.unique(ticks)
    steps = np.diff(ordered)
    max_step = max(1.5 * np.median(steps), np.percentile(steps, 95)) if len(steps) else 0
    for number in np.flatnonzero(are_marked):
        keys = number + 1 + np.flatnonzero(are_keys[number + 1 : number + 3])
        if len(keys):
            place = np.searchsorted(ordered, ticks[keys[0]])
            near = steps[max(0, place - MAX_REORDERED) : place + MAX_REORDERED]
            are_joints[number] = near.max(initial=0) <= max_step
    return are_joints


class VideoReader:
    """Reads the frames of one video by their numbers; `metadata` describes it, its size from the first frame on."""

    def __init__(self, file: VideoFile, choose_region: ChooseRegion | None):
        self._file, self._av, self.name = file, file.av, file.title
        self._converter = FrameConverter(self._av, choose_region)
        self._container = self._codec = self._first_frame = None
        self._num_pixels = 0  # decoded so far
        self._num_asked = 0  # frames, in all calls
        self._later: set[int] = set()  # frames that are kept if they are on the way to others
        self._kept: dict[int, Any] = {}
        self._is_plain = False  # whether files are opened anew to decode them, and without frame threads

    def open(self) -> None:
        """Open the container and count its packets."""
        with self._file.reporting_errors():
            self._layout = _Layout(self._file)
            self._open_container()
            self._header_fps = float(self._stream.guessed_rate or self._stream.average_rate or 0)
            self._count_packets()

    def _count_packets(self) -> None:
        packets = Packets(self._demux(), self._container.format, self._stream.time_base)
        self._plan_reading(packets)
        num_missing = self._count_missing(packets)
        self._describe(packets.num_shown, packets.ticks, packets.is_joined, num_missing)

    def close(self) -> None:
        """Let go of all that was decoded, and of the decoder."""
        self._kept.clear()
        self._close_container()

    def _close_container(self) -> None:
        """Let go of the decoder: the garbage collector could do so in a forked process, without threads to end."""
        if self._container is not None:
            self._container.close()
        self._container = self._stream = self._codec = self._first_frame = None

    def choose(self, sample_indices: SampleIndices | None) -> list[int]:
        """Have frame numbers chosen."""
        total = self.metadata.total_num_frames
        return self.ask_for(range(total) if sample_indices is None else sample_indices(self.metadata))

    def ask_for(self, indices: Iterable[int]) -> list[int]:
        """Check frame numbers against the number of frames, and note them."""
        indices, total = [operator.index(number) for number in indices], self.metadata.total_num_frames
        if not indices:
            raise ValueError(f"{self.name}: no frame was asked for.")
        for number in indices:
            if not 0 <= number < total:
                raise ValueError(f"{self.name}: frame {number} was asked for, but the video has {total} frames.")
        if self._num_certain is not None and max(indices) >= self._num_certain:
            raise self._file.error(self._loss)
        duration = self.metadata.duration or 0
        self._file.check("max_duration_sec", duration, f"it lasts {duration:,.1f} s or more, max_duration_sec is ")
        self._check_num_pixels(len(set(indices)) * math.prod(self._opened_size))
        self.metadata.frames_indices = indices
        return indices

    def read(self, numbers: list[int], later: Sequence[int] = ()) -> Iterator[tuple[int, np.ndarray]]:
        """
        Yield (number, frame) for distinct, ascending frame numbers; a frame is an array (height, width, 3). Frames in
        `later`, in the order in which later calls will ask for them, are kept if they are decoded on the way.
        """
        missing = [number for number in numbers if number not in self._kept]
        self._num_asked += len(numbers)
        max_kept = _MAX_KEPT_PIXELS // max(1, math.prod(self._opened_size)) - (len(numbers) - len(missing))
        self._later = set(later[: max(0, min(_KEPT_PER_READ * self._num_asked, max_kept))]) - self._kept.keys()
        decoded = self._decode_all(missing) if missing else iter(())
        for number in numbers:
            if number in self._kept:
                with self._file.reporting_errors():
                    picture = self._to_array(self._kept.pop(number))
                yield number, picture
            else:
                yield next(decoded)
        next(decoded, None)  # whatever has to follow the last frame

    def _decode_all(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decode frames, in other ways if the first one fails."""
        if self._times is not None:
            # Over how many frames to seek at least; without a number, all are decoded one by one, from the first on.
            attempts = [_MIN_FRAMES_TO_SKIP if get_worker_info() is None else _MIN_FRAMES_TO_SKIP_IN_WORKER, 1, None]
        else:
            may_be_to_blame = self._has_frame_threads or (self._is_rewindable and not self._is_plain)
            attempts = [None, None] if may_be_to_blame else [None]
        num_read = 0
        while attempts:
            min_skip = attempts.pop(0)
            self._is_plain = self._is_plain or not attempts
            try:
                for start, run in self._plan_runs(numbers[num_read:], min_skip):
                    for number, frame in self._decode(run, start):
                        num_read += 1
                        yield number, frame
                return
            except VideoDecodeError:
                # What goes wrong with frames left out, with frame threads, or after going back, says nothing about the
                # file; only decoding all frames one by one can judge it.
                self._kept = {number: frame for number, frame in self._kept.items() if number not in self._later}
                if not attempts:
                    raise

    def gather(
        self, sample_indices: SampleIndices | None, convert_frame: ConvertFrame | None
    ) -> tuple[np.ndarray, TimedVideoMetadata]:
        """Read the chosen frames into one array, decoding each of them once."""
        indices = self.choose(sample_indices)
        numbers, places = np.unique(indices, return_inverse=True)
        frames = None
        for row, (_, frame) in enumerate(self.read(numbers.tolist())):
            frame = frame if convert_frame is None else convert_frame(frame)
            if frames is None:
                num_bytes = len(indices) * frame.nbytes
                message = f"the frames asked for take {num_bytes:,} bytes, max_bytes is "
                self._file.check("max_bytes", num_bytes, message, "; ask for fewer, or iterate over them")
                frames = np.empty((len(numbers), *frame.shape), dtype=frame.dtype)
            frames[row] = frame
        return (frames if np.array_equal(numbers, indices) else frames[places]), self.metadata

    def _open_container(self) -> None:
        """Open the container, or open it again, with its best video stream, as FFmpeg chooses it."""
        self._close_container()
        file = self._file
        file.seek(0)
        file.num_tags, file.opening_since = 0, time.thread_time()
        # The limit holds for the frame that FFmpeg decodes to learn about the stream, too.
        options = {"max_pixels": str(file.limits.max_pixels)}
        # Of a playlist, or whatever refers to other files or addresses, none is opened. Text that is not UTF-8 in the
        # container's metadata is no reason to fail.
        settings = {"container_options": {"protocol_whitelist": ""}, "metadata_errors": "replace"}
        self._container = self._av.open(file, options=options, **settings)
        file.opening_since = None
        self._stream = self._container.streams.best("video")
        if self._stream is None or self._stream.codec_context is None:
            raise file.error("there is no video stream that can be decoded")
        if self._stream.disposition & self._av.stream.Disposition.dependent:
            raise file.error("a picture in tiles (HEIC, AVIF) cannot be put together; convert it to JPEG")
        self._codec = codec = self._stream.codec_context
        library = _DECODERS_WITH_ALPHA.get(codec.name) if self._stream.metadata.get("alpha_mode") == "1" else None
        if library in self._av.codecs_available:
            self._codec = self._av.CodecContext.create(library, "r")
            self._codec.extradata, self._codec.width, self._codec.height = codec.extradata, codec.width, codec.height
        self._is_own_decoder = self._codec is codec
        self._codec.options = options
        self._opened_size = width, height = codec.width, codec.height
        file.check("max_pixels", width * height, f"a frame of {width}x{height} has more than max_pixels=")
        file.hint = "" if width else f" (a picture of more than max_pixels={file.limits.max_pixels:,} is refused)"
        # Damaged hevc can make FFmpeg's frame threads wait for each other for ever. And PyAV drops errors met while it
        # empties frame threads: the number of frames has to tell a loss from a proper end.
        name = codec.codec.canonical_name
        is_safe = name in _ONE_FRAME_PER_PACKET and name != "hevc" and self._is_own_decoder
        self._has_frame_threads = is_safe and not self._is_plain
        self._stream.thread_type = "AUTO" if self._has_frame_threads else "SLICE"
        if get_worker_info() is not None:
            self._codec.thread_count = 1

    def _plan_reading(self, packets: Packets) -> None:
        """Find out where timestamps tell which packet is which frame, and where decoding may start."""
        container_format, codec = self._container.format.name, self._codec.codec.canonical_name
        self._first_packet = packets.first
        # A seek empties FFmpeg's own decoder only.
        is_sure = packets.are_unique and self._is_own_decoder
        self._is_rewindable = is_sure and container_format in _REWINDABLE_FORMATS
        is_timed = (
            is_sure
            and container_format in TIMED_FORMATS
            and codec in _ONE_FRAME_PER_PACKET
            and packets.ticks is not None
            and not packets.is_joined
            # A decoder that starts later has not seen what changed before.
            and not packets.changes_setup
            # What precedes the first key frame cannot be decoded.
            and bool(packets.are_keys[0])
            and packets.pts[0] == packets.pts.min()
            # Some writers store the order of decoding as the order of presentation.
            and (packets.are_reordered or not self._codec.has_b_frames)
        )
        # The presentation timestamp of each frame, and the frames where decoding may start.
        self._times = np.sort(packets.pts[packets.are_shown]).tolist() if is_timed else None
        if is_timed:
            key_times = packets.pts[packets.are_shown & packets.are_keys]
            self._key_frames = sorted({0, *np.searchsorted(self._times, key_times).tolist()})
        # In how many bytes each unit of an H.264 packet states its length, where they do.
        header = self._codec.extradata or b""
        is_avcc = codec == "h264" and len(header) > 4 and header[0] == 1
        self._nal_length_size = (header[4] & 3) + 1 if is_avcc else None

    def _count_missing(self, packets: Packets) -> int:
        """How many frames are lost; where it is not known how many, or which, this is an error."""
        container_format, entries = self._container.format.name, self._stream.index_entries
        num_whole, num_listed = packets.num_whole, len(entries)
        if num_listed > num_whole:  # Empty ones are no frames.
            num_listed = sum(1 for entry in entries if entry.size)
        num_promised = max(len(packets.pts), num_listed)
        is_known = container_format == "mpegts" or (container_format == _MP4 and not self._layout.is_fragmented)
        if self._layout.is_cut and container_format == "avi":
            # The header may count frames that the encoder left out, so that alone is no proof.
            num_promised = max(num_promised, self._stream.frames)
            is_known = self._stream.frames > 0
        elif self._layout.is_cut and container_format == _MATROSKA:
            num_promised = max(num_whole + 1, round((self._container.duration or 0) / 1e6 * self._header_fps))
            is_known = num_promised > num_whole + 1
        left = f"{num_whole} of {num_promised}" if num_promised > num_whole else f"only {num_whole}"
        self._loss = f"the file is damaged or cut short; {left} frames are left"
        if not is_known and (num_promised > num_whole or self._layout.is_cut):
            raise self._file.error(self._loss)
        # How many frames are left for certain, where some are missing.
        num_certain = min(packets.num_shown, packets.num_before_loss) - MAX_REORDERED * packets.are_reordered
        self._num_certain = num_certain if num_promised > num_whole else None
        return num_promised - num_whole

    def _describe(self, num_frames: int, ticks: np.ndarray | None, is_joined: bool, num_missing: int = 0) -> None:
        """Describe the video as one of so many frames, of which some may be missing at the end."""
        if num_frames == 0:
            raise self._file.error("the video stream has no frame that can be decoded")
        time_base, is_timed = self._stream.time_base, ticks is not None
        ticks = np.sort(ticks - ticks.min()) if is_timed else np.zeros(1)
        times = ticks * time_base.numerator / time_base.denominator
        fps, total = self._find_fps(times), num_frames + num_missing
        times = np.r_[times, times[-1] + np.arange(1, total - len(times) + 1) / fps] if fps else times
        times = times if is_timed or fps else None
        self._file.num_frames = total
        known = {"duration": total / fps if fps else None, "frame_times": times, "is_joined": is_joined}
        self.metadata = TimedVideoMetadata(total, fps=fps or None, video_backend="pyav", **known)

    def _find_fps(self, times: np.ndarray) -> float:
        """Frames per second: the header's, which may be a guess, unless the times of the frames contradict it."""
        fps, span_sec, num_steps = self._header_fps, float(times[-1]), len(times) - 1
        # Where the timestamps bear it out, the header's is the one without rounding errors.
        return num_steps / span_sec if span_sec and abs(fps * span_sec - num_steps) > 1.5 else fps

    def _plan_runs(self, numbers: list[int], min_skip: int | None) -> list[tuple[int | None, list[int]]]:
        """Split ascending frame numbers into runs (frame to start decoding from, numbers)."""
        if min_skip is None:
            return [(None, numbers)]
        runs, position = [(0, [])], 0
        for number in numbers:
            key_frame = self._key_frames[bisect_right(self._key_frames, number) - 1]
            if key_frame - position >= min_skip:
                runs.append((key_frame, []))
            runs[-1][1].append(number)
            position = number + 1
        return [run for run in runs if run[1]]

    def _decode(self, numbers: list[int], start: int | None) -> Iterator[tuple[int, np.ndarray]]:
        """Decode up to the last number, from `start` on only what the numbers need, without it all from frame 0 on."""
        with self._file.reporting_errors():
            self._file.position = start or 0
            self._is_damaged, self._first_frame = False, None
            self._shown: list[tuple[int, int]] = []  # timestamps and durations, where frames are counted
            wanted = set(numbers)
            expected: list[int] = []  # the frames that the decoder has yet to show, in their order
            is_timed = self._times is not None
            packets = self._choose_packets(numbers, start, expected) if is_timed else self._count_frames(numbers)
            for packet in packets:
                for frame in self._codec.decode(packet):
                    # Some decoders show what refers to frames before the key frame.
                    if is_timed and frame.pts is not None and frame.pts < self._times[start or 0]:
                        continue
                    number = position = self._file.position
                    if is_timed:
                        number = expected.pop(0) if expected else None
                        if number is None or frame.pts != self._times[number]:
                            raise self._file.error("a frame is missing")
                    else:
                        frame_time = frame.dts if frame.pts is None else frame.pts
                        self._shown.append((NO_TIME if frame_time is None else frame_time, frame.duration))
                    is_first = position == start and self._needs_seek(start)
                    self._check_frame(frame, number in wanted, is_first_after_seek=is_first)
                    self._file.position = number + 1
                    if number in wanted:
                        yield number, self._to_array(frame)
                    elif number in self._later and self._may_keep(frame):
                        self._kept[number] = frame

    def _choose_packets(self, numbers: list[int], start: int | None, expected: list[int]) -> Iterator[Any]:
        """Yield what the decoder needs, then None, which empties it; add the frames it will show to `expected`."""
        unsent = set(numbers)
        for packet in self._packets_from(start or 0):
            number = bisect_left(self._times, packet.pts)
            if not packet.is_discard and packet.pts >= self._times[start or 0]:
                is_wanted = number in unsent or number in self._later
                may_leave_out = start is not None and not is_wanted and self._nal_length_size
                if may_leave_out and _is_disposable(packet, self._nal_length_size):
                    continue
                unsent.discard(number)
                insort(expected, number)
            yield packet
            # After what should be the last frame of all, the end has to follow.
            if numbers and not unsent and numbers[-1] < len(self._times) - 1:
                break
        yield None
        if unsent or expected:
            raise self._file.error("frames are missing")

    def _count_frames(self, numbers: list[int]) -> Iterator[Any]:
        """Yield all packets, then None, which empties the decoder, where only counting tells which frame it shows."""
        total = self._file.num_frames
        for packet in self._packets_from(0):
            yield packet
            # After what should be the last frame of all, the end has to follow.
            if numbers and numbers[-1] < self._file.position < total:
                return
        yield None
        position = self._file.position
        if position != total:
            if not self._is_plain or self._num_certain is not None:
                raise self._file.error("frames are missing")
            times, durations = np.array(self._shown, dtype=np.int64).reshape(-1, 2).T
            self._describe(position, *_lay_out_times(times, durations, _find_starts(times)))
            raise FrameCountError(f"{self.name}: {position} frames decoded, where there are {total} packets.")

    def _needs_seek(self, start: int) -> bool:
        """Whether there are frames before this one."""
        return start != 0

    def _packets_from(self, start: int) -> Iterator[Any]:
        """Yield the packets from frame 0 or a key frame to the end."""
        if self._needs_seek(start):
            self._container.seek(self._times[start], stream=self._stream)
            yield from itertools.dropwhile(lambda packet: packet.pts != self._times[start], self._demux())
            return
        packets, first = self._demux(), None
        if self._is_rewindable and not self._is_plain:
            # Where no key frame is marked, there is nothing to go to; and some things are given only once.
            with contextlib.suppress(self._av.FFmpegError):
                self._container.seek(self._first_packet[0], stream=self._stream)
                first = next(packets, None)
        if first is None or _identify(first) != self._first_packet:
            self._open_container()
            packets = self._demux()
        else:
            yield first
        yield from packets

    def _demux(self) -> Iterator[Any]:
        """Yield packets from where the container stands, without empty ones: decoders take them for the end."""
        max_packets = self._file.num_bytes
        for num_packets, packet in enumerate(self._container.demux(self._stream)):
            self._file.check_time()
            if num_packets > max_packets:  # an index may name the same bytes again and again
                raise self._file.error(f"it has more packets than bytes, which are {max_packets:,}")
            if packet.size:
                yield packet

    def _check_frame(self, frame: Any, is_wanted: bool, is_first_after_seek: bool = False) -> None:
        """Refuse a frame whose damage the decoder has concealed, and one that is nothing to start from."""
        self._file.hint = ""
        self._num_pixels += frame.width * frame.height
        self._check_num_pixels(self._num_pixels)
        if not self._needs_seek(self._file.position):
            self._first_frame = frame
        is_key_frame = frame.key_frame and frame.pict_type == self._av.video.frame.PictureType.I
        # Some containers also mark frames that later ones cannot do with alone, such as the start of an intra refresh.
        if is_first_after_seek and not is_key_frame:
            raise self._file.error("a key frame cannot be decoded by itself")
        # What follows a key frame refers to nothing before it.
        self._is_damaged = frame.is_corrupt or (self._is_damaged and not is_key_frame)
        if self._is_damaged and is_wanted:
            raise self._file.error("a frame is damaged")

    def _may_keep(self, frame: Any) -> bool:
        """Whether a frame is whole, and takes the memory that was counted on."""
        return not self._is_damaged and (frame.width, frame.height) == self._opened_size

    def _to_array(self, frame: Any) -> np.ndarray:
        """Make an `av.VideoFrame` upright uint8 RGB, (height, width, 3), in the size of the first frame of all."""
        converter, first, size = self._converter, self._first_frame, (frame.width, frame.height)
        if converter.height is None:
            if first is None and size != self._opened_size:
                raise self._file.error("the size of the first frame is not known")
            if first is not None and (first.width, first.height) != size:
                converter.convert(first)
        self._first_frame = None
        picture = converter.convert(frame)
        self.metadata.height, self.metadata.width = converter.height, converter.width
        return picture

    def _check_num_pixels(self, num_pixels: int) -> None:
        num_bytes = self._file.num_bytes
        if num_pixels > _FREE_PIXELS:
            message = f"{num_pixels:,} pixels or more are in {num_bytes:,} bytes, max_pixels_per_byte is "
            self._file.check("max_pixels_per_byte", num_pixels / num_bytes, message)


def _is_disposable(packet: Any, nal_length_size: int) -> bool:
    """Tell whether an H.264 packet is whole and no frame refers to its own: `nal_ref_idc` is zero in all units."""
    data, start = memoryview(packet), 0
    while (unit := start + nal_length_size) < len(data):
        length = int.from_bytes(data[start:unit], "big")
        # The first bit is forbidden.
        if data[unit] & 0xE0 or length == 0:
            return False
        start = unit + length
    return start == len(data)
