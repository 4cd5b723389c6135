"""Files that mean harm end as `VideoDecodeError`, in bounded time and memory; they reach nothing else."""

import http.server
import os
import resource
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from hostile_videos import gif, make_hostile_videos, tags_of_avi

from vtn_hf import VTNVideoProcessor
from vtn_hf.video_decoding_vtn import DecodeLimits, VideoDecodeError, decode_video


TIME_LIMIT_SEC = 10
MEMORY_LIMIT_BYTES = 3 * 2**29

NAMES = list(make_hostile_videos(Path("/folder"), 9))


@pytest.fixture(scope="module")
def requests():
    """What a server on this machine is asked for."""
    paths = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, paths
        server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, requests):
    folder = tmp_path_factory.mktemp("hostile")
    # Whatever is read of it would be a video.
    (folder / "secret.mp4").write_bytes(gif(64, 48, 5))
    for name, content in make_hostile_videos(folder, requests[0]).items():
        (folder / name).write_bytes(content)
    return folder


def run(function) -> str:
    """What a function gives or raises, in a process of its own with limits."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_SEC)  # seconds of computing, as others may compute, too
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(6 * TIME_LIMIT_SEC)
            in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_LIMIT_BYTES,) * 2)
            try:
                result = f"gave {function()}"
            except BaseException as error:
                result = f"{type(error).__name__}: {error}"
            os.write(writer, result.encode(errors="replace")[:4000])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        result = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    return f"ended by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else result


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory in /proc")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_hostile_video(folder, requests, name, kind):
    source = folder / name if kind == "path" else (folder / name).read_bytes()
    result = run(lambda: decode_video(source)[0].shape)
    assert result.startswith(f"VideoDecodeError: {folder}" if kind == "path" else "VideoDecodeError: <"), result
    assert requests[1] == []


@pytest.mark.parametrize("name", ["list.mp4", "session.mp4"])
def test_what_refers_to_others_is_told(folder, name):
    with pytest.raises(VideoDecodeError, match="only refers to other files or addresses"):
        decode_video(folder / name)


def test_picture_made_large_by_resizing():
    processor = VTNVideoProcessor(num_frames=4)
    assert run(lambda: processor(gif(65534, 3, 2), return_tensors="np").keys()).startswith("VideoDecodeError")


def test_deadline_holds_while_a_header_is_read():
    data, limits = tags_of_avi(50_000), DecodeLimits(max_decode_sec=1)
    assert "longer than max_decode_sec=1" in run(lambda: decode_video(data, limits=limits))


def test_pixels_are_counted_before_they_are_decoded():
    data = gif(8000, 8000, 250)
    with pytest.raises(VideoDecodeError, match="16,000,000,000 pixels .* max_pixels_per_byte is 262,144"):
        decode_video(data)
    frames, _ = decode_video(data, lambda metadata: [1], convert_frame=lambda frame: frame[:2, :2].copy())
    assert frames.shape == (1, 2, 2, 3)
    assert np.ptp(frames) >= 0
