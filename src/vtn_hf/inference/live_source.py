"""Cameras and files read at their own pace, in a thread that keeps the newest frames only."""

import queue
import threading
import time

import av
import numpy as np


# A longer pause between two frames is taken for a jump of the source's clock.
MAX_GAP_SEC = 3600


class LiveSource:
    """
    Reads a source in a thread and keeps the newest frames only.

    Args:
        name: Path, URL or device.
        input_format: FFmpeg's name of the device's kind: `v4l2`, `avfoundation`, `dshow`; `None` for files, which are
            read at their own pace.
        size: Frames that are kept until they are read; older ones are dropped.

    Attributes:
        num_read, num_dropped: Frames that have come, and those of them that nobody has read in time.
        error: What has ended the source, if it was no regular end.
        has_ended: Set when there is nothing more to come.
    """

    def __init__(self, name: str, input_format: str | None = None, size: int = 2):
        self.num_read = self.num_dropped = self.num_stalls = 0
        self.error: Exception | None = None
        self.has_ended = threading.Event()
        self._frames: queue.Queue = queue.Queue(size)
        self._thread = threading.Thread(target=self._run, args=(name, input_format), daemon=True)
        self._thread.start()

    def _run(self, name: str, input_format: str | None):
        try:
            with av.open(name, format=input_format) as container:
                start, clock = None, Clock(container.streams.video[0].average_rate)
                for frame in container.decode(video=0):
                    seconds = clock.read(frame.time)
                    start = time.monotonic() - seconds if start is None else start
                    delay = 0.0 if input_format is not None else start + seconds - time.monotonic()
                    if self.has_ended.wait(max(0.0, delay)):
                        return
                    self._put(frame.to_ndarray(format="rgb24"), seconds)
        except (av.FFmpegError, OSError) as error:
            self.error = error
        finally:
            self.has_ended.set()

    def _put(self, frame: np.ndarray, seconds: float):
        self.num_read += 1
        while True:
            try:
                self._frames.put_nowait((frame, seconds))
                return
            except queue.Full:
                try:
                    self._frames.get_nowait()
                    self.num_dropped += 1
                except queue.Empty:
                    pass

    def read(self, timeout: float) -> tuple[np.ndarray, float] | None:
        """The next frame and its time in seconds, or `None` if there is none within `timeout` seconds."""
        try:
            return self._frames.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self):
        """Stops reading."""
        self.has_ended.set()
        self._thread.join(timeout=5)


class Clock:
    """
    Makes time go on where timestamps start again, jump or are missing.

    Args:
        rate: Frames per second, if known.
    """

    def __init__(self, rate: float | None):
        self._step = 1 / float(rate or 25)
        self._timestamp = self._seconds = 0.0

    def read(self, timestamp: float | None) -> float:
        """The time of the next frame, in seconds from the first one, by its timestamp in seconds."""
        if timestamp is None:
            timestamp = self._timestamp + self._step
        gap = timestamp - self._timestamp
        self._seconds += gap if 0 <= gap <= MAX_GAP_SEC else self._step
        self._timestamp = timestamp
        return self._seconds
