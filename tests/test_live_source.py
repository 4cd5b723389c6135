"""Sources at their own pace: a clock that goes on, and frames that are dropped."""

import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import av
import pytest
from rtsp_server import Camera
from test_whole_video import make_pictures
from video_files import write_video

from vtn_hf.inference import live_source
from vtn_hf.inference.live_source import Clock, LiveSource


def test_time_goes_on_where_timestamps_do_not():
    clock = Clock(rate=10)
    stamps = [5.0, 5.1, None, 5.3, 0.0, 0.1, 1e19, 1e19, 0.1, 60.1]
    times = [5.0, 5.1, 5.2, 5.3, 5.4, 5.5, 5.6, 5.6, 5.7, 65.7]
    assert [clock.read(stamp) for stamp in stamps] == pytest.approx(times)
    assert Clock(rate=10).read(1.7e9) == 0.1


def test_stream_drops_what_it_is_too_slow_for():
    source = LiveSource("/no/such/file", size=2)
    source._thread.join()
    pictures = make_pictures(5)
    for number, picture in enumerate(pictures):
        source._put(picture, number / 10)
    assert (source.num_read, source.num_dropped) == (5, 3)
    assert [source.read(0)[1], source.read(0)[1], source.read(0)] == [0.3, 0.4, None]
    assert source.error is not None


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and fails as often as it is told to; a segment that is asked for is noted."""

    failures: list[str] = []
    asked: list[str] = []

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.asked.append(name)
        if name in self.failures:
            self.failures.remove(name)
            self.send_error(503)
        else:
            super().do_GET()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a folder that a server on this machine serves, and its handler."""
    monkeypatch.setattr(live_source, "FIRST_PAUSE_SEC", 0.01)
    handler = type("Handler", (Handler,), {"failures": [], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def write_playlist(folder, num_frames=20):
    """Two seconds in two parts."""
    options = {"hls_time": "1", "hls_list_size": "0"}
    with av.open(str(folder / "live.m3u8"), "w", format="hls", options=options) as container:
        stream = container.add_stream("libx264", rate=10, options={"x264-params": "keyint=10:bframes=0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for picture in make_pictures(num_frames, height=64, width=64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return folder / "live.m3u8"


def read_all(source):
    times = []
    while (item := source.read(timeout=0.0 if source.has_ended.is_set() else 0.2)) or not source.has_ended.is_set():
        times += [item[1]] if item else []
    return times


def test_a_playlist_is_read_to_its_end(server, tmp_path):
    write_playlist(tmp_path)
    source = LiveSource(f"{server[0]}/live.m3u8", size=99)
    times = read_all(source)
    assert source.error is None and (source.num_read, source.num_reconnects) == (20, 0)
    assert times == sorted(times) and times[-1] - times[0] == pytest.approx(1.9, abs=0.01)


def test_a_stream_that_fails_is_opened_again(server, tmp_path):
    address, handler = server
    write_playlist(tmp_path)
    handler.failures += ["live.m3u8"] * 3
    source = LiveSource(f"{address}/live.m3u8", size=99)
    assert len(read_all(source)) == 20 and source.error is None and source.num_reconnects == 3


def test_a_live_stream_that_ends_is_opened_again(server, tmp_path, monkeypatch):
    """It has no end: where it stops, it has failed. Time goes on."""
    monkeypatch.setattr(live_source, "MAX_FAILURES", 2)
    playlist = write_playlist(tmp_path)
    playlist.write_text(playlist.read_text().replace("#EXT-X-ENDLIST\n", ""))
    source = LiveSource(f"{server[0]}/live.m3u8", size=99)
    while source.num_read <= 20:
        assert not source.has_ended.wait(0.05)
    source.close()
    assert source.num_reconnects >= 1


def test_it_gives_up(server, monkeypatch):
    """After pauses that grow."""
    settings = {"FIRST_PAUSE_SEC": 0.1, "MAX_PAUSE_SEC": 0.3, "MAX_FAILURES": 4}
    for name, value in settings.items():
        monkeypatch.setattr(live_source, name, value)
    start = time.monotonic()
    source = LiveSource(f"{server[0]}/nothing.m3u8")
    assert read_all(source) == [] and source.num_reconnects == 4 and "404" in str(source.error)
    assert time.monotonic() - start > 0.1 + 0.2 + 0.3 + 0.3


@pytest.mark.parametrize("where", ["file", "address"])
def test_what_only_turns_out_to_be_a_playlist_opens_nothing(server, tmp_path, monkeypatch, where):
    """Neither an address nor a file beside it."""
    monkeypatch.setattr(live_source, "MAX_FAILURES", 0)
    address, handler = server
    write_playlist(tmp_path)
    content = (tmp_path / "live.m3u8").read_text().replace("live0.ts", f"{address}/live0.ts")
    (tmp_path / "video.mp4").write_text(content)
    source = LiveSource(str(tmp_path / "video.mp4") if where == "file" else f"{address}/video.mp4")
    assert read_all(source) == [] and source.error is not None
    assert not any(name.endswith(".ts") for name in handler.asked)


def test_a_camera_that_goes_away_is_connected_to_again(monkeypatch):
    """By RTSP, twice: time goes on, and only what is said on the connection is needed."""
    monkeypatch.setattr(live_source, "FIRST_PAUSE_SEC", 0.01)
    with Camera(make_pictures(20, height=64, width=64)) as camera:
        source = LiveSource(camera.address, size=99)
        times = []
        while len(times) < 30:
            item = source.read(timeout=20)
            assert item is not None, source.error
            times.append(item[1])
        source.close()
    assert source.num_reconnects >= 1 and times == sorted(times) and times[-1] - times[0] > 2.5
    assert camera.requests[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]


def test_a_camera_that_says_nothing_is_a_failure(monkeypatch):
    monkeypatch.setattr(live_source, "FIRST_PAUSE_SEC", 0.01)
    monkeypatch.setattr(live_source, "MAX_SILENCE_SEC", 0.3)
    with Camera(make_pictures(20, height=64, width=64)) as camera:
        camera.num_silent = 2
        source = LiveSource(camera.address, size=99)
        assert source.read(timeout=20) is not None and source.num_reconnects == 2 and source.error is None
        source.close()


def test_files_and_addresses_of_files(server, tmp_path):
    write_video(tmp_path / "video.mp4", make_pictures(5))
    for name in (str(tmp_path / "video.mp4"), (tmp_path / "video.mp4").as_uri(), f"{server[0]}/video.mp4"):
        source = LiveSource(name, size=9)
        assert len(read_all(source)) == 5 and source.error is None and source.num_reconnects == 0
