"""Video decoding: a container (file, URL or bytes) becomes RGB frames at given frame numbers, with PyAV alone.

This file owns one promise: the frames returned are the frames asked for, all of them, or there is an error. What a
header says about their number is not believed; the packets are counted first, without decoding them. If the decoder
then gives another number of frames, this is damage, and an error, or the format is one whose packets are not all
frames, and the caller is asked again with the true count. Frames are numbered from 0 in display order.

Where timestamps tell which packet is which frame, only what the wanted frames need is decoded: from the key frame
before them to the last of them, without the frames in between that no other frame refers to.
"""

import contextlib
import io
import itertools
import math
import operator
import os
import re
import tempfile
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, BinaryIO

import numpy as np
from torch.utils.data import get_worker_info
from transformers.video_utils import VideoMetadata

from .pixels_vtn import ChooseRegion, FrameConverter


VideoSource = str | os.PathLike | bytes | BinaryIO
# A part of a file, as FFmpeg writes it: tar files hold other files as they are.
_PART_OF_FILE = re.compile(r"subfile,,start,(\d+),end,(\d+),,:(.+)")
SampleIndices = Callable[[VideoMetadata], Sequence[int]]
ConvertFrame = Callable[[np.ndarray], np.ndarray]

# Containers that store a presentation timestamp with each packet, and codecs that show one frame per packet.
_TIMED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_ONE_FRAME_PER_PACKET = ("h264", "hevc", "vp9", "av1")
# Containers in which going back to the start is sure to bring the same packets again; others are opened again.
_REWINDABLE_FORMATS = (*_TIMED_FORMATS, "avi")

# The n-th packet may precede at most this many earlier ones in the order of display: more pictures no decoder keeps.
_MAX_REORDER = 16
# In containers made to be cut and joined (FFmpeg's AVFMT_TS_DISCONT), a longer step is no pause, as FFmpeg has it.
_MAX_TICKS = 2**52
_FORMAT_OF_JOINED_FILES = 0x200
_MAX_STEP_SEC = 10

# A seek empties the decoder's threads; decoding fewer frames than this, only to pass over them, is cheaper. One thread
# loses nothing but the seek itself.
_MIN_FRAMES_TO_SKIP = 16
_MIN_FRAMES_TO_SKIP_IN_WORKER = 2


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
        max_duration_sec: Seconds that the whole video lasts; the default is a day.
        max_bytes: Bytes of all frames returned together; the default is 8 GiB.
        max_decode_sec: Seconds that reading and decoding may take; by default without limit. What hangs inside FFmpeg
            ends with its process only.
    """

    max_pixels: int = 2**26
    max_duration_sec: float = 24 * 60 * 60
    max_bytes: int = 2**33
    max_decode_sec: float | None = None


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
        source: Path, http(s) URL, part of a file as FFmpeg writes it ("subfile,,start,512,end,9000,,:videos.tar"), the
            bytes of a video file, or a binary file object, which is read from its start and left open.
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
        in the order asked for and turned and mirrored as the container says; and the metadata, with `fps` in frames
        per second, `duration` in seconds, `frame_times` of all frames, `height` and `width` of the video, and the
        frame numbers as `frames_indices`.

    Raises:
        VideoDecodeError: If the source cannot be read, is no video, is damaged where it is needed for the frames
            asked for, or costs more than the limits.
        ValueError: If a frame number lies outside the video, or none is asked for.
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


class _Timestamps:
    """Timestamps of the frames that are shown: of their packets, in the order of decoding, or of decoded frames."""

    def __init__(self):
        self.pts = array("q")  # in the time base of the stream
        self.dts = array("q")
        self.durations = array("q")
        self.are_keys = array("b")
        self.has_pts = self.has_dts = True

    def append(self, pts: int | None, dts: int | None, duration: int | None, is_key: bool = False) -> None:
        self.has_pts &= pts is not None
        self.has_dts &= dts is not None
        self.pts.append(pts or 0)
        self.dts.append(dts or 0)
        self.durations.append(duration or 0)
        self.are_keys.append(is_key)

    def line_up(self, orders_by_dts: bool, max_step: float) -> tuple[np.ndarray | None, bool]:
        """
        Make one time line: where timestamps start again or jump, the next part begins where the last one ends.

        Args:
            orders_by_dts: Whether decoding timestamps are as stored, so that they tell a new start by going back.
            max_step: Ticks between two frames of which more is a jump.

        Returns:
            Ticks from the first frame to each, in order of display, or `None`; whether there is more than one part.
        """
        times = np.asarray(self.pts if self.has_pts else self.dts)
        # Also those that only damage can make so long are none.
        if not (self.has_pts or self.has_dts) or int(times.max()) - int(times.min()) > _MAX_TICKS:
            return None, False
        durations = np.asarray(self.durations)
        starts = [0, *self._find_starts(times, orders_by_dts, max_step), len(times)]
        line, end = np.empty_like(times), 0
        for start, stop in itertools.pairwise(starts):
            order = start + np.argsort(times[start:stop], kind="stable")
            line[start:stop] = times[order] - times[order[0]] + end
            mean_step = (line[stop - 1] - line[start]) // max(1, stop - start - 1)
            end = line[stop - 1] + (durations[order[-1]] or mean_step)
        return line, len(starts) > 2

    def _find_starts(self, times: np.ndarray, orders_by_dts: bool, max_step: float) -> list[int]:
        """Tell which frames begin a new part; the first one is not listed."""
        if orders_by_dts and self.has_dts:
            steps = np.diff(np.asarray(self.dts))
            # A slide show has long steps, too, but more than one.
            jumps = (steps > max_step) & (steps > 10 * np.r_[0, steps[:-1]])
            return (np.flatnonzero((steps < 0) | jumps) + 1).tolist()
        # All that is decoded before a key frame is shown before it.
        starts = [0]
        latest = np.maximum.accumulate(times)
        goes_back = np.r_[False, times[1:] < latest[:-1]]
        for number in np.flatnonzero(goes_back & np.asarray(self.are_keys, bool)).tolist():
            part = times[starts[-1] : number]
            if len(part) and times[number] <= part[-_MAX_REORDER - 1 :].min() and times[number] < part.max():
                starts.append(number)
        return starts[1:]


class _Packets:
    """What is kept of the packets when they are counted: a few bytes of each, for there may be millions."""

    def __init__(self):
        self.times = array("q")  # presentation timestamps, in the time base of the stream
        self.shown = _Timestamps()
        self.are_timed = True
        self.num_whole = 0
        self.first: tuple | None = None
        self.starts_with_key_frame = False

    def append(self, packet: Any) -> None:
        if self.first is None:
            self.first = _identify(packet)
            self.starts_with_key_frame = packet.is_keyframe
        pts = packet.pts
        if pts is None:
            self.are_timed = False
        self.times.append(pts or 0)
        self.num_whole += not packet.is_corrupt
        if not packet.is_discard:
            self.shown.append(pts, packet.dts, packet.duration, packet.is_keyframe)


class _VideoReader:
    """Reads the frames of one video by their numbers.

    Args:
        file: Seekable binary file that holds the container.
        name: The source's name in error messages.
        choose_region, limits: As in `decode_video`.

    Attributes:
        metadata: `VideoMetadata`; the first frame that is read sets `width` and `height`.
    """

    def __init__(self, file: BinaryIO, name: str, choose_region: ChooseRegion | None, limits: DecodeLimits):
        self._av = _import_av()
        self._converter = FrameConverter(self._av, choose_region)
        self._limits = limits
        self._deadline = time.monotonic() + (limits.max_decode_sec or float("inf"))
        self._file = file
        self._container: Any = None
        self._codec: Any = None
        self.name = name
        self._position: int | None = None  # number of the next frame, once decoding has begun

    def open(self) -> None:
        """Open the container and count its packets."""
        with self._reporting_errors():
            self._open_container()
            packets = self._count_packets()
            self._set_num_frames(len(packets.shown.pts), packets.shown)
            self._check_complete(packets)
            self._set_threads()

    def close(self) -> None:
        """Close the container, but not the file."""
        if self._container is not None:
            self._container.close()

    def choose(self, sample_indices: SampleIndices | None) -> list[int]:
        """Ask for frame numbers and check them against the number of frames."""
        total = self.metadata.total_num_frames
        indices = range(total) if sample_indices is None else sample_indices(self.metadata)
        indices = [operator.index(number) for number in indices]
        if not indices:
            raise ValueError(f"{self.name}: no frame was asked for.")
        for number in indices:
            if not 0 <= number < total:
                raise ValueError(f"{self.name}: frame {number} was asked for, but the video has {total} frames.")
        self.metadata.frames_indices = indices
        return indices

    def read(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, frame) for distinct, ascending frame numbers; a frame is an array (height, width, 3)."""
        num_read = 0
        # What goes wrong with frames left out, or with frame threads, says nothing about the file; only decoding all
        # frames one by one can judge it.
        with contextlib.suppress(VideoDecodeError):
            if self._times or self._has_frame_threads:
                for item in self._read_fast(numbers):
                    num_read += 1
                    yield item
                return
        if self._times:
            yield from self._read_by_time(numbers[num_read:])
            return
        if self._has_frame_threads:
            self._has_frame_threads = False
            with self._reporting_errors():
                self._open_container()
                self._set_threads()
        yield from self._read_by_counting(numbers, num_read)

    def _read_fast(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        if not self._times:
            yield from self._read_by_counting(numbers)
            return
        min_frames_to_skip = _MIN_FRAMES_TO_SKIP if get_worker_info() is None else _MIN_FRAMES_TO_SKIP_IN_WORKER
        for start, run in _plan_runs(numbers, self._key_frames, min_frames_to_skip):
            yield from self._read_by_time(run, start)

    def check_size(self, num_bytes: int) -> None:
        """Refuse to return more than the limit, before the memory is taken."""
        if num_bytes > self._limits.max_bytes:
            raise self._error(
                f"the frames asked for take {num_bytes:,} bytes, max_bytes is {self._limits.max_bytes:,}; ask for "
                "fewer, or iterate over them"
            )

    def _open_container(self) -> None:
        """Open the container, or open it again, with its best video stream, as FFmpeg chooses it."""
        self.close()
        # Now, as FFmpeg relies on the file's place from here on.
        self._is_short = _is_short(self._file)
        self._file.seek(0)
        file = self._file if self._limits.max_decode_sec is None else _TimedFile(self._file, self._check_time)
        # The limit holds for the frame that FFmpeg decodes to learn about the stream, too.
        options = {"max_pixels": str(self._limits.max_pixels)}
        # Text that is not UTF-8 in the container's metadata is no reason to fail.
        self._container = self._av.open(file, metadata_errors="replace", options=options)
        self._stream = self._container.streams.best("video")
        if self._stream is None or self._stream.codec_context is None:
            raise self._error("there is no video stream that can be decoded")
        self._codec = self._stream.codec_context
        self._codec.options = options
        if self._codec.height * self._codec.width > self._limits.max_pixels:
            raise self._error(
                f"a frame of {self._codec.width}x{self._codec.height} has more than "
                f"max_pixels={self._limits.max_pixels:,}"
            )

    def _count_packets(self) -> _Packets:
        """Read all packets without decoding them, to learn which frames there are."""
        packets = _Packets()
        for packet in self._demux():
            packets.append(packet)
        times = array("q", sorted(packets.shown.pts)) if packets.are_timed else array("q")
        self._has_unique_times = packets.are_timed and len(set(times)) == len(times)
        self._header_fps = float(self._stream.guessed_rate or self._stream.average_rate or 0)
        self._first_packet = packets.first
        # Presentation timestamp of each frame, where it is certain, and the frames where decoding may start.
        self._times = times if _is_timed(self._stream, packets) else array("q")
        self._key_frames = [0]
        # Damaged hevc can make FFmpeg's frame threads wait for each other for ever. And PyAV drops errors met while it
        # empties frame threads: the number of frames has to tell a loss from a proper end.
        codec = self._codec.codec.canonical_name
        self._has_frame_threads = codec in _ONE_FRAME_PER_PACKET and codec != "hevc"
        if self._times:
            key_times = itertools.compress(packets.shown.pts, packets.shown.are_keys)
            self._key_frames += sorted(filter(None, (bisect_left(times, key_time) for key_time in key_times)))
        return packets

    def _set_threads(self) -> None:
        """Let FFmpeg use all cores, but one in a `DataLoader` worker, and no frame threads where they are not safe."""
        self._stream.thread_type = "AUTO" if self._has_frame_threads else "SLICE"
        if get_worker_info() is not None:
            self._codec.thread_count = 1

    def _read_by_time(self, numbers: list[int], start: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Decode up to the last number, where timestamps tell which packet is which frame.

        Args:
            numbers: Distinct and ascending.
            start: Frame 0 or a key frame, to decode from there and only what the numbers need; without it everything
                is decoded from frame 0.
        """
        with self._reporting_errors():
            self._position = start or 0
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
                    self._check_frame(frame, is_first_after_seek=self._position == start != 0)
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
            if not unsent and numbers[-1] < len(self._times) - 1:
                break
        yield None

    def _read_by_counting(self, numbers: list[int], num_read: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Decode from the start to the last number, where only counting tells which frame it is; the first `num_read`
        have been read already."""
        with self._reporting_errors():
            self._position = 0
            decoded = _Timestamps()
            wanted = set(numbers[num_read:])
            total = self.metadata.total_num_frames
            for packet in itertools.chain(self._packets_from(0), [None]):
                for frame in self._codec.decode(packet):
                    self._check_frame(frame)
                    frame_time = frame.dts if frame.pts is None else frame.pts
                    decoded.append(frame_time, frame_time, frame.duration)
                    if self._position in wanted:
                        yield self._position, self._to_array(frame)
                    self._position += 1
                    # After what should be the last frame of all, the end has to follow.
                    if numbers[-1] < self._position < total:
                        return
            if self._position != total:
                if self._has_frame_threads:
                    raise self._error("frames are missing")
                self._set_num_frames(self._position, decoded)
                raise _FrameCountError(
                    f"{self.name}: {self._position} frames decoded, where there are {total} packets."
                )

    def _packets_from(self, start: int) -> Iterator[Any]:
        """Yield the packets from frame 0 or a key frame to the end."""
        if start:
            self._container.seek(self._times[start], stream=self._stream)
            yield from itertools.dropwhile(lambda packet: packet.pts != self._times[start], self._demux())
            return
        packets = iter(())
        if self._has_unique_times and self._container.format.name in _REWINDABLE_FORMATS:
            self._container.seek(self._first_packet[0], stream=self._stream)
            packets = self._demux()
        first = next(packets, None)
        if first is None or _identify(first) != self._first_packet:
            self._open_container()
            self._set_threads()
            yield from self._demux()
        else:
            yield first
            yield from packets

    def _demux(self) -> Iterator[Any]:
        """Yield packets from where the container stands, without empty ones: decoders take them for the end."""
        for packet in self._container.demux(self._stream):
            self._check_time()
            if packet.size:
                yield packet

    def _check_frame(self, frame: Any, is_first_after_seek: bool = False) -> None:
        """Refuse a frame whose damage the decoder has concealed, and one that is nothing to start from."""
        if frame.is_corrupt:
            raise self._error("a frame is damaged")
        # Some containers also mark frames that later ones cannot do with alone, such as the start of an intra refresh.
        if is_first_after_seek and not (frame.key_frame and frame.pict_type == self._av.video.frame.PictureType.I):
            raise self._error("a key frame cannot be decoded by itself")

    def _to_array(self, frame: Any) -> np.ndarray:
        """Convert an `av.VideoFrame` to upright uint8 RGB of shape (height, width, 3)."""
        try:
            picture = self._converter.convert(frame)
        except ValueError as error:
            raise self._error(str(error)) from error
        self.metadata.height, self.metadata.width = self._converter.height, self._converter.width
        return picture

    def _set_num_frames(self, total: int, shown: _Timestamps) -> None:
        """Describe the video as one of `total` frames with these timestamps."""
        if total == 0:
            raise self._error("the video stream has no frame that can be decoded")
        container_format = self._container.format
        # Matroska has none; FFmpeg makes them up, and not always in order.
        orders_by_dts = container_format.name != "matroska,webm"
        time_base = self._stream.time_base
        max_step = _MAX_STEP_SEC / time_base if container_format.flags & _FORMAT_OF_JOINED_FILES else math.inf
        ticks, is_joined = shown.line_up(orders_by_dts, float(max_step))
        times = None if ticks is None else ticks * time_base.numerator / time_base.denominator
        span_sec = 0.0 if times is None else float(times[-1])
        fps = self._header_fps
        # The header's rate may be a guess. Where the timestamps bear it out, it is the one without rounding errors.
        if total > 1 and span_sec and abs(fps * span_sec - (total - 1)) > 1.5:
            fps = (total - 1) / span_sec
        if times is None and fps:
            times = np.arange(total) / fps
        self.metadata = TimedVideoMetadata(
            total_num_frames=total,
            fps=fps or None,
            duration=total / fps if fps else None,
            video_backend="pyav",
            frame_times=times,
            is_joined=is_joined,
        )
        if (self.metadata.duration or 0) > self._limits.max_duration_sec:
            self._refuse_duration(self.metadata.duration)

    def _refuse_duration(self, duration_sec: float) -> None:
        limit = self._limits.max_duration_sec
        raise self._error(f"it lasts {float(duration_sec):,.1f} s or more, max_duration_sec is {limit:,}")

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise self._error(f"decoding takes longer than max_decode_sec={self._limits.max_decode_sec}")

    def _check_complete(self, packets: _Packets) -> None:
        """Refuse a file that was cut short, as far as its container can tell."""
        num_listed = len(self._stream.index_entries)
        promised = max(self._stream.frames, num_listed)
        num_whole = packets.num_whole
        # The header may count frames that the encoder left out, so that alone is no proof.
        is_cut = self._is_short and num_whole < (self._stream.frames or num_whole + 1)
        if num_whole < max(len(packets.times), num_listed) or is_cut:
            left = f"{num_whole} of {promised}" if promised > num_whole else f"only {num_whole}"
            raise self._error(f"the file is damaged or cut short; {left} frames are left")

    @contextlib.contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        """Turn what FFmpeg, PyAV and the file raise into `VideoDecodeError`."""
        try:
            yield
        except VideoDecodeError:
            raise
        # Damage also shows as Python's own errors: an offset before the file's start, a stream that appears late.
        except (self._av.FFmpegError, OSError, ValueError, LookupError) as error:
            self._check_time()
            reason = getattr(error, "strerror", None) or str(error)
            if self._container is not None and self._codec is not None and self._codec.width == 0:
                reason += f" (a picture of more than max_pixels={self._limits.max_pixels:,} is refused)"
            raise self._error(reason) from error

    def _error(self, reason: str) -> VideoDecodeError:
        """Name the source and how far decoding has come."""
        progress = ""
        if self._position is not None:
            progress = f"; {self._position} of {self.metadata.total_num_frames} frames decoded"
        return VideoDecodeError(f"{self.name}: {reason}{progress}.")


class _TimedFile:
    """A file that a clock is looked at before each read, so that FFmpeg stops searching it when time is over."""

    def __init__(self, file: BinaryIO, check_time: Callable[[], None]):
        self._file = file
        self._check_time = check_time
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self._check_time()
        return self._file.read(size)


def _identify(packet: Any) -> tuple[int | None, int | None, int | None]:
    """What tells a packet from the others: presentation and decoding timestamps, place in the file."""
    return packet.pts, packet.dts, packet.pos


def _is_timed(stream: Any, packets: _Packets) -> bool:
    """Tell whether the n-th presentation timestamp is sure to be that of the n-th frame, so that seeking is exact."""
    times = np.asarray(packets.times)
    return (
        stream.container.format.name in _TIMED_FORMATS
        and stream.codec_context.codec.canonical_name in _ONE_FRAME_PER_PACKET
        and packets.are_timed
        and len(packets.shown.pts) > 0
        and len(np.unique(times)) == len(times)
        # What precedes the first key frame cannot be decoded.
        and packets.starts_with_key_frame
        and times[0] == times.min()
        # Some writers store the order of decoding as the order of presentation.
        and bool((np.diff(times) < 0).any() or not stream.codec_context.has_b_frames)
    )


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


def _is_short(file: BinaryIO) -> bool:
    """Tell whether a file is shorter than its parts declare, where FFmpeg takes such an end for a proper one."""
    num_bytes_there = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(4096)
    if head[:4] == b"\x1aE\xdf\xa3":
        return _is_short_matroska(head, num_bytes_there)
    if head[:4] == b"RIFF":
        return num_bytes_there < 8 + int.from_bytes(head[4:8], "little")
    return head[4:8] == b"ftyp" and _is_short_fragmented_mp4(file, num_bytes_there)


def _is_short_matroska(head: bytes, num_bytes_there: int) -> bool:
    end = 0
    # The file is two elements: identifier, size, body. The leading zeros of a size tell how many bytes it takes.
    for identifier in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):
        start = end + len(identifier)
        if head[end:start] != identifier:
            return False
        num_bytes = 9 - head[start].bit_length()
        unknown = 2 ** (7 * num_bytes) - 1
        size = int.from_bytes(head[start : start + num_bytes], "big") & unknown
        end = start + num_bytes + size
    return size != unknown and num_bytes_there < end


def _is_short_fragmented_mp4(file: BinaryIO, num_bytes_there: int) -> bool:
    """Whether the last fragment, whose frames no table lists before it, is cut."""
    start, is_fragmented = 0, False
    while num_bytes_there - start >= 8:
        file.seek(start)
        header = file.read(16)
        # A size of 1 stands for one of eight bytes behind the type, and 0 for all that is left.
        size = int.from_bytes(header[:4], "big")
        size = int.from_bytes(header[8:], "big") if size == 1 else size
        is_fragmented |= header[4:8] == b"moof"
        if size < 8 or start + size > num_bytes_there:
            return is_fragmented and size != 0 and header[4:8] in (b"moof", b"mdat")
        start += size
    return is_fragmented and start < num_bytes_there


@contextlib.contextmanager
def _open_video(
    source: VideoSource, choose_region: ChooseRegion | None = None, limits: DecodeLimits | None = None
) -> Iterator[_VideoReader]:
    """Open any source as one seekable binary file, so that FFmpeg reads all of them in the same way."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            file, name = io.BytesIO(source), None
        elif hasattr(source, "read"):
            file, name = source, getattr(source, "name", None)
        elif str(source).startswith(("http://", "https://")):
            file, name = stack.enter_context(tempfile.TemporaryFile()), str(source)
            _download(name, file)
        else:
            name = os.fspath(source)
            part = _PART_OF_FILE.fullmatch(name)
            try:
                file = stack.enter_context(open(part[3] if part else name, "rb"))
                if part:
                    start, end = int(part[1]), int(part[2])
                    file.seek(start)
                    file = io.BytesIO(file.read(end - start))
            except OSError as error:
                raise VideoDecodeError(f"{name}: {error.strerror}.") from error
        if not file.seekable():
            file = io.BytesIO(file.read())
        num_bytes = file.seek(0, os.SEEK_END)
        name = name if isinstance(name, str) else f"<{num_bytes} bytes>"
        if num_bytes == 0:
            raise VideoDecodeError(f"{name}: there is nothing in it.")
        video = _VideoReader(file, name, choose_region, limits or DecodeLimits())
        stack.callback(video.close)
        video.open()
        yield video


def _download(url: str, file: BinaryIO) -> None:
    """Copy what is behind a URL into a file. FFmpeg opens URLs too, but not every build of it speaks https."""
    from huggingface_hub.utils import httpx

    try:
        with httpx.stream("GET", url, follow_redirects=True) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                file.write(chunk)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise VideoDecodeError(f"{url}: {error}") from error


def _import_av() -> Any:
    """Import PyAV, which only the decoding of videos needs."""
    try:
        import av
    except ImportError as error:
        raise ImportError("Decoding a video needs PyAV: `pip install av`.") from error
    return av
