"""Video decoding: a container (file, URL or bytes) becomes RGB frames at given frame numbers, with PyAV alone.

This file owns one promise: the frames returned are the frames asked for, all of them, or there is an error. What a
header says about their number is not believed; the packets are counted first, without decoding them. If the decoder
then gives another number of frames, this is damage, and an error, or the format is one whose packets are not all
frames, and the caller is asked again with the true count. Frames are numbered from 0 in display order.
"""

import contextlib
import io
import operator
import os
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import dropwhile
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch.utils.data import get_worker_info
from transformers.video_utils import VideoMetadata


VideoSource = str | os.PathLike | bytes | BinaryIO
SampleIndices = Callable[[VideoMetadata], Sequence[int]]

# Containers that store a presentation timestamp with each packet, and codecs that show one frame per packet.
_TIMED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_ONE_FRAME_PER_PACKET = ("h264", "hevc", "vp9", "av1")

# A seek empties the decoder's threads; decoding fewer frames than this, only to pass over them, is cheaper. One thread
# loses nothing but the seek itself.
_MIN_FRAMES_TO_SKIP = 16
_MIN_FRAMES_TO_SKIP_IN_WORKER = 2


class VideoDecodeError(ValueError):
    """A video that cannot be decoded. The message names the source and the reason."""


class _FrameCountError(VideoDecodeError):
    """Decoding ended without an error, but gave another number of frames than there are packets."""


def decode_video(source: VideoSource, sample_indices: SampleIndices | None = None) -> tuple[np.ndarray, VideoMetadata]:
    """Decode the frames of a video that `sample_indices` chooses.

    Args:
        source: Path, http(s) URL, the bytes of a video file, or a binary file object, which is read from its start
            and left open.
        sample_indices: Called with the metadata (still without `width` and `height`, which only a decoded frame
            tells); returns frame numbers, in any order and with repetitions. It is called again if the number of
            frames turns out to be another one. `None` takes all frames.

    Returns:
        The frames as uint8 RGB of shape (number of indices, height, width, 3), in the order asked for and with the
        display rotation of the container applied; and the metadata, with `fps` in frames per second, `duration` in
        seconds, and the frame numbers as `frames_indices`.

    Raises:
        VideoDecodeError: If the source cannot be read, is no video, or is damaged before the last frame asked for.
        ValueError: If a frame number lies outside the video, or none is asked for.
        ImportError: If PyAV is not installed.
    """
    with _open_video(source) as video:
        try:
            return _gather(video, sample_indices)
        except _FrameCountError:  # by now the video knows its true number of frames
            return _gather(video, sample_indices)


def iter_video_frames(source: VideoSource, sample_indices: SampleIndices | None = None) -> Iterator[np.ndarray]:
    """Decode a video one frame at a time, in memory that does not grow with its length.

    Arguments and errors are those of `decode_video`, but the frame numbers must be ascending (repetitions are
    allowed), and frames already given out cannot be taken back: if the number of frames turns out to be another one
    and `sample_indices` would then have chosen other frames, this raises `VideoDecodeError`.

    Yields:
        Frames as uint8 RGB of shape (height, width, 3).
    """
    with _open_video(source) as video:
        indices = video.choose(sample_indices)
        if indices != sorted(indices):
            raise ValueError(f"{video.name}: frame numbers must be ascending to be iterated over, got {indices}.")
        repeats = Counter(indices)
        given: list[int] = []
        try:
            for number, frame in video.read(list(repeats)):
                for _ in range(repeats[number]):
                    given.append(number)
                    yield np.ascontiguousarray(frame)
        except _FrameCountError:
            if given != video.choose(sample_indices):
                raise


def _gather(video: "_VideoReader", sample_indices: SampleIndices | None) -> tuple[np.ndarray, VideoMetadata]:
    """Read the chosen frames into one array, decoding each of them once."""
    indices = video.choose(sample_indices)
    numbers, places = np.unique(indices, return_inverse=True)
    frames = None
    for row, (_, frame) in enumerate(video.read(numbers.tolist())):
        if frames is None:
            frames = np.empty((len(numbers), *frame.shape), dtype=np.uint8)
        frames[row] = frame
    return (frames if np.array_equal(numbers, indices) else frames[places]), video.metadata


class _Packet(NamedTuple):
    """What is kept of a packet when the packets are counted; `pts` counts in the stream's time base."""

    pts: int | None
    is_keyframe: bool
    is_discard: bool
    is_corrupt: bool


class _VideoReader:
    """Reads the frames of one video by their numbers.

    Args:
        file: Seekable binary file that holds the container.
        name: The source's name in error messages.

    Attributes:
        metadata: `VideoMetadata`; the first frame that is read sets `width` and `height`.
    """

    def __init__(self, file: BinaryIO, name: str):
        self._av = _import_av()
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._file = file
        self.name = name
        self._position: int | None = None  # number of the next frame, once decoding has begun
        with self._open_stream() as (container, stream):
            packets = [
                _Packet(packet.pts, packet.is_keyframe, packet.is_discard, packet.is_corrupt)
                for packet in container.demux(stream)
                if packet.size
            ]
            shown = [packet for packet in packets if not packet.is_discard]
            times = sorted(packet.pts for packet in shown) if all(packet.pts is not None for packet in shown) else []
            self._span_sec = float((times[-1] - times[0]) * stream.time_base) if times else 0.0
            self._header_fps = float(stream.guessed_rate or stream.average_rate or 0)
            self._set_num_frames(len(shown))
            self._check_complete(stream, packets)
            # Presentation timestamp of each frame, where it is certain, and the frames where decoding may start.
            self._times = times if _is_timed(stream, packets) else []
            key_times = {packet.pts for packet in shown if packet.is_keyframe}
            self._key_frames = [0, *(i for i, time in enumerate(self._times) if i and time in key_times)]

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
        """Yield (number, frame) for distinct, ascending frame numbers; a frame is a view (height, width, 3)."""
        min_frames_to_skip = _MIN_FRAMES_TO_SKIP if get_worker_info() is None else _MIN_FRAMES_TO_SKIP_IN_WORKER
        runs = _plan_runs(numbers, self._key_frames, min_frames_to_skip)
        num_read = 0
        if runs != [(0, numbers)]:
            # A seek that goes wrong says nothing about the file; only decoding from the start can judge it.
            with contextlib.suppress(VideoDecodeError):
                for item in self._read_runs(runs):
                    num_read += 1
                    yield item
                return
        yield from self._read_runs([(0, numbers[num_read:])])

    def _read_runs(self, runs: list[tuple[int, list[int]]]) -> Iterator[tuple[int, np.ndarray]]:
        """Decode each run of frame numbers from its key frame to its last number."""
        with self._open_stream() as (container, stream):
            self._set_threads(stream)
            for start, numbers in runs:
                wanted = set(numbers)
                for number, frame in self._decode_from(container, stream, start):
                    if number in wanted:
                        yield number, self._to_array(frame)
                    # After what should be the last frame of all, the end has to follow.
                    if number == numbers[-1] and number < self.metadata.total_num_frames - 1:
                        break

    def _set_threads(self, stream: Any) -> None:
        """Let FFmpeg use all cores, but one in a `DataLoader` worker, and no frame threads where they are not safe."""
        # Damaged hevc can make FFmpeg's frame threads wait for each other for ever. And PyAV drops errors met while it
        # empties frame threads, so that only the timestamps tell a loss from a proper end.
        is_safe = self._times and stream.codec_context.codec.canonical_name != "hevc"
        stream.thread_type = "AUTO" if is_safe else "SLICE"
        if get_worker_info() is not None:
            stream.codec_context.thread_count = 1

    def _decode_from(self, container: Any, stream: Any, start: int) -> Iterator[tuple[int, Any]]:
        """Yield (number, `av.VideoFrame`) from frame 0 or a key frame to the end of the video."""
        self._position = start
        packets = container.demux(stream)
        if start:
            container.seek(self._times[start], stream=stream)
            packets = dropwhile(lambda packet: packet.pts != self._times[start], packets)
        for packet in packets:
            for frame in packet.decode():
                self._check_frame(frame, is_first_after_seek=self._position == start > 0)
                yield self._position, frame
                self._position += 1
        total = self.metadata.total_num_frames
        if self._position == total:
            return
        if self._times:
            raise self._error("frames are missing")
        self._set_num_frames(self._position)
        raise _FrameCountError(f"{self.name}: {self._position} frames decoded, where there are {total} packets.")

    def _check_frame(self, frame: Any, is_first_after_seek: bool) -> None:
        """Refuse a frame whose damage the decoder has concealed, and one that is not the frame at this position."""
        if frame.is_corrupt:
            raise self._error("a frame is damaged")
        if self._times and self._times[self._position : self._position + 1] != [frame.pts]:
            raise self._error("a frame is missing")
        # Some containers also mark frames that later ones cannot do with alone, such as the start of an intra refresh.
        if is_first_after_seek and not (frame.key_frame and frame.pict_type == self._av.video.frame.PictureType.I):
            raise self._error("a key frame cannot be decoded by itself")

    def _to_array(self, frame: Any) -> np.ndarray:
        """Convert an `av.VideoFrame` to upright uint8 RGB of shape (height, width, 3), the same for all frames."""
        # One converter for all frames, with one thread: setting these up costs more than converting a frame.
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        array = np.rot90(rgb.to_ndarray(), round(frame.rotation / 90))
        height, width, _ = array.shape
        first_height, first_width = self.metadata.height or height, self.metadata.width or width
        if (height, width) != (first_height, first_width):
            raise self._error(f"the resolution changes from {first_width}x{first_height} to {width}x{height}")
        self.metadata.height, self.metadata.width = height, width
        return array

    def _set_num_frames(self, total: int) -> None:
        """Describe the video as one of `total` frames."""
        if total == 0:
            raise self._error("the video stream has no frame that can be decoded")
        fps = self._header_fps
        # The header's rate may be a guess. Where the timestamps bear it out, it is the one without rounding errors.
        if total > 1 and self._span_sec and abs(fps * self._span_sec - (total - 1)) > 1.5:
            fps = (total - 1) / self._span_sec
        self.metadata = VideoMetadata(
            total_num_frames=total, fps=fps or None, duration=total / fps if fps else None, video_backend="pyav"
        )

    def _check_complete(self, stream: Any, packets: list[_Packet]) -> None:
        """Refuse a file that was cut short, as far as its container can tell."""
        num_whole = sum(not packet.is_corrupt for packet in packets)
        num_listed = len(stream.index_entries)
        if num_whole < max(len(packets), num_listed) or _is_short_matroska(self._file):
            promised = max(stream.frames, num_listed)
            left = f"{num_whole} of {promised}" if promised > num_whole else f"only {num_whole}"
            raise self._error(f"the file is damaged or cut short; {left} frames are left")

    @contextlib.contextmanager
    def _open_stream(self) -> Iterator[tuple[Any, Any]]:
        """Open the container with its best video stream, as FFmpeg chooses it."""
        self._file.seek(0)
        try:
            # Text that is not UTF-8 in the container's metadata is no reason to fail.
            with self._av.open(self._file, metadata_errors="replace") as container:
                stream = container.streams.best("video")
                if stream is None or stream.codec_context is None:
                    raise self._error("there is no video stream that can be decoded")
                yield container, stream
        except VideoDecodeError:
            raise
        # Damage also shows as Python's own errors: an offset before the file's start, a stream that appears late.
        except (self._av.FFmpegError, OSError, ValueError, LookupError) as error:
            raise self._error(getattr(error, "strerror", None) or str(error)) from error

    def _error(self, reason: str) -> VideoDecodeError:
        """Name the source and how far decoding has come."""
        progress = ""
        if self._position is not None:
            progress = f"; {self._position} of {self.metadata.total_num_frames} frames decoded"
        return VideoDecodeError(f"{self.name}: {reason}{progress}.")


def _is_timed(stream: Any, packets: list[_Packet]) -> bool:
    """Tell whether the n-th presentation timestamp is sure to be that of the n-th frame, so that seeking is exact."""
    times = [packet.pts for packet in packets]
    return (
        stream.container.format.name in _TIMED_FORMATS
        and stream.codec_context.codec.canonical_name in _ONE_FRAME_PER_PACKET
        and None not in times
        and len(set(times)) == len(times)
        # What precedes the first key frame cannot be decoded.
        and packets[0].is_keyframe
        and times[0] == min(times)
        # Some writers store the order of decoding as the order of presentation.
        and (times != sorted(times) or not stream.codec_context.has_b_frames)
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


def _is_short_matroska(file: BinaryIO) -> bool:
    """Tell whether a Matroska or WebM file is shorter than it declares; FFmpeg takes such an end for a proper one."""
    file.seek(0)
    head = file.read(4096)
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
    return size != unknown and file.seek(0, os.SEEK_END) < end


@contextlib.contextmanager
def _open_video(source: VideoSource) -> Iterator[_VideoReader]:
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
            try:
                file = stack.enter_context(open(name, "rb"))
            except OSError as error:
                raise VideoDecodeError(f"{name}: {error.strerror}.") from error
        if not file.seekable():
            file = io.BytesIO(file.read())
        num_bytes = file.seek(0, os.SEEK_END)
        name = name if isinstance(name, str) else f"<{num_bytes} bytes>"
        if num_bytes == 0:
            raise VideoDecodeError(f"{name}: there is nothing in it.")
        yield _VideoReader(file, name)


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
