"""Segments of long files: each is a video of its own for whatever takes one."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..pixels_vtn import ChooseRegion
from ..video_decoding_vtn import (
    MAX_REORDERED,
    NO_TIME,
    TIMED_FORMATS,
    Packets,
    VideoDecodeError,
    VideoFile,
    VideoPart,
    VideoReader,
)


# Ends of segments are rounded, and sound may last a little longer than the pictures.
_MAX_ROUNDING_SEC = 0.1


@dataclass(frozen=True)
class VideoSegment(VideoPart):
    """
    A part of a video, and a video like any other: frame numbers and seconds begin with it.

    Args:
        source: Path, URL, bytes or binary file of the whole.
        start_sec, end_sec (`float`, *optional*): The frames that are shown from `start_sec` on and before `end_sec`,
            by their own timestamps, in seconds from the first frame of the whole, rounded to milliseconds; by default
            those from its start and to its end.

    Raises:
        ValueError: If no time lies between.

    Example:

    ```python
    >>> from vtn_hf.data.segments import VideoSegment

    >>> video = VideoSegment("match.mp4", 61.5, 64)        # for the processor, `classify_video` and all the others

    ```"""

    source: Any
    start_sec: float | None = None
    end_sec: float | None = None

    def __post_init__(self):
        start, end = self.start_sec or 0, np.inf if self.end_sec is None else self.end_sec
        if not 0 <= start < end or self.end_sec == np.inf:
            raise ValueError(f"A segment {self.describe()} is none: seconds, and the end behind the start.")

    def describe(self) -> str:
        end = "the end" if self.end_sec is None else f"{self.end_sec} s"
        return f"from {self.start_sec or 0} s to {end}"

    def find(self, frame_times: np.ndarray, duration: float) -> slice:
        """
        Its frames, by the seconds `(frames,)` at which each frame of the whole is shown; where none begins in its
        time, the one that is shown then. `duration` is that of the whole.

        Raises:
            ValueError: If the whole ends before; a tenth of a second is taken for rounding.
        """
        whole_end = max(duration, float(frame_times[-1]))
        if (self.start_sec or 0) >= whole_end or (self.end_sec or 0) > whole_end + _MAX_ROUNDING_SEC:
            raise ValueError(f"the segment {self.describe()} goes beyond the end, which is at {whole_end:.3f} s")
        milliseconds = np.round(frame_times * 1000)
        start = round(1000 * (self.start_sec or 0))
        first, stop = int(np.searchsorted(milliseconds, start)), len(frame_times)
        if self.end_sec is not None:
            stop = int(np.searchsorted(milliseconds, round(1000 * self.end_sec)))
        if first >= stop:
            first = max(int(np.searchsorted(milliseconds, start, side="right")) - 1, 0)
        return slice(first, max(stop, first + 1))

    def make_reader(self, file: VideoFile, choose_region: ChooseRegion | None) -> VideoReader:
        return _SegmentReader(self, file, choose_region)


class _SegmentReader(VideoReader):
    """Reads a segment as if it were the video; of files that can be searched, only what lies around it."""

    def __init__(self, segment: VideoSegment, file: VideoFile, choose_region: ChooseRegion | None):
        super().__init__(file, choose_region)
        self._segment = segment
        self._offset = 0  # the number, among the frames counted, of the first of the segment
        self._lead_sec: float | None = None  # seconds of the file before what was counted, where that is not all

    def _count_packets(self) -> None:
        if not self._count_packets_near():
            super()._count_packets()

    def _count_packets_near(self) -> bool:
        """Count only the packets from the key frame before the segment to its end, if they are sure to be found."""
        segment, is_timed = self._segment, self._container.format.name in TIMED_FORMATS
        if segment.end_sec is None or not is_timed or self._layout.is_cut:
            return False
        with contextlib.suppress(self._av.FFmpegError):
            self._is_sure, time_base = False, self._stream.time_base
            first = [packet for packet in itertools.islice(self._demux(), MAX_REORDERED) if not packet.is_discard]
            origin = min((NO_TIME if packet.pts is None else packet.pts for packet in first), default=NO_TIME)
            # Both ends are rounded to milliseconds.
            start = origin + math.floor(((segment.start_sec or 0) - 0.001) / time_base)
            end = origin + math.ceil((segment.end_sec + 0.001) / time_base)
            packets = Packets(self._packets_near(max(start, origin), end), self._container.format, time_base)
            if self._is_sure and origin != NO_TIME and packets.num_whole == len(packets.pts):
                self._lead_sec, self._num_certain = float((packets.pts[0] - origin) * time_base), None
                self._plan_reading(packets)
                if self._times is not None:
                    self._describe(packets.num_shown, packets.ticks, packets.is_joined)
                    return True
        self._lead_sec = None
        self._open_container()
        return False

    def _packets_near(self, start: int, end: int) -> Iterator[Any]:
        """
        From a key frame that is not after `start` until all that is shown before `end` has come, but not what is shown
        before the key frame; `_is_sure` says whether this was so, and timestamps did not start again.
        """
        for margin_sec in (0, 1, 10):  # some containers go by the time of decoding
            self._container.seek(start - round(margin_sec / self._stream.time_base), stream=self._stream)
            begin, last_key, num_behind = None, -math.inf, 0
            for packet in self._demux():
                if packet.pts is None or (begin is None and not (packet.is_keyframe and packet.pts <= start)):
                    break
                begin = packet.pts if begin is None else begin
                if packet.is_keyframe and packet.pts <= last_key:
                    return
                last_key = packet.pts if packet.is_keyframe else last_key
                if packet.pts >= begin:
                    yield packet
                num_behind += packet.pts >= end
                if num_behind > MAX_REORDERED:
                    self._is_sure = True
                    return
            if begin is not None:
                return

    def _describe(self, *of_whole: Any) -> None:
        super()._describe(*of_whole)
        metadata, times = self.metadata, self.metadata.frame_times
        if times is None:
            raise self._file.error("a segment needs the times of the frames, which the file does not tell")
        file_end = metadata.duration or 0.0 if self._lead_sec is None else math.inf
        part = self._segment.find(times + (self._lead_sec or 0), file_end)
        self._offset, times = part.start, times[part] - times[part.start]
        if self._num_certain is not None:
            self._num_certain -= self._offset
        fps, num_frames = self._find_fps(times), len(times)
        duration = num_frames / fps if fps else None
        metadata.update(
            {"total_num_frames": num_frames, "fps": fps or None, "duration": duration, "frame_times": times}
        )

    def _needs_seek(self, start: int) -> bool:
        return self._lead_sec is not None or super()._needs_seek(start)

    def read(self, numbers: list[int], later: Sequence[int] = ()) -> Iterator[tuple[int, np.ndarray]]:
        num_read = 0
        in_file = ([number + self._offset for number in each] for each in (numbers, later))
        try:
            for number, frame in super().read(*in_file):
                num_read += 1
                yield number - self._offset, frame
        except VideoDecodeError:
            if self._lead_sec is None:
                raise
            self._give_up_nearness()
            yield from self.read(numbers[num_read:], later)

    def _give_up_nearness(self) -> None:
        """Count all packets after all."""
        before, self._lead_sec = self.metadata, None
        self._kept.clear()  # by numbers that no longer hold
        with self._file.reporting_errors():
            self._open_container()
            super()._count_packets()
        if self.metadata.total_num_frames != before.total_num_frames:
            raise self._file.error("its packets do not tell which frames are in the segment")
        self.metadata.frames_indices = before.frames_indices
