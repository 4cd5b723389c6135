"""Video decoding: a container (file, URL or bytes) becomes RGB frames at given frame numbers, with PyAV alone.

This file owns one promise: the frames returned are the frames asked for, all of them, or there is an error. What a
header says about their number is not believed; the packets are counted first, without decoding them. If the decoder
then gives another number of frames, this is damage, and an error, or the format is one whose packets are not all
frames, and the caller is asked again with the true count. Frames are numbered from 0 in display order, and each has
the time that its own timestamp says.

Decoding begins as if nothing had been counted. Where timestamps tell which packet is which frame, only what the wanted
frames need is decoded: from the key frame before them to the last of them, without the frames in between that no other
frame refers to.

A file is data of somebody else: it never makes FFmpeg open another file or address, and what it may cost is limited.
"""

import contextlib
import functools
import io
import itertools
import math
import operator
import os
import queue
import re
import stat
import tempfile
import threading
import time
import traceback
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from heapq import heappop, heappush
from typing import Any, BinaryIO
from urllib.request import url2pathname

import numpy as np
from torch.utils.data import get_worker_info
from transformers.video_utils import VideoMetadata

from .frame_sampling_vtn import VideoSegment
from .pixels_vtn import ChooseRegion, FrameConverter


VideoSource = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | VideoSegment
# A part of a file, as FFmpeg writes it: tar files hold other files as they are.
_PART_OF_FILE = re.compile(r"subfile,,start,(\d+),end,(\d+),,:(.+)", re.DOTALL)
SampleIndices = Callable[[VideoMetadata], Sequence[int]]
PlanRounds = Callable[[VideoMetadata], Sequence[Sequence[int]]]
ConvertFrame = Callable[[np.ndarray], np.ndarray]

_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_MATROSKA = "matroska,webm"
# Containers that store a presentation timestamp with each packet, and codecs that show one frame per packet.
_TIMED_FORMATS = (_MP4, _MATROSKA)
_ONE_FRAME_PER_PACKET = ("h264", "hevc", "vp9", "av1")
# What decodes the transparency of a WebM, too.
_DECODERS_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Containers in which going back to the start may bring the same packets again; others are opened again.
_REWINDABLE_FORMATS = (*_TIMED_FORMATS, "avi")
# FFmpeg's AVFMT_TS_DISCONT: containers made to be cut and joined. A longer step than this is a joint, not a pause.
_FLAG_OF_JOINED_FORMATS = 0x200
_MAX_STEP_SEC = 10
_TS_TICKS_PER_SEC = 90_000
# More ticks than this are no time, but damage.
_MAX_TICKS = 2**52
# In decoding order, a frame comes after at most this many that are shown after it: decoders keep no more pictures.
_MAX_REORDERED = 16

# A seek empties the decoder's threads; decoding fewer frames than this, only to pass over them, is cheaper. One thread
# loses nothing but the seek itself.
_MIN_FRAMES_TO_SKIP = 16
_MIN_FRAMES_TO_SKIP_IN_WORKER = 2

# FFmpeg makes an index of all frames that a container claims, and takes a time that grows with the square of their
# number for tags; and both of them before anything else can be asked.
_MAX_INDEX_ENTRIES = 2**24
_MAX_TAGS = 2**12
_MAX_OPEN_SEC = 4
_MAX_OGG_HEADERS_BYTES = 2**20
# Pixels that any file may decode to.
_FREE_PIXELS = 2**31
# A pipe or server that sends nothing for longer will not go on.
_MAX_SILENCE_SEC = 5
# Errors give this much of a name, which may be that of an attacker.
_MAX_NAME_LENGTH = 300
# What a tag begins with, in formats of which FFmpeg reads many slowly; by the first bytes of the file.
_TAG_MARKS = {b"\x1aE\xdf\xa3": (b"\x67\xc8",), b"\x89PNG": (b"tEXt", b"zTXt", b"iTXt")}
_MAX_HEADER_BYTES = 2**28
# Playlists, lists of files, session descriptions.
_REFERENCES = re.compile(rb"\s*(#EXTM3U|ffconcat|v=0\r?\n)")


class VideoDecodeError(ValueError):
    """
    A video that cannot be decoded. The message names the source and the reason.

    Example:

    ```python
    >>> from vtn_hf import VideoDecodeError, VTNVideoProcessor

    >>> try:
    ...     VTNVideoProcessor()(b"not a video")
    ... except VideoDecodeError as error:
    ...     print(error)
    <11 bytes>: Invalid data found when processing input.

    ```"""


class _FrameCountError(VideoDecodeError):
    """Decoding ended without an error, but gave another number of frames than there are packets."""


@dataclass(frozen=True)
class DecodeLimits:
    """
    What a video may cost. One that would cost more is refused before it does.

    Args:
        max_pixels: Pixels of one frame; the default is twice those of 8K video.
        max_pixels_per_byte: Pixels of all frames decoded, for each byte of the file. The default is what a still
            picture in 4K comes to; 2**31 pixels, half a minute of 1080p, are always free.
        max_duration_sec: Seconds that the whole video lasts; the default is a day.
        max_bytes: Bytes of all frames returned together; the default is 8 GiB.
        max_decode_sec: Seconds that reading and decoding may take; by default without limit. What hangs inside FFmpeg
            ends with its process only.
        max_file_bytes: Bytes that are downloaded, or read from a pipe; the default is 2 GiB.
        max_download_sec: Seconds that a download may take, with its second try; the default is ten minutes.

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
    The metadata of a decoded video, which know the time of each frame.

    Args:
        frame_times (`np.ndarray` of shape `(total_num_frames,)`, float64):
            Seconds from the first frame to each, by the timestamps of the frames themselves; never decreasing. `None`
            where neither timestamps nor a frame rate are known.
        is_joined (`bool`):
            Whether timestamps start again or jump on the way, as in files joined end to end; `frame_times` go on.
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
        source: Path, http(s) or file URL, part of a file as FFmpeg writes it
            ("subfile,,start,512,end,9000,,:videos.tar"), the bytes of a video file, or a binary file object, which is
            read from its start and left open; one that cannot be sought, such as a pipe, is read to its end first. Or
            a `VideoSegment` of any of these.
        sample_indices: Called with the metadata (still without `width` and `height`, which only a decoded frame
            tells); returns frame numbers, in any order and with repetitions. It is called again if the number of
            frames turns out to be another one. `None` takes all frames.
        convert_frame: Called with each frame, uint8 (height, width, 3), valid until the next; returns the array that
            takes its place. What makes frames smaller belongs here: no two large ones are kept.
        choose_region: Called with height and width of the upright picture; says which region of it libswscale turns
            into a small RGB picture. Faster than to convert whole frames and resize them, and not the same pixels.
        limits: What the video may cost; default: `DecodeLimits()`.

    Returns:
        The frames as uint8 RGB of shape (number of indices, height, width, 3), or what `convert_frame` made of them,
        in the order asked for, turned and mirrored as the container says and all in the size of the first; and the
        metadata, with `fps` in frames per second, `duration` in seconds, `frame_times` of all frames, `height` and
        `width` of the video, and the frame numbers as `frames_indices`.

    Raises:
        VideoDecodeError: If the source cannot be read, is no video, is damaged where it is needed for the frames
            asked for, or costs more than the limits.
        ValueError: If a frame number lies outside the video, or none is asked for, or the source is nothing of these.
        ImportError: If PyAV is not installed.
    """
    with _open_video(source, choose_region, limits) as video:
        try:
            return _gather(video, sample_indices, convert_frame)
        except _FrameCountError:  # by now the video knows its true number of frames
            return _gather(video, sample_indices, convert_frame)


def iter_video_frames(
    source: VideoSource,
    sample_indices: SampleIndices | None = None,
    *,
    convert_frame: ConvertFrame | None = None,
    choose_region: ChooseRegion | None = None,
    limits: DecodeLimits | None = None,
) -> Iterator[np.ndarray]:
    """Decode a video one frame at a time, in memory that does not grow with its length.

    Arguments and errors are those of `decode_video`, but the frame numbers must be ascending (repetitions are
    allowed), and frames already given out cannot be taken back: if the number of frames turns out to be another one
    and `sample_indices` would then have chosen other frames, this raises `VideoDecodeError`.

    Yields:
        Frames as uint8 RGB of shape (height, width, 3), or what `convert_frame` made of them.
    """
    with _open_video(source, choose_region, limits) as video:
        indices = video.choose(sample_indices)
        if indices != sorted(indices):
            raise ValueError(f"{video.name}: frame numbers must be ascending to be iterated over, got {indices}.")
        repeats = Counter(indices)
        given: list[int] = []
        try:
            for number, frame in video.read(list(repeats)):
                frame = frame if convert_frame is None else convert_frame(frame)
                for _ in range(repeats[number]):
                    given.append(number)
                    yield np.ascontiguousarray(frame)
        except _FrameCountError:
            if given != video.choose(sample_indices):
                raise


def iter_frame_rounds(
    source: VideoSource,
    plan_rounds: PlanRounds,
    *,
    convert_frame: ConvertFrame | None = None,
    choose_region: ChooseRegion | None = None,
    limits: DecodeLimits | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode a video in rounds, so that whoever has seen enough after some of them can stop.

    The file is opened once, and its packets are counted once. Arguments and errors are those of `decode_video`, but
    for one:

    Args:
        plan_rounds: Called with the metadata; returns rounds of frame numbers, ascending in each, no number twice. It
            is called again if the number of frames turns out to be another one; frames that were given out are then
            not given again.

    Yields:
        The number of each frame, and the frame as uint8 RGB of shape (height, width, 3), or what `convert_frame` made
        of it.
    """
    with _open_video(source, choose_region, limits) as video:
        given: set[int] = set()
        rounds: Sequence[Sequence[int]] = []

        def choose(metadata: VideoMetadata) -> list[int]:
            nonlocal rounds
            rounds = plan_rounds(metadata)
            return [number for part in rounds for number in part]

        for is_last_try in (False, True):
            video.choose(choose)
            try:
                for part in rounds:
                    missing = [int(number) for number in part if number not in given]
                    for number, frame in video.read(missing) if missing else ():
                        given.add(number)
                        frame = frame if convert_frame is None else convert_frame(frame)
                        yield number, np.ascontiguousarray(frame)
                return
            except _FrameCountError:  # by now the video knows its true number of frames
                if is_last_try:
                    raise


def _gather(
    video: "_VideoReader", sample_indices: SampleIndices | None, convert_frame: ConvertFrame | None
) -> tuple[np.ndarray, TimedVideoMetadata]:
    """Read the chosen frames into one array, decoding each of them once."""
    indices = video.choose(sample_indices)
    numbers, places = np.unique(indices, return_inverse=True)
    frames = None
    for row, (_, frame) in enumerate(video.read(numbers.tolist())):
        if convert_frame is not None:
            frame = convert_frame(frame)
        if frames is None:
            video.check_size(len(indices) * frame.nbytes)
            frames = np.empty((len(numbers), *frame.shape), dtype=frame.dtype)
        frames[row] = frame
    return (frames if np.array_equal(numbers, indices) else frames[places]), video.metadata


class _Packets:
    """
    What is kept of the packets, in the order of decoding: a few bytes of each, for there may be millions.

    Args:
        packets: Those of the video stream.
        are_joined: Whether a packet that is marked as corrupt may be complete: in MPEG-TS the mark says that a counter
            does not go on, as where files are joined.
    """

    def __init__(self, packets: Iterator[Any], are_joined: bool):
        pts, dts, durations = array("q"), array("q"), array("q")  # in the time base of the stream
        flags = array("b")
        self.has_pts = self.has_dts = True
        self.changes_setup = False
        self.first: tuple | None = None
        for packet in packets:
            if self.first is None:
                self.first = _identify(packet)
            packet_pts, packet_dts = packet.pts, packet.dts
            if packet_pts is None:
                self.has_pts = False
            if packet_dts is None:
                self.has_dts = False
            if packet.is_keyframe and packet.has_sidedata("new_extradata"):
                self.changes_setup = True
            pts.append(packet_pts or 0)
            dts.append(packet_dts or 0)
            durations.append(packet.duration or 0)
            flags.append(packet.is_keyframe + 2 * packet.is_corrupt + 4 * packet.is_discard)
        self.pts, self.dts, self.durations, flags = (np.asarray(each) for each in (pts, dts, durations, flags))
        self.are_keys, are_whole, are_shown = flags & 1 != 0, flags & 2 == 0, flags & 4 == 0
        if are_joined and self.has_pts:
            are_whole |= self._find_joints(np.flatnonzero(~are_whole))
        self.num_whole = int(are_whole.sum())
        self.num_before_loss = len(pts) if are_whole.all() else int(are_whole.argmin())
        self.are_shown = are_whole & are_shown
        self.num_shown = int(self.are_shown.sum())
        self.are_unique = self.has_pts and len(np.unique(self.pts)) == len(pts)
        self.are_reordered = bool((np.diff(self.pts) < 0).any())

    def _find_joints(self, marked: np.ndarray) -> np.ndarray:
        """
        Which of the marked packets end a part: a key frame follows, and no frame is missing around it, as time goes on
        without a gap, or starts anew. FFmpeg marks up to two packets before the one whose counter is off.
        """
        are_joints = np.zeros(len(self.pts), dtype=bool)
        steps = np.diff(np.unique(self.pts))
        max_step = max(1.5 * np.median(steps), np.percentile(steps, 95)) if len(steps) else 0
        for number in marked:
            keys = number + 1 + np.flatnonzero(self.are_keys[number + 1 : number + 3])
            if len(keys):
                # Of twice as many packets, the half next to the joint has all of its times, whatever the order.
                before = np.unique(self.pts[max(0, keys[0] - 2 * _MAX_REORDERED) : keys[0]])[-_MAX_REORDERED:]
                after = np.unique(self.pts[keys[0] : keys[0] + 2 * _MAX_REORDERED])[:_MAX_REORDERED]
                step = after[after > before[-1]][:1] - before[-1]
                step = step[step <= _MAX_STEP_SEC * _TS_TICKS_PER_SEC]  # else another time begins
                are_joints[number] = np.r_[np.diff(before), np.diff(after), step].max(initial=0) <= max_step
        return are_joints


class _TimeLine:
    """
    When frames are shown, in ticks of the stream from the first frame on.

    Args:
        times: Timestamps of the frames in order of decoding or of display; never mixed across the starts of parts.
        durations: Of the frames, 0 where it is not known.
        starts: Which frames begin a new part, but for the first: there timestamps start again or jump.
    """

    def __init__(self, times: np.ndarray, durations: np.ndarray, starts: list[int]):
        self.is_joined = bool(starts)
        self.ticks = np.empty_like(times)
        end = 0
        for start, stop in itertools.pairwise([0, *starts, len(times)]):
            order = start + np.argsort(times[start:stop], kind="stable")
            part = times[order] - times[order[0]] + end
            self.ticks[start:stop] = part
            # The next part begins where this one ends.
            end = part[-1] + (durations[order[-1]] or (part[-1] - part[0]) // max(1, len(part) - 1))

    @classmethod
    def of_packets(cls, packets: _Packets, container_format: Any, time_base: Any) -> "_TimeLine | None":
        """`None` where there are no timestamps."""
        times = packets.pts if packets.has_pts else packets.dts if packets.has_dts else None
        if times is None or not packets.num_shown or _has_nonsense(times):
            return None
        times, dts, durations, are_keys = (
            numbers[packets.are_shown] for numbers in (times, packets.dts, packets.durations, packets.are_keys)
        )
        # Matroska stores no decoding timestamps: FFmpeg makes them up, and not always in order.
        if packets.has_dts and container_format.name != _MATROSKA:
            may_jump = container_format.flags & _FLAG_OF_JOINED_FORMATS
            starts = _find_starts(dts, float(_MAX_STEP_SEC / time_base) if may_jump else math.inf)
        else:
            starts = _find_starts_at_key_frames(times, are_keys)
        return cls(times, durations, starts)

    @classmethod
    def of_frames(cls, times: list[int | None], durations: list[int]) -> "_TimeLine | None":
        """Of decoded frames; `None` where there are no timestamps."""
        if None in times or not times or _has_nonsense(np.array(times)):
            return None
        return cls(np.array(times), np.array(durations), _find_starts(np.array(times), math.inf))


def _has_nonsense(times: np.ndarray) -> bool:
    return int(times.max()) - int(times.min()) > _MAX_TICKS


def _find_starts(times: np.ndarray, max_step: float) -> list[int]:
    """Where times that never decrease go back, or jump by more than a step."""
    steps = np.diff(times)
    # A slide show has long steps, too, but more than one.
    jumps = (steps > max_step) & (steps > 10 * np.r_[0, steps[:-1]])
    return (np.flatnonzero((steps < 0) | jumps) + 1).tolist()


def _find_starts_at_key_frames(times: np.ndarray, are_keys: np.ndarray) -> list[int]:
    """Where presentation timestamps start again: all that is decoded before a key frame is shown before it."""
    starts = [0]
    goes_back = np.r_[False, times[1:] < np.maximum.accumulate(times)[:-1]]
    for number in np.flatnonzero(goes_back & are_keys).tolist():
        part = times[starts[-1] : number]
        if len(part) and part[-_MAX_REORDERED - 1 :].min() >= times[number] < part.max():
            starts.append(number)
    return starts[1:]


class _VideoReader:
    """Reads the frames of one video by their numbers.

    Args:
        source: Open.
        choose_region: As in `decode_video`.

    Attributes:
        metadata: `TimedVideoMetadata`; the first frame that is read sets `width` and `height`.
    """

    def __init__(self, source: "_Source", choose_region: ChooseRegion | None):
        self._av = _import_av()
        self._converter = FrameConverter(self._av, choose_region)
        self._source, self._file, self._limits = source, source.file, source.limits
        self._container: Any = None
        self._codec: Any = None
        self._layout: _Layout | None = None
        self.name = source.name
        self._num_frames = 0  # in the file
        self._offset = 0  # number of the frame in the file that is the first of the segment
        self._position: int | None = None  # number of the next frame, once decoding has begun
        self._num_certain: int | None = None  # how many frames are left where some are missing
        self._num_pixels = 0  # decoded so far
        self._opening_since: float | None = None
        self._first_frame: Any = None
        self._is_refused = False

    def open(self) -> None:
        """Open the container and count its packets."""
        with self._reporting_errors():
            self._layout = _Layout(self._file, self._check_time)
            self._check_claims()
            self._open_container()
            container_format = self._container.format
            packets = _Packets(self._demux(), are_joined=container_format.name == "mpegts")
            time_line = _TimeLine.of_packets(packets, container_format, self._stream.time_base)
            self._header_fps = float(self._stream.guessed_rate or self._stream.average_rate or 0)
            self._plan_reading(packets, time_line)
            num_missing = self._count_missing(packets)
            if num_missing:
                num_before_loss = min(packets.num_shown, packets.num_before_loss)
                self._num_certain = num_before_loss - _MAX_REORDERED * packets.are_reordered
            self._describe(packets.num_shown, time_line, num_missing)
            self._set_threads()

    def close(self) -> None:
        """
        Close the container, but not the file, and let go of the decoder: left to the garbage collector, it could be
        collected in a forked process, which has no threads to end.
        """
        if self._container is not None:
            self._container.close()
        self._container = self._stream = self._codec = self._first_frame = None

    def choose(self, sample_indices: SampleIndices | None) -> list[int]:
        """Ask for frame numbers and check them against the number of frames; return those in the file."""
        total = self.metadata.total_num_frames
        indices = range(total) if sample_indices is None else sample_indices(self.metadata)
        indices = [operator.index(number) for number in indices]
        if not indices:
            raise ValueError(f"{self.name}: no frame was asked for.")
        for number in indices:
            if not 0 <= number < total:
                raise ValueError(f"{self.name}: frame {number} was asked for, but the video has {total} frames.")
        self.metadata.frames_indices = indices
        indices = [number + self._offset for number in indices]
        if self._num_certain is not None and max(indices) >= self._num_certain:
            raise self._error(self._loss)
        self._check_num_pixels(len(set(indices)) * self._opened_size[0] * self._opened_size[1])
        return indices

    def read(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, frame) for distinct, ascending frame numbers; a frame is an array (height, width, 3)."""
        attempts = [self._read_by_counting]
        if self._times is not None:
            min_skip = _MIN_FRAMES_TO_SKIP if get_worker_info() is None else _MIN_FRAMES_TO_SKIP_IN_WORKER
            by_runs = (functools.partial(self._read_by_runs, min_skip=min_skip) for min_skip in (min_skip, 1))
            attempts = [*by_runs, self._read_by_time]
        elif self._has_frame_threads or self._is_rewindable:
            attempts *= 2
        num_read = 0
        while attempts:
            attempt = attempts.pop(0)
            if not attempts:
                self._has_frame_threads = self._is_rewindable = False
            try:
                for item in attempt(numbers[num_read:]):
                    num_read += 1
                    yield item
                return
            except VideoDecodeError:
                # What goes wrong with frames left out, with frame threads, or after going back, says nothing about the
                # file; only decoding all frames one by one can judge it.
                if not attempts or self._is_refused:
                    raise

    def check_size(self, num_bytes: int) -> None:
        """Refuse to return more than the limit, before the memory is taken."""
        if num_bytes > self._limits.max_bytes:
            raise self._refuse(
                f"the frames asked for take {num_bytes:,} bytes, max_bytes is {self._limits.max_bytes:,}; ask for "
                "fewer, or iterate over them"
            )

    def _check_claims(self) -> None:
        """Refuse an index that cannot be true, as FFmpeg would make all of it, and what takes it long."""
        layout = self._layout
        if layout.num_comments > _MAX_TAGS:
            raise self._refuse(f"its metadata have more than {_MAX_TAGS:,} tags")
        if layout.num_samples > layout.num_bytes or layout.num_entries > _MAX_INDEX_ENTRIES:
            raise self._refuse(
                f"its index claims {layout.num_entries:,} samples, in a file of {layout.num_bytes:,} bytes"
            )

    def _open_container(self) -> None:
        """Open the container, or open it again, with its best video stream, as FFmpeg chooses it."""
        self.close()
        self._file.seek(0)
        self._num_tags, self._opening_since = 0, time.thread_time()
        # The limit holds for the frame that FFmpeg decodes to learn about the stream, too.
        options = {"max_pixels": str(self._limits.max_pixels)}
        self._container = self._av.open(
            # Without the name, from which FFmpeg would guess a format and the names of other files.
            _WatchedFile(self._file, self._watch),
            options=options,
            # Of a playlist, or whatever refers to other files or addresses, none is opened.
            container_options={"protocol_whitelist": ""},
            # Text that is not UTF-8 in the container's metadata is no reason to fail.
            metadata_errors="replace",
        )
        self._opening_since = None
        self._stream = self._container.streams.best("video")
        if self._stream is None or self._stream.codec_context is None:
            raise self._error("there is no video stream that can be decoded")
        self._codec = self._stream.codec_context
        # FFmpeg's own decoders leave out the transparency that lies beside the pictures of a WebM.
        is_transparent = self._stream.metadata.get("alpha_mode") == "1"
        self._library = _DECODERS_WITH_ALPHA.get(self._codec.name) if is_transparent else None
        if self._library not in self._av.codecs_available:
            self._library = None
        if self._library is not None:
            size, extradata = (self._codec.width, self._codec.height), self._codec.extradata
            self._codec = self._av.CodecContext.create(self._library, "r")
            self._codec.extradata, (self._codec.width, self._codec.height) = extradata, size
        self._codec.options = options
        self._opened_size = self._codec.width, self._codec.height
        if math.prod(self._opened_size) > self._limits.max_pixels:
            raise self._refuse(
                f"a frame of {self._codec.width}x{self._codec.height} has more than "
                f"max_pixels={self._limits.max_pixels:,}"
            )

    def _plan_reading(self, packets: _Packets, time_line: _TimeLine | None) -> None:
        """Find out where timestamps tell which packet is which frame, and where decoding may start."""
        container_format, codec = self._container.format.name, self._codec.codec.canonical_name
        self._first_packet = packets.first
        # A seek empties FFmpeg's own decoder only.
        is_own = self._library is None
        self._is_rewindable = packets.are_unique and container_format in _REWINDABLE_FORMATS and is_own
        # Damaged hevc can make FFmpeg's frame threads wait for each other for ever. And PyAV drops errors met while it
        # empties frame threads: the number of frames has to tell a loss from a proper end.
        self._has_frame_threads = codec in _ONE_FRAME_PER_PACKET and codec != "hevc" and is_own
        is_timed = (
            is_own
            and container_format in _TIMED_FORMATS
            and codec in _ONE_FRAME_PER_PACKET
            and packets.are_unique
            and time_line is not None
            and not time_line.is_joined
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

    def _count_missing(self, packets: _Packets) -> int:
        """
        How many frames are lost, at the end of the file or from a loss on. Raises an error where frames are lost, but
        it is not known how many, or which.
        """
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
            raise self._error(self._loss)
        return num_promised - num_whole

    def _describe(self, num_frames: int, time_line: _TimeLine | None, num_missing: int = 0) -> None:
        """Describe the video as one of so many frames, of which some may be missing at the end."""
        if num_frames == 0:
            raise self._error("the video stream has no frame that can be decoded")
        time_base = self._stream.time_base
        times = None if time_line is None else time_line.ticks * time_base.numerator / time_base.denominator
        fps = self._find_fps(times)
        self._num_frames = total = num_frames + num_missing
        if fps:
            known = np.zeros(1) if times is None else times
            times = np.r_[known, known[-1] + np.arange(1, total - len(known) + 1) / fps]
        if self._source.segment is not None:
            times = self._cut(times, total / fps if fps else 0.0)
            total, fps = len(times), self._find_fps(times)
        self.metadata = TimedVideoMetadata(
            total_num_frames=total,
            fps=fps or None,
            duration=total / fps if fps else None,
            video_backend="pyav",
            frame_times=times,
            is_joined=time_line is not None and time_line.is_joined,
        )
        if (self.metadata.duration or 0) > self._limits.max_duration_sec:
            limit = self._limits.max_duration_sec
            raise self._refuse(f"it lasts {self.metadata.duration:,.1f} s or more, max_duration_sec is {limit:,}")

    def _find_fps(self, times: np.ndarray | None) -> float:
        """Frames per second: the header's, which may be a guess, unless the times of the frames contradict it."""
        fps, num_steps = self._header_fps, 0 if times is None else len(times) - 1
        span_sec = times[-1] if num_steps else 0.0
        # Where the timestamps bear it out, the header's is the one without rounding errors.
        return num_steps / float(span_sec) if span_sec and abs(fps * span_sec - num_steps) > 1.5 else fps

    def _cut(self, times: np.ndarray | None, duration: float) -> np.ndarray:
        """The times of the frames of the segment, which begin with it."""
        if times is None:
            raise self._error("a segment needs the times of the frames, which the file does not tell")
        try:
            part = self._source.segment.find(times, duration)
        except ValueError as error:
            raise self._error(str(error)) from error
        self._offset = part.start
        return times[part] - times[part.start]

    def _set_threads(self) -> None:
        """Let FFmpeg use all cores, but one in a `DataLoader` worker, and no frame threads where they are not safe."""
        self._stream.thread_type = "AUTO" if self._has_frame_threads else "SLICE"
        if get_worker_info() is not None:
            self._codec.thread_count = 1

    def _read_by_runs(self, numbers: list[int], min_skip: int) -> Iterator[tuple[int, np.ndarray]]:
        """Decode what the numbers need only, with seeks over `min_skip` frames or more."""
        for start, run in _plan_runs(numbers, self._key_frames, min_skip):
            yield from self._read_by_time(run, start)

    def _read_by_time(self, numbers: list[int], start: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Decode up to the last number, where timestamps tell which packet is which frame.

        Args:
            numbers: Distinct and ascending.
            start: Frame 0 or a key frame, to decode from there and only what the numbers need; without it everything
                is decoded from frame 0.
        """
        with self._reporting_errors():
            self._begin(start or 0)
            wanted = set(numbers)
            expected: list[int] = []  # a heap: the frames that the decoder has yet to show
            for packet in self._choose_packets(numbers, start, expected):
                for frame in self._codec.decode(packet):
                    # Some decoders show what refers to frames before the key frame.
                    if frame.pts is not None and frame.pts < self._times[start or 0]:
                        continue
                    number = heappop(expected) if expected else None
                    if number is None or frame.pts != self._times[number]:
                        raise self._error("a frame is missing")
                    self._check_frame(frame, number in wanted, is_first_after_seek=self._position == start != 0)
                    self._position = number + 1
                    if number in wanted:
                        wanted.remove(number)
                        yield number, self._to_array(frame)
            if wanted or expected:
                raise self._error("frames are missing")

    def _choose_packets(self, numbers: list[int], start: int | None, expected: list[int]) -> Iterator[Any]:
        """Yield what the decoder needs and then None, which empties it; add the frames it will show to `expected`."""
        unsent = set(numbers)
        nal_length_size = None if start is None else _read_nal_length_size(self._codec)
        for packet in self._packets_from(start or 0):
            number = bisect_left(self._times, packet.pts)
            if not packet.is_discard and number >= (start or 0):
                if number not in unsent and nal_length_size and _is_disposable(packet, nal_length_size):
                    continue
                unsent.discard(number)
                heappush(expected, number)
            yield packet
            # After what should be the last frame of all, the end has to follow.
            if numbers and not unsent and numbers[-1] < len(self._times) - 1:
                break
        yield None

    def _read_by_counting(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decode from the start to the last number, where only counting tells which frame it is."""
        with self._reporting_errors():
            self._begin(0)
            times, durations = [], []
            wanted = set(numbers)
            total = self._num_frames
            for packet in itertools.chain(self._packets_from(0), [None]):
                for frame in self._codec.decode(packet):
                    self._check_frame(frame, self._position in wanted)
                    times.append(frame.dts if frame.pts is None else frame.pts)
                    durations.append(frame.duration)
                    if self._position in wanted:
                        yield self._position, self._to_array(frame)
                    self._position += 1
                    # After what should be the last frame of all, the end has to follow.
                    if numbers and numbers[-1] < self._position < total:
                        return
            if self._position != total:
                if self._has_frame_threads or self._is_rewindable or self._num_certain is not None:
                    raise self._error("frames are missing")
                self._describe(self._position, _TimeLine.of_frames(times, durations))
                raise _FrameCountError(
                    f"{self.name}: {self._position} frames decoded, where there are {total} packets."
                )

    def _begin(self, start: int) -> None:
        """Forget what was decoded before."""
        self._position = start
        self._is_damaged = False
        self._first_frame = None

    def _packets_from(self, start: int) -> Iterator[Any]:
        """Yield the packets from frame 0 or a key frame to the end."""
        if start:
            self._container.seek(self._times[start], stream=self._stream)
            yield from itertools.dropwhile(lambda packet: packet.pts != self._times[start], self._demux())
            return
        packets, first = self._demux(), None
        if self._is_rewindable:
            # Where no key frame is marked, there is nothing to go to; and some things are given only once.
            with contextlib.suppress(self._av.FFmpegError):
                self._container.seek(self._first_packet[0], stream=self._stream)
                first = next(packets, None)
        if first is None or _identify(first) != self._first_packet:
            self._open_container()
            self._set_threads()
            packets = self._demux()
        else:
            yield first
        yield from packets

    def _demux(self) -> Iterator[Any]:
        """Yield packets from where the container stands, without empty ones: decoders take them for the end."""
        max_packets = self._layout.num_bytes
        for num_packets, packet in enumerate(self._container.demux(self._stream)):
            self._check_time()
            if num_packets > max_packets:  # an index may name the same bytes again and again
                raise self._refuse(f"it has more packets than bytes, which are {max_packets:,}")
            if packet.size:
                yield packet

    def _check_frame(self, frame: Any, is_wanted: bool, is_first_after_seek: bool = False) -> None:
        """Refuse a frame whose damage the decoder has concealed, and one that is nothing to start from."""
        self._num_pixels += frame.width * frame.height
        self._check_num_pixels(self._num_pixels)
        if self._position == 0:
            self._first_frame = frame
        is_key_frame = frame.key_frame and frame.pict_type == self._av.video.frame.PictureType.I
        # Some containers also mark frames that later ones cannot do with alone, such as the start of an intra refresh.
        if is_first_after_seek and not is_key_frame:
            raise self._error("a key frame cannot be decoded by itself")
        # What follows a key frame refers to nothing before it.
        self._is_damaged = frame.is_corrupt or (self._is_damaged and not is_key_frame)
        if self._is_damaged and is_wanted:
            raise self._error("a frame is damaged")

    def _to_array(self, frame: Any) -> np.ndarray:
        """Convert an `av.VideoFrame` to upright uint8 RGB of shape (height, width, 3)."""
        try:
            if self._converter.height is None:
                self._find_size(frame)
            picture = self._converter.convert(frame)
        except VideoDecodeError:
            raise
        except ValueError as error:
            raise self._refuse(str(error)) from error
        self.metadata.height, self.metadata.width = self._converter.height, self._converter.width
        return picture

    def _find_size(self, frame: Any) -> None:
        """All frames get the size of the first, which may not be the size of the first one wanted."""
        first, size = self._first_frame, (frame.width, frame.height)
        if first is not None and (first.width, first.height) != size:
            self._converter.convert(first)
        if first is None and size != self._opened_size:
            raise self._error("the size of the first frame is not known")
        self._first_frame = None

    def _check_time(self) -> None:
        if time.monotonic() > self._source.deadline:
            raise self._refuse(f"decoding takes longer than max_decode_sec={self._limits.max_decode_sec}")

    def _check_num_pixels(self, num_pixels: int) -> None:
        num_bytes = self._layout.num_bytes
        if num_pixels > max(_FREE_PIXELS, num_bytes * self._limits.max_pixels_per_byte):
            raise self._refuse(
                f"{num_pixels:,} pixels or more are to be decoded from {num_bytes:,} bytes, max_pixels_per_byte is "
                f"{self._limits.max_pixels_per_byte:,}"
            )

    def _watch(self, chunk: bytes) -> None:
        """Look at the clock and, while FFmpeg learns about the file, at what it has been given to read."""
        self._check_time()
        if self._opening_since is None:
            return
        self._num_tags += sum(map(chunk.count, _TAG_MARKS.get(self._layout.head[:4], ())))
        if self._num_tags > _MAX_TAGS:
            raise self._refuse(f"its metadata have more than {_MAX_TAGS:,} tags")
        if time.thread_time() - self._opening_since > _MAX_OPEN_SEC:
            raise self._refuse(f"to open it takes more than {_MAX_OPEN_SEC} s")

    @contextlib.contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        """Turn what FFmpeg, PyAV and the file raise into `VideoDecodeError`."""
        try:
            yield
        except VideoDecodeError:
            raise
        # Damage also shows as Python's own errors: an offset before the file's start, a stream that appears late.
        except (self._av.FFmpegError, OSError, ValueError, LookupError, MemoryError) as error:
            self._check_time()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if self._layout is not None and self._layout.is_animated_webp:
                reason = "animated WebP cannot be decoded"
            elif self._container is None and _REFERENCES.match(self._layout.head if self._layout else b""):
                reason = "it only refers to other files or addresses, and these are not opened"
            elif self._container is not None and self._codec is not None and self._codec.width == 0:
                reason += f" (a picture of more than max_pixels={self._limits.max_pixels:,} is refused)"
            raise self._error(reason) from error

    def _refuse(self, reason: str) -> VideoDecodeError:
        """An error that no other way of reading avoids."""
        self._is_refused = True
        return self._error(reason)

    def _error(self, reason: str) -> VideoDecodeError:
        """Name the source and how far decoding has come."""
        progress = ""
        if self._position is not None:
            progress = f"; {self._position} of {self._num_frames} frames decoded"
        return self._source.error(f"{reason}{progress}")


class _WatchedFile:
    """A file without a name, of which each read is seen."""

    def __init__(self, file: BinaryIO, watch: Callable[[bytes], None]):
        self._file = file
        self._watch = watch
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self._watch(chunk)
        return chunk


class _FilePart(io.RawIOBase):
    """The bytes of a file from `start` to `end`, as a file."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        self._file, self._start, self._size = file, start, end - start
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = (0, self._position, self._size)[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._position)
        chunk = self._file.read(max(0, min(len(buffer), self._size - self._position)))
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)


def _identify(packet: Any) -> tuple:
    """What tells a packet from the others: timestamps, place in the file, and what is given with it only once."""
    return packet.pts, packet.dts, packet.pos, [bytes(side_data) for side_data in packet.iter_sidedata()]


def _plan_runs(numbers: list[int], key_frames: list[int], min_frames_to_skip: int) -> list[tuple[int, list[int]]]:
    """Split ascending frame numbers into runs (frame to start decoding from, numbers)."""
    runs: list[tuple[int, list[int]]] = [(0, [])]
    position = 0
    for number in numbers:
        key_frame = key_frames[bisect_right(key_frames, number) - 1]
        if key_frame - position >= min_frames_to_skip:
            runs.append((key_frame, []))
        runs[-1][1].append(number)
        position = number + 1
    return [run for run in runs if run[1]]


def _read_nal_length_size(codec: Any) -> int | None:
    """In how many bytes each unit of a packet states its length, where the codec is H.264 and they do."""
    header = codec.extradata or b""
    is_avcc = codec.codec.canonical_name == "h264" and len(header) > 4 and header[0] == 1
    return (header[4] & 3) + 1 if is_avcc else None


def _is_disposable(packet: Any, nal_length_size: int) -> bool:
    """Tell whether an H.264 packet is whole and no frame refers to its own: `nal_ref_idc` is zero in all units."""
    data = memoryview(packet)
    start = 0
    while start + nal_length_size < len(data):
        length = int.from_bytes(data[start : start + nal_length_size], "big")
        header = data[start + nal_length_size]
        # The first bit is forbidden.
        if header & 0xE0 or length == 0:
            return False
        start += nal_length_size + length
    return start == len(data)


class _Layout:
    """
    What the structure of a file tells before FFmpeg reads it.

    Attributes:
        num_bytes: Of the file.
        num_samples, num_entries: How many samples the boxes of an mp4 claim, and how many entries FFmpeg's index of
            them would have.
        is_fragmented: Whether it is an mp4 in fragments, whose frames no table lists before they come.
        is_cut: Whether the end of the frames is missing, where FFmpeg takes such an end for a proper one.
        head: The first bytes.
        is_animated_webp: Which is a format that FFmpeg does not read.
        num_comments: Of an Ogg file, all streams together.
    """

    _BEFORE_FRAMES = (b"moof", b"mdat", b"styp", b"sidx", b"emsg", b"prft")
    _CLUSTER = b"\x1fC\xb6u"

    def __init__(self, file: BinaryIO, check_time: Callable[[], None]):
        self._file = file
        self._check_time = check_time
        self.num_bytes = file.seek(0, os.SEEK_END)
        self.num_samples = self.num_entries = self.num_comments = 0
        self.is_fragmented = self.is_cut = False
        self.head = head = self._read(0, 32)
        self.is_animated_webp = head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)
        if head[:4] == b"RIFF":
            size = int.from_bytes(head[4:8], "little")
            # Written to a pipe, it is not known; and a last byte that pads may be missing.
            self.is_cut = self.num_bytes + 1 < 8 + size < 2**31
        elif head[:4] == b"\x1aE\xdf\xa3":
            self.is_cut = self._ends_in_frames()
        elif head[:4] == b"OggS":
            self._count_comments(self._read(0, _MAX_OGG_HEADERS_BYTES))
        else:
            self._read_boxes()

    def _read(self, start: int, size: int) -> bytes:
        self._check_time()
        self._file.seek(start)
        return self._file.read(size)

    def _count_comments(self, data: bytes) -> None:
        for mark in re.finditer(rb"\x03vorbis|OpusTags|\x81theora|OVP80\x02 ", data):
            vendor = mark.end()
            number = vendor + 4 + int.from_bytes(data[vendor : vendor + 4], "little")
            self.num_comments += int.from_bytes(data[number : number + 4], "little")

    def _read_boxes(self) -> None:
        """Look at the boxes of an mp4, or of what may be one."""
        start, is_complete = 0, False
        while self.num_bytes - start >= 8:
            head = self._read(start, 16)
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if size == 1:  # for one of eight bytes behind the kind; 0 for all that is left
                size = int.from_bytes(head[8:], "big")
            size = size or self.num_bytes - start
            if size < 8:
                return
            if kind not in (b"mdat", b"free", b"skip", b"wide", b"uuid") and size < _MAX_HEADER_BYTES:
                self._count_samples(self._read(start, size))
            self.is_fragmented |= kind == b"moof"
            is_complete |= kind == b"mfra"
            start += size
            self.is_cut = start > self.num_bytes and kind in self._BEFORE_FRAMES
        tail = self._read(start, 8) if start < self.num_bytes else b""
        # What is behind the last box is the beginning of another one, or was never part of the video.
        if tail[:1] == b"\0" and (len(tail) < 4 or any(tail[:4])):
            self.is_cut = any(kind.startswith(tail[4:]) for kind in self._BEFORE_FRAMES)
        self.is_cut &= self.is_fragmented and not is_complete

    def _count_samples(self, data: bytes) -> None:
        self.is_fragmented |= b"mvex" in data
        for track in data.split(b"trak"):
            num_samples = sum(_find_numbers(track, b"stsz", 12) + _find_numbers(track, b"stz2", 12))
            num_samples += sum(_find_numbers(track, b"trun", 8))
            handlers = _find_numbers(track, b"hdlr", 12)
            is_sound = int.from_bytes(b"soun", "big") in handlers and int.from_bytes(b"vide", "big") not in handlers
            # Of sound of which each sample lasts one tick, FFmpeg's index has chunks, not samples.
            if is_sound and {*_find_numbers(track, b"stts", 8), *_find_numbers(track, b"stts", 16)} == {1}:
                continue
            self.num_samples += num_samples
            self.num_entries += num_samples * max(1, *_find_numbers(track, b"elst", 8), 1)

    def _ends_in_frames(self) -> bool:
        """Whether a Matroska file that is shorter than it says ends before the last of its clusters does."""
        _, end_of_header = self._read_element(0)
        kind, end_of_segment = self._read_element(end_of_header or 0)
        if kind != b"\x18S\x80g" or (end_of_segment or 0) <= self.num_bytes:
            return False
        start, has_clusters = self._body, False
        while start is not None and start < self.num_bytes:
            kind, start = self._read_element(start)
            has_clusters |= kind == self._CLUSTER
        return start is None or kind == self._CLUSTER or not has_clusters

    def _read_element(self, start: int) -> tuple[bytes, int | None]:
        """Identifier and end of an EBML element, `None` where that is not known."""
        head = self._read(start, 16)
        # The leading zeros of the first byte of identifier and size tell how many bytes they take.
        length = 9 - head[0].bit_length() if head else 9
        identifier, size = head[:length], head[length:]
        num_bytes = 9 - size[0].bit_length() if size else 9
        self._body = start + length + num_bytes
        unknown = 2 ** (7 * num_bytes) - 1
        value = int.from_bytes(size[:num_bytes], "big") & unknown
        is_known = num_bytes <= len(size) and value != unknown
        return identifier, self._body + value if is_known else None


def _find_numbers(data: bytes, kind: bytes, offset: int) -> list[int]:
    """The numbers of four bytes that are found so far behind each place where a kind of box is named."""
    numbers, place = [], data.find(kind)
    while place >= 0:
        numbers.append(int.from_bytes(data[place + offset : place + offset + 4], "big"))
        place = data.find(kind, place + 4)
    return numbers


@contextlib.contextmanager
def _open_video(
    source: VideoSource, choose_region: ChooseRegion | None = None, limits: DecodeLimits | None = None
) -> Iterator[_VideoReader]:
    with contextlib.ExitStack() as stack:
        opened = _Source(source, limits or DecodeLimits())
        opened.open(stack)
        video = _VideoReader(opened, choose_region)
        stack.callback(video.close)
        try:
            video.open()
            yield video
        except VideoDecodeError as error:
            # An error may be kept, and what its traceback holds with it: packets, and so the decoder.
            traceback.clear_frames(error.__traceback__)
            raise


class _Source:
    """
    Any source as one seekable binary file, so that FFmpeg reads all of them in the same way.

    Attributes:
        file: Open after `open`.
        segment: The part of it that is the video, or `None` for all.
        name: What errors call it, in characters that can be printed.
        deadline: Of the monotonic clock, for reading and decoding together.
    """

    def __init__(self, source: VideoSource, limits: DecodeLimits):
        self.limits = limits
        self.segment = source if isinstance(source, VideoSegment) else None
        source = source if self.segment is None else self.segment.source
        self.deadline = time.monotonic() + (limits.max_decode_sec or math.inf)
        self._source = source
        is_file = hasattr(source, "read")
        name = getattr(source, "name", None) if is_file else source
        if isinstance(name, (str, os.PathLike)):
            name = os.fsdecode(name).encode(errors="backslashreplace").decode()[:_MAX_NAME_LENGTH]
        elif is_file or isinstance(source, (bytes, bytearray, memoryview)):
            name = None
        else:
            raise ValueError(f"A video must be a path, a URL, bytes or a binary file, got {type(source).__name__}.")
        self.name = name or "<file>"

    def open(self, stack: contextlib.ExitStack) -> None:
        """Open the file, or copy what comes from elsewhere, until `stack` closes it."""
        try:
            self.file = self._open(stack)
            num_bytes = self.file.seek(0, os.SEEK_END)
        except VideoDecodeError:
            raise
        except (OSError, ValueError) as error:
            hint = "; of addresses, those of http and https are opened" if "://" in self.name else ""
            raise self.error(f"{getattr(error, 'strerror', None) or error}{hint}") from error
        if self.name == "<file>":
            self.name = f"<{num_bytes} bytes>"
        if num_bytes == 0:
            raise self.error("there is nothing in it")

    def error(self, reason: str) -> VideoDecodeError:
        return VideoDecodeError(f"{self.name}: {reason}.")

    def _open(self, stack: contextlib.ExitStack) -> BinaryIO:
        source = self._source
        if isinstance(source, (bytes, bytearray, memoryview)):
            return io.BytesIO(source)
        if isinstance(source, io.TextIOBase):
            raise ValueError("the file is open as text; open it with mode='rb'")
        if hasattr(source, "read"):
            is_seekable = getattr(source, "seekable", bool)()
            return source if is_seekable else self._receive(stack, lambda: _read_chunks(source))
        path = os.fsdecode(source)
        scheme, _, place = path.partition("://")
        if scheme.lower() in ("http", "https"):
            return self._download(stack, path)
        if scheme.lower() == "file":
            path = url2pathname(place.removeprefix("localhost"))
        elif path.startswith("~") and not os.path.lexists(path):
            path = os.path.expanduser(path)
        part = _PART_OF_FILE.fullmatch(path)
        if part:
            path, start, end = part[3], int(part[1]), int(part[2])
        elif stat.S_ISFIFO(os.stat(path).st_mode):
            return self._receive(stack, lambda: _read_chunks(open(path, "rb", buffering=0)))
        file = stack.enter_context(open(path, "rb"))  # noqa: SIM115 (the stack closes it)
        if not file.seekable():
            return self._receive(stack, lambda: _read_chunks(file))
        if not part:
            return file
        num_bytes = file.seek(0, os.SEEK_END)
        if not start < (end or num_bytes) <= num_bytes:
            raise ValueError(f"the file has {num_bytes:,} bytes, and no part from {start:,} to {end:,}")
        return _FilePart(file, start, end or num_bytes)

    def _download(self, stack: contextlib.ExitStack, url: str) -> BinaryIO:
        """Copy what is behind a URL. FFmpeg opens URLs too, but not every build of it speaks https."""
        from huggingface_hub.utils import httpx

        def read() -> Iterator[bytes]:
            with httpx.stream("GET", url, follow_redirects=True) as response:
                response.raise_for_status()
                if int(response.headers.get("content-length", 0)) > self.limits.max_file_bytes:
                    raise self.error(f"it has more bytes than max_file_bytes={self.limits.max_file_bytes:,}")
                yield from response.iter_bytes()

        deadline = time.monotonic() + self.limits.max_download_sec
        for is_last_try in (False, True):
            try:
                return self._receive(stack, read, deadline, math.inf)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                if is_last_try or (status or 500) < 500:
                    reason = (str(error) or type(error).__name__).splitlines()[0]
                    raise self.error(f"{reason}{' (twice)' if is_last_try else ''}") from error

    def _receive(
        self,
        stack: contextlib.ExitStack,
        make_chunks: Callable[[], Iterator[bytes]],
        download_deadline: float = math.inf,
        max_silence: float = _MAX_SILENCE_SEC,
    ) -> BinaryIO:
        """Copy bytes that come from elsewhere, in time or not at all: what waits for ever is left to a thread."""
        limit, deadline = min(
            ("max_decode_sec", self.deadline), ("max_download_sec", download_deadline), key=operator.itemgetter(1)
        )
        chunks = queue.Queue(maxsize=4)
        threading.Thread(target=_send_chunks, args=(make_chunks, chunks), daemon=True).start()
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self.error(f"it takes longer to arrive than {limit}={getattr(self.limits, limit)}")
            try:
                chunk = chunks.get(timeout=min(left, max_silence))
            except queue.Empty:
                if left > max_silence:
                    raise self.error(f"nothing comes for {max_silence} s") from None
                continue
            if isinstance(chunk, Exception):
                raise chunk
            if not chunk:
                return file
            file.write(chunk)
            if file.tell() > self.limits.max_file_bytes:
                raise self.error(f"it has more bytes than max_file_bytes={self.limits.max_file_bytes:,}")


def _send_chunks(make_chunks: Callable[[], Iterator[bytes]], chunks: queue.Queue) -> None:
    """Put chunks into a queue, then an empty one or an error, unless nobody takes them any more."""
    with contextlib.suppress(queue.Full):
        try:
            for chunk in itertools.chain(filter(None, make_chunks()), [b""]):
                chunks.put(chunk, timeout=_MAX_SILENCE_SEC)
        except queue.Full:
            raise
        except Exception as error:
            chunks.put(error, timeout=_MAX_SILENCE_SEC)


def _read_chunks(file: BinaryIO) -> Iterator[bytes]:
    read = getattr(file, "read1", file.read)
    while chunk := read(2**16):
        yield chunk


def _import_av() -> Any:
    """Import PyAV, which only the decoding of videos needs."""
    try:
        import av
    except ImportError as error:
        raise ImportError("Decoding a video needs PyAV: `pip install av`.") from error
    return av
