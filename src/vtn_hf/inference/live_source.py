"""Cameras, network streams, and files at their own pace, read in a thread that keeps the newest frames only."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import av
import numpy as np


# A longer pause between two frames is taken for a jump of the source's clock.
MAX_GAP_SEC = 3600
# Of a network stream: seconds before it is opened again after the first failure, twice as many after each further one
# in a row, at most; how many failures in a row end it; and seconds of silence that are one.
FIRST_PAUSE_SEC, MAX_PAUSE_SEC, MAX_FAILURES, MAX_SILENCE_SEC = 1.0, 30.0, 10, 10.0
# What refers to other files and addresses is opened where it is named, and only then.
_PLAYLISTS = (".m3u8", ".m3u", ".mpd", ".sdp")
_PROTOCOLS = "file,http,https,tcp,tls,udp,rtp,rtsp,rtmp,srt,crypto,data"
# Formats in which one stream comes, and nothing that refers to others.
_STREAMED_FORMATS = "mpegts,matroska,webm,mov,mp4,flv,avi,ogg,asf,mpeg,mpegvideo,h264,hevc,mpjpeg,mjpeg"


class LiveSource:
    """
    Reads a source in a thread and keeps the newest frames only.

    Args:
        name: Path, URL or device. A URL that fails is opened again, after pauses that grow; so is a live stream that
            ends. A playlist (HLS: `….m3u8`) is one by its name: what only turns out to be one is not opened.
        input_format: FFmpeg's name of the device's kind: `v4l2`, `avfoundation`, `dshow`; `None` for files, which are
            read at their own pace.
        size: Frames that are kept until they are read; older ones are dropped.

    Attributes:
        num_read, num_dropped: Frames that have come, and those of them that nobody has read in time.
        num_reconnects: How often a network stream was opened again.
        error: What has ended the source, if it was no regular end.
        has_ended: Set when there is nothing more to come.
    """

    def __init__(self, name: str, input_format: str | None = None, size: int = 2):
        self.num_read = self.num_dropped = self.num_stalls = self.num_reconnects = 0
        self._clock: Clock | None = None
        self._start: float | None = None  # when the first frame came
        self.error: Exception | None = None
        self.has_ended = threading.Event()
        self._frames: queue.Queue = queue.Queue(size)
        self._thread = threading.Thread(target=self._run, args=(name, input_format), daemon=True)
        self._thread.start()

    def _run(self, name: str, input_format: str | None):
        num_failures, is_network = 0, _is_network(name) and input_format is None
        try:
            while not self.has_ended.is_set():
                num_read = self.num_read
                try:
                    if not self._read_all(name, input_format):
                        return
                except (av.FFmpegError, OSError, ValueError) as error:
                    self.error = error
                num_failures = 1 if self.num_read > num_read else num_failures + 1
                pause = min(FIRST_PAUSE_SEC * 2 ** (num_failures - 1), MAX_PAUSE_SEC)
                if not is_network or num_failures > MAX_FAILURES or self.has_ended.wait(pause):
                    return
                self.num_reconnects += 1
        finally:
            self.has_ended.set()

    def _read_all(self, name: str, input_format: str | None) -> bool:
        """Reads the source to its end; returns whether it should have none."""
        with _open(name, input_format) as container:
            self.error = None
            self._clock = self._clock or Clock(container.streams.video[0].average_rate)
            for frame in container.decode(video=0):
                seconds = self._clock.read(frame.time)
                self._start = time.monotonic() - seconds if self._start is None else self._start
                delay = 0.0 if input_format is not None else self._start + seconds - time.monotonic()
                if self.has_ended.wait(max(0.0, delay)):
                    return False
                self._put(frame.to_ndarray(format="rgb24"), seconds)
            return _is_network(name) and container.duration is None

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


def _is_network(name: str) -> bool:
    return "://" in name and not name.lower().startswith("file:")


@contextlib.contextmanager
def _open(name: str, input_format: str | None) -> Iterator[Any]:
    """Opens a device, a file, an address or a playlist, so that it opens no other unless it is named as a playlist."""
    url, is_network = urlsplit(name), _is_network(name)
    is_playlist = url.path.lower().endswith(_PLAYLISTS)
    if input_format is not None:
        with av.open(name, format=input_format) as container:
            yield container
    elif is_network or is_playlist:
        options = {"protocol_whitelist": _PROTOCOLS}
        if url.scheme in ("http", "https") and not is_playlist:
            options["format_whitelist"] = _STREAMED_FORMATS
        if url.scheme in ("rtsp", "rtsps"):
            options["rtsp_flags"] = "prefer_tcp"  # datagrams get lost, and many networks let none through
        with av.open(name, container_options=options, timeout=MAX_SILENCE_SEC) as container:
            yield container
    else:
        path = url2pathname(url.path) if url.scheme == "file" else name
        with open(path, "rb") as file, av.open(file, container_options={"protocol_whitelist": ""}) as container:
            yield container


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
