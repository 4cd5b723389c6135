"""Decoding is compared, bit for bit, with PyAV decoding the whole video in sequence on one thread."""

import contextlib
import gc
import http.server
import io
import multiprocessing
import os
import re
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from transformers.dynamic_module_utils import get_imports

from vtn_hf import pixels_vtn, video_decoding_vtn
from vtn_hf.data.video_frames import iter_video_frames
from vtn_hf.pixels_vtn import Region, resize_frames
from vtn_hf.video_decoding_vtn import DecodeLimits, VideoDecodeError, decode_video


av = pytest.importorskip("av")

REAL_CLIPS = Path(__file__).parents[2] / "shared" / "videos"
needs_real_clips = pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason=f"no clips in {REAL_CLIPS}")

NUM_FRAMES = 60
WIDTH, HEIGHT = 128, 96  # on smaller pictures, libx264 does not give the same bytes every time


def encode(
    path, codec="libx264", num_frames=NUM_FRAMES, size=(WIDTH, HEIGHT), pix_fmt="yuv420p", pts=None, **settings
):
    """Encode a moving texture with a corner that counts the frames; `pts` maps a frame number to milliseconds."""
    width, height = size
    texture = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)[:height, :width]
    with av.open(path, "w", format=settings.get("format"), options=settings.get("container", {})) as container:
        stream = container.add_stream(codec, rate=30, options=settings.get("options", {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = settings.get("gop", 250)
        if pts:
            stream.codec_context.time_base = Fraction(1, 1000)
        if "rotation" in settings:
            stream.set_display_rotation(settings["rotation"])
        for number in range(num_frames):
            picture = np.roll(texture, (3 * number, 2 * number), (0, 1))
            picture[:8, :8] = 4 * number % 256
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if pts:
                frame.pts, frame.time_base = pts(number), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def remux(source, path, skip=0, change=None, **options):
    """Copy packets without the first `skip`, each after a `change`."""
    with av.open(source) as old, av.open(path, "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in list(old.demux(video=0))[skip:-1]:
            if change:
                change(packet)
            packet.stream = stream
            new.mux(packet)


def join(sources, path):
    """Put the packets of one file behind those of the other, with times that go on."""
    with contextlib.ExitStack() as stack:
        new = stack.enter_context(av.open(str(path), "w"))
        old = [stack.enter_context(av.open(str(source))) for source in sources]
        stream, offset = new.add_stream_from_template(old[0].streams.video[0]), 0
        for container in old:
            for packet in container.demux(video=0):
                if packet.size:
                    packet.pts = packet.dts = last = packet.pts + offset
                    packet.stream = stream
                    new.mux(packet)
            offset = last + 33


def start_earlier(packet):
    packet.pts, packet.dts = packet.pts - 5120, packet.dts - 5120


def crowd(packet):
    packet.pts, packet.dts, packet.duration = packet.pts // 64, packet.dts // 64, 8


def mark_as_key(packet):
    packet.is_keyframe = True


def forget_order(packet):
    packet.pts = packet.dts


def x264(parameters):
    return {"options": {"x264-params": parameters}}


RECIPES = {
    "bframes.mp4": {"options": {"bf": "3"}},
    "short_gop.mp4": {"gop": 12},
    "short_gop.mkv": {"gop": 12},
    "open_gop.mp4": x264("open-gop=1:bframes=3:keyint=12"),
    "open_gop.mkv": x264("open-gop=1:bframes=3:keyint=12"),
    "intra_refresh.mp4": x264("intra-refresh=1:keyint=12"),
    "hevc_open_gop.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=12:log-level=none"}},
    "no_bframes.mkv": {"gop": 12, "options": {"bf": "0"}},
    "variable_rate.mp4": {"gop": 12, "pts": lambda number: 10 * number**2},
    "variable_rate.mkv": {"gop": 12, "pts": lambda number: 10 * number**2},
    "fragmented.mp4": {"gop": 12, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 12},
    "vp8.webm": {"codec": "libvpx"},
    "mpeg4.avi": {"codec": "mpeg4", "gop": 12},
    "mpeg4_bframes.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "dropped_frames.avi": {"codec": "mpeg4", "pts": lambda number: 100 * (number + max(0, number - 9))},
    "raw.h264": {"format": "h264"},
    "transport.ts": {"gop": 12},
    "odd_size.mkv": {"codec": "ffv1", "size": (63, 47), "pix_fmt": "yuv444p"},
    "one_frame.mp4": {"num_frames": 1},
    "faststart.mp4": {"container": {"movflags": "faststart"}},
}
REMUXED = {
    # An edit list hides the first ten frames, and what a cut in an open group of pictures leaves undecodable.
    "edit_list.mp4": ("short_gop.mp4", {"change": start_earlier, "avoid_negative_ts": "disabled"}),
    "cut_open_gop.mp4": ("open_gop.mp4", {"skip": 11}),
    "cut_hevc_open_gop.mkv": ("hevc_open_gop.mp4", {"skip": 11}),
    "equal_timestamps.mkv": ("short_gop.mp4", {"change": crowd}),
    "all_key.mp4": ("hevc_open_gop.mp4", {"change": mark_as_key}),
    "decoding_order.mp4": ("short_gop.mp4", {"change": forget_order}),
}


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """Return the path of a generated clip, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("clips")

    def make(name):
        path = folder / name
        if path.exists():
            return str(path)
        if name in REMUXED:
            source, settings = REMUXED[name]
            remux(make(source), path, **settings)
        else:
            encode(path, **RECIPES[name])
        return str(path)

    return make


def decode_sequentially(source):
    with av.open(source) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        frames = [(frame.to_ndarray(format="rgb24"), frame.rotation) for frame in container.decode(stream)]
    return np.stack([np.rot90(frame, rotation // 90) for frame, rotation in frames])


@pytest.fixture
def always_seek(monkeypatch):
    monkeypatch.setattr(video_decoding_vtn, "_MIN_FRAMES_TO_SKIP", 1)


@pytest.fixture
def converted(monkeypatch):
    """The timestamps of the frames that are converted to RGB."""
    times = []
    to_array = video_decoding_vtn.VideoReader._to_array
    monkeypatch.setattr(
        video_decoding_vtn.VideoReader,
        "_to_array",
        lambda self, frame: times.append(frame.pts) or to_array(self, frame),
    )
    return times


def selections(total):
    """Frame numbers of a span in the middle, an even sample, single frames, and all sorts of orders."""
    middle = range(total // 2, min(total, total // 2 + 4))
    rng = np.random.default_rng(total)
    return [
        list(middle),
        np.linspace(0, total - 1, 7).astype(int),
        [total - 1],
        [total - 1, 0, total // 3, total // 3],
        rng.integers(0, total, 5),
    ]


class TestFrames:
    @pytest.mark.parametrize("name", [*RECIPES, *REMUXED])
    def test_generated_clips(self, clip, name, always_seek):
        expected = decode_sequentially(clip(name))
        frames, metadata = decode_video(clip(name))
        np.testing.assert_array_equal(frames, expected)
        assert frames.dtype == np.uint8
        assert metadata.total_num_frames == len(expected)
        for indices in selections(len(expected)):
            frames, metadata = decode_video(clip(name), lambda metadata, indices=indices: indices)
            np.testing.assert_array_equal(frames, expected[indices])
            assert metadata.frames_indices == list(indices)

    @needs_real_clips
    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("arm_wrestling_k400.mp4", (280, 256, 340, 3)),
            ("mm_part.mp4", (32, 256, 340, 3)),
            ("mm_det.mp4", (57, 256, 340, 3)),
            ("mm_test.avi", (164, 240, 320, 3)),
            ("mm_test.mp4", (300, 256, 340, 3)),
            pytest.param("ntu.avi", (103, 1080, 1920, 3), marks=pytest.mark.slow),
            ("tc_nasa_13013.mp4", (390, 270, 480, 3)),
            ("tc_h264_10bits.mp4", (30, 200, 200, 3)),
            ("tc_h265_video.mp4", (10, 128, 128, 3)),
            ("decord_video_90.mov", (3, 568, 320, 3)),
        ],
    )
    def test_real_clips(self, name, shape, always_seek):
        path = str(REAL_CLIPS / name)
        expected = decode_sequentially(path)
        frames, metadata = decode_video(path)
        assert frames.shape == shape
        np.testing.assert_array_equal(frames, expected)
        assert (metadata.total_num_frames, metadata.height, metadata.width) == shape[:3]
        for indices in selections(len(expected)):
            frames, _ = decode_video(path, lambda metadata, indices=indices: indices)
            np.testing.assert_array_equal(frames, expected[indices])

    @pytest.mark.parametrize("name", ["short_gop.mp4", "open_gop.mkv", "hevc_open_gop.mp4", "vp9.webm"])
    def test_seek_leaves_out_what_comes_before(self, clip, name, monkeypatch, always_seek):
        starts = []
        decode = video_decoding_vtn.VideoReader._decode
        monkeypatch.setattr(
            video_decoding_vtn.VideoReader,
            "_decode",
            lambda self, numbers, start: starts.append(start) or decode(self, numbers, start),
        )
        decode_video(clip(name), lambda metadata: [40, 41])
        assert len(starts) == 1
        assert starts[0] >= 28

    def test_seek_to_intra_refresh_falls_back_to_sequence(self, clip, always_seek):
        indices = [30, 31, 50]
        frames, _ = decode_video(clip("intra_refresh.mp4"), lambda metadata: indices)
        np.testing.assert_array_equal(frames, decode_sequentially(clip("intra_refresh.mp4"))[indices])

    def test_seek_needs_a_frame_complete_in_itself(self, clip):
        with video_decoding_vtn.open_video(clip("short_gop.mp4")) as video:
            frame = SimpleNamespace(is_corrupt=False, key_frame=False, pict_type=1, width=8, height=8)
            video._file.position, video._is_damaged = 12, False
            video._check_frame(frame, is_wanted=True, is_first_after_seek=False)
            with pytest.raises(VideoDecodeError, match="cannot be decoded by itself"):
                video._check_frame(frame, is_wanted=True, is_first_after_seek=True)

    def test_no_seek_where_frames_share_timestamps(self, clip):
        with video_decoding_vtn.open_video(clip("equal_timestamps.mkv")) as video:
            assert video._times is None

    def test_only_wanted_frames_are_converted(self, clip, converted):
        decode_video(clip("short_gop.mp4"), lambda metadata: [50, 7, 7, 30])
        assert len(converted) == 3

    @pytest.mark.parametrize("rotation", [0, 90, 180, 270])
    @pytest.mark.parametrize("suffix", ["mp4", "mkv"])
    def test_rotation(self, tmp_path, rotation, suffix):
        encode(str(tmp_path / f"upright.{suffix}"), num_frames=3)
        encode(str(tmp_path / f"rotated.{suffix}"), num_frames=3, rotation=rotation)
        upright, _ = decode_video(tmp_path / f"upright.{suffix}")
        rotated, metadata = decode_video(tmp_path / f"rotated.{suffix}")
        np.testing.assert_array_equal(rotated, np.rot90(upright, rotation // 90, axes=(1, 2)))
        assert (metadata.height, metadata.width) == rotated.shape[1:3]

    @needs_real_clips
    @pytest.mark.parametrize(("name", "turns"), [("decord_video_90.mov", -1), ("decord_video_180.mov", 2)])
    def test_rotation_of_real_clips(self, name, turns):
        """With these turns, as a look at the pictures shows, the letters on the filmed keyboard stand upright."""
        with av.open(str(REAL_CLIPS / name)) as container:
            coded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        np.testing.assert_array_equal(decode_video(REAL_CLIPS / name)[0], np.rot90(coded, turns, axes=(1, 2)))

    def test_one_thread_in_a_dataloader_worker(self, clip, monkeypatch):
        counts = []
        open_container = video_decoding_vtn.VideoReader._open_container

        def spy(self):
            open_container(self)
            counts.append(self._codec.thread_count)

        monkeypatch.setattr(video_decoding_vtn.VideoReader, "_open_container", spy)
        decode_video(clip("bframes.mp4"))
        monkeypatch.setattr(video_decoding_vtn, "get_worker_info", object)
        decode_video(clip("bframes.mp4"))
        assert counts == [0, 1]


class TestMetadata:
    @pytest.mark.parametrize(
        ("name", "num_frames", "fps"),
        [
            ("bframes.mp4", NUM_FRAMES, 30),
            ("vp9.webm", NUM_FRAMES, 30),
            ("mpeg4.avi", NUM_FRAMES, 30),
            ("raw.h264", NUM_FRAMES, 30),
            ("edit_list.mp4", NUM_FRAMES - 10, 30),
            ("one_frame.mp4", 1, 30),
            # 59 intervals in 10 ms * 59 ** 2.
            ("variable_rate.mp4", NUM_FRAMES, 59 / 34.81),
            ("variable_rate.mkv", NUM_FRAMES, 59 / 34.81),
        ],
    )
    def test_metadata(self, clip, name, num_frames, fps):
        _, metadata = decode_video(clip(name))
        assert metadata.total_num_frames == num_frames
        assert metadata.fps == pytest.approx(fps)
        assert metadata.duration == pytest.approx(num_frames / fps)
        assert (metadata.width, metadata.height) == (WIDTH, HEIGHT)
        assert metadata.video_backend == "pyav"
        assert metadata.frames_indices == list(range(num_frames))

    def test_header_that_lies_is_not_believed(self, clip):
        data = bytearray(Path(clip("mpeg4.avi")).read_bytes())
        stream_length = data.index(b"strh") + 8 + 32
        assert int.from_bytes(data[stream_length : stream_length + 4], "little") == NUM_FRAMES
        for lie in (0, 7, 1000):
            data[stream_length : stream_length + 4] = lie.to_bytes(4, "little")
            frames, metadata = decode_video(bytes(data))
            assert len(frames) == metadata.total_num_frames == NUM_FRAMES


class TestTimes:
    """The time of each frame is that of its own timestamp, from the first frame on."""

    # One has no timestamps, and those of the other are not in the order of its frames.
    @pytest.mark.parametrize("name", sorted({*RECIPES, *REMUXED} - {"raw.h264", "decoding_order.mp4"}))
    def test_times_are_those_of_the_frames(self, clip, name):
        with av.open(clip(name)) as container:
            stream = container.streams.best("video")
            stream.codec_context.thread_count = 1
            ticks = np.array([frame.dts if frame.pts is None else frame.pts for frame in container.decode(stream)])
            expected = (ticks - ticks[0]) * float(stream.time_base)
        _, metadata = decode_video(clip(name), lambda metadata: [0, metadata.total_num_frames - 1])
        assert metadata.frame_times.dtype == np.float64
        np.testing.assert_allclose(metadata.frame_times, expected, rtol=0, atol=1e-9)
        assert metadata.timestamps == [0, metadata.frame_times[-1]]
        assert not metadata.is_joined

    def test_no_timestamps(self, clip):
        _, metadata = decode_video(clip("raw.h264"), lambda metadata: [3])
        np.testing.assert_array_equal(metadata.frame_times, np.arange(NUM_FRAMES) / 30)

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("part.vob", {"codec": "mpeg2video"}),
            ("part.mkv", {"options": {"bf": "2"}}),
            ("part.flv", {"options": {"bf": "2"}}),
            ("part.mjpeg.mkv", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ],
    )
    @pytest.mark.parametrize("num_frames", [5, 40])
    def test_timestamps_start_again(self, tmp_path, name, settings, num_frames):
        path = tmp_path / name
        encode(str(path), num_frames=num_frames, **settings)
        data = path.read_bytes()
        frames, metadata = decode_video(data + data[13 if name.endswith("flv") else 0 :])
        assert len(frames) == 2 * num_frames
        assert metadata.is_joined
        np.testing.assert_allclose(metadata.frame_times, np.arange(2 * num_frames) / 30, atol=0.0021)
        assert metadata.fps == 30
        assert metadata.duration == pytest.approx(2 * num_frames / 30)

    def test_what_cannot_be_decoded_takes_no_time(self, clip, tmp_path):
        """The first packets need frames that are not there."""
        remux(clip("short_gop.mkv"), tmp_path / "headless.ts", skip=5)
        frames, metadata = decode_video(tmp_path / "headless.ts")
        assert len(frames) == NUM_FRAMES - 12
        assert (metadata.fps, metadata.duration) == (30, pytest.approx((NUM_FRAMES - 12) / 30))
        assert metadata.frame_times[[0, -1]].tolist() == pytest.approx([0, (NUM_FRAMES - 13) / 30], abs=1e-3)


class TestFrameCount:
    """A clip that begins between two key frames: its first packets are no frames, and no error is reported."""

    @pytest.fixture(params=["short_gop.mkv", "no_bframes.mkv"])
    def headless(self, clip, tmp_path, request):
        remux(clip(request.param), tmp_path / "headless.mkv", skip=5)
        expected = decode_sequentially(str(tmp_path / "headless.mkv"))
        assert len(expected) < NUM_FRAMES - 5
        return str(tmp_path / "headless.mkv"), expected

    def test_samples_again_with_the_true_count(self, headless):
        path, expected = headless
        totals = []

        def first_middle_last(metadata):
            totals.append(metadata.total_num_frames)
            return [0, metadata.total_num_frames // 2, metadata.total_num_frames - 1]

        frames, metadata = decode_video(path, first_middle_last)
        np.testing.assert_array_equal(frames, expected[[0, len(expected) // 2, -1]])
        assert totals == [NUM_FRAMES - 5, len(expected)]
        assert metadata.total_num_frames == len(expected)
        np.testing.assert_array_equal(decode_video(path)[0], expected)

    def test_index_beyond_the_true_count(self, headless):
        path, expected = headless
        with pytest.raises(ValueError, match=f"frame {NUM_FRAMES - 6} .* {len(expected)} frames"):
            decode_video(path, lambda metadata: [NUM_FRAMES - 6])

    def test_more_frames_than_counted(self, clip):
        with video_decoding_vtn.open_video(clip("mpeg4.avi")) as video:
            video._file.num_frames = NUM_FRAMES - 2
            with pytest.raises(VideoDecodeError, match=f"{NUM_FRAMES} frames decoded, .* {NUM_FRAMES - 2} packets"):
                list(video.read(list(range(NUM_FRAMES - 2))))
            assert video.metadata.total_num_frames == NUM_FRAMES


class TestCountingIsForgotten:
    """Decoding begins as if nothing had been counted."""

    @pytest.mark.parametrize(("suffix", "codec"), [("avi", "rawvideo"), ("mov", "qtrle"), ("avi", "msvideo1")])
    def test_palette(self, tmp_path, suffix, codec):
        """It is given with the first packet only."""
        path = tmp_path / f"palette.{suffix}"
        palette = np.zeros((256, 4), np.uint8)
        palette[:, 0], palette[:, 1:] = 255, np.arange(256)[:, None]
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=30)
            stream.width, stream.height = WIDTH, HEIGHT
            stream.pix_fmt = "rgb555le" if codec == "msvideo1" else "gray" if codec == "qtrle" else "pal8"
            for number in range(9):
                picture = np.full((HEIGHT, WIDTH), 25 * number, np.uint8)
                if stream.pix_fmt == "pal8":
                    frame = av.VideoFrame.from_ndarray((picture, palette), format="pal8")
                else:
                    frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format=stream.pix_fmt)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        expected = decode_sequentially(str(path))
        assert np.ptp(expected) > 100
        np.testing.assert_array_equal(decode_video(path)[0], expected)

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
    @pytest.mark.parametrize("case", ["starts in the middle", "first is no key frame", "no key frames"])
    def test_first_packet(self, clip, tmp_path, suffix, case):
        def unmark(packet):
            packet.is_keyframe = packet.is_keyframe and case != "no key frames" and packet.pts > 0

        path = str(tmp_path / f"clip.{suffix}")
        in_middle = case == "starts in the middle"
        remux(clip("short_gop.mp4"), path, skip=5 if in_middle else 0, change=None if in_middle else unmark)
        expected = decode_sequentially(path)
        np.testing.assert_array_equal(decode_video(path)[0], expected)
        np.testing.assert_array_equal(decode_video(path, lambda metadata: [40, 3])[0], expected[[40, 3]])


class TestDamage:
    @pytest.mark.parametrize("fraction", [0.4, 0.65, 0.9])
    @pytest.mark.parametrize("name", ["bframes.mp4", "faststart.mp4", "fragmented.mp4", "short_gop.mkv", "vp9.webm"])
    def test_cut_short(self, clip, name, fraction):
        data = Path(clip(name)).read_bytes()
        data = data[: int(fraction * len(data))]
        with pytest.raises(VideoDecodeError, match=f"<{len(data)} bytes>"):
            decode_video(data)
        with pytest.raises(VideoDecodeError):
            list(iter_video_frames(data))

    @pytest.mark.parametrize("name", ["bframes.mp4", "fragmented.mp4", "short_gop.mkv", "vp9.webm"])
    def test_cut_behind_the_last_frame(self, clip, name):
        """What is lost is an index or a comment: an error is allowed, fewer frames are not."""
        with contextlib.suppress(VideoDecodeError):
            frames, _ = decode_video(Path(clip(name)).read_bytes()[:-9])
            np.testing.assert_array_equal(frames, decode_sequentially(clip(name)))

    def test_cut_avi(self, clip):
        data = Path(clip("mpeg4.avi")).read_bytes()
        with av.open(clip("mpeg4.avi")) as container:
            ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
        for number in (20, 40, NUM_FRAMES - 1):
            with pytest.raises(VideoDecodeError, match=rf"{number} of {NUM_FRAMES} frames are left"):
                decode_video(data[: ends[number] - 1])
        for number in (20, 40):  # no packet is cut, but the file is shorter than it says
            with pytest.raises(VideoDecodeError, match=rf"{number + 1} of {NUM_FRAMES} frames are left"):
                decode_video(data[: ends[number] + 6])

    def test_joined_transport_streams_are_not_damaged(self, clip):
        """One packet is marked, as the counter of its parts does not go on."""
        data = Path(clip("transport.ts")).read_bytes()
        with av.open(io.BytesIO(data + data)) as container:
            assert any(packet.is_corrupt for packet in container.demux(video=0))
        frames, metadata = decode_video(data + data)
        expected = decode_sequentially(clip("transport.ts"))
        np.testing.assert_array_equal(frames, np.concatenate([expected, expected]))
        assert metadata.is_joined
        assert metadata.duration == pytest.approx(4)

    def test_packet_lost_from_a_transport_stream(self, clip):
        """Behind the first frames: these are given, and no short result passes for the whole."""
        data, expected = Path(clip("transport.ts")).read_bytes(), decode_sequentially(clip("transport.ts"))
        num_refused = 0
        for start in range(len(data) // 2, len(data), 7 * 188):
            start -= start % 188
            damaged = data[:start] + data[start + 188 :]
            np.testing.assert_array_equal(
                decode_video(damaged, lambda metadata: [0, 1, 2])[0], expected[:3], err_msg=f"{start}"
            )
            try:
                assert len(decode_video(damaged)[0]) == NUM_FRAMES, start
            except VideoDecodeError:
                num_refused += 1
        assert num_refused > 0

    def test_avi_of_unknown_size(self, clip, tmp_path):
        """Through a pipe, what comes at the end cannot be written at the start."""
        file = open(tmp_path / "pipe.avi", "wb")  # noqa: SIM115
        pipe = SimpleNamespace(write=file.write, close=file.close)
        encode(pipe, codec="mpeg4", format="avi")
        file.close()
        np.testing.assert_array_equal(
            decode_video(tmp_path / "pipe.avi")[0], decode_sequentially(str(tmp_path / "pipe.avi"))
        )

    @pytest.mark.parametrize("tail", [b"\n", b"\0", b"\r\n", b"abc", bytes(7), b"ID3\4\0\0\0", b"TAG" * 40])
    @pytest.mark.parametrize("name", ["fragmented.mp4", "bframes.mp4", "short_gop.mkv", "mpeg4.avi", "transport.ts"])
    def test_bytes_behind_the_end(self, clip, name, tail):
        frames, _ = decode_video(Path(clip(name)).read_bytes() + tail)
        np.testing.assert_array_equal(frames, decode_sequentially(clip(name)))

    def test_mkv_that_ends_behind_its_frames(self, clip):
        data = Path(clip("short_gop.mkv")).read_bytes()
        cues = data.rindex(b"\x1cS\xbbk")
        assert len(decode_video(data[: cues + 20])[0]) == NUM_FRAMES

    def test_cut_fragment(self, clip):
        data = Path(clip("fragmented.mp4")).read_bytes()
        start = data.rindex(b"moof") - 4
        for number_of_bytes in (3, 8, 60):
            with pytest.raises(VideoDecodeError, match="cut short"):
                decode_video(data[: start + number_of_bytes])

    def test_what_follows_the_last_fragment_may_be_cut(self, clip):
        data = Path(clip("fragmented.mp4")).read_bytes() + b"\0\0\1\0free"
        assert len(decode_video(data)[0]) == NUM_FRAMES

    @pytest.mark.parametrize("name", ["faststart.mp4", "short_gop.mkv", "mpeg4.avi"])
    def test_cut_file_gives_what_is_left_of_it(self, clip, name):
        """Frames keep the numbers they have in the whole file, and what is lost counts."""
        data = Path(clip(name)).read_bytes()
        data = data[: len(data) // 2]
        with pytest.raises(VideoDecodeError, match=rf"\d+ of {NUM_FRAMES} frames are left"):
            decode_video(data, lambda metadata: [metadata.total_num_frames // 4, metadata.total_num_frames - 1])
        frames, metadata = decode_video(data, lambda metadata: [0, 2, 1])
        np.testing.assert_array_equal(frames, decode_sequentially(clip(name))[[0, 2, 1]])
        assert metadata.total_num_frames == len(metadata.frame_times) == NUM_FRAMES
        np.testing.assert_allclose(metadata.frame_times, np.arange(NUM_FRAMES) / 30, atol=1e-3)

    @needs_real_clips
    def test_decoder_error(self):
        with pytest.raises(VideoDecodeError, match=r"decord_corrupted\.mp4: .*\d+ of 50 frames decoded"):
            decode_video(REAL_CLIPS / "decord_corrupted.mp4")
        frames, _ = decode_video(REAL_CLIPS / "decord_corrupted.mp4", lambda metadata: range(8))
        assert len(frames) == 8

    @pytest.mark.parametrize("name", ["short_gop.mp4", "vp9.webm", "mpeg4.avi"])
    def test_random_bytes(self, clip, name):
        """Damaged pictures give all frames that are asked for, or an error; some of them are found out."""
        intact = Path(clip(name)).read_bytes()
        with av.open(clip(name)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        payload = np.concatenate([np.arange(packet.pos + 12, packet.pos + packet.size) for packet in packets])
        outcomes = []
        for seed in range(15):
            rng = np.random.default_rng(seed)
            data = np.frombuffer(intact, dtype=np.uint8).copy()
            data[rng.choice(payload, 8)] ^= rng.integers(1, 256, 8, dtype=np.uint8)
            try:
                outcomes.append(len(decode_video(data.tobytes())[0]))
            except VideoDecodeError:
                outcomes.append("error")
        assert set(outcomes) <= {NUM_FRAMES, "error"}
        assert "error" in outcomes

    def test_concealed_damage(self, clip):
        """The decoder hides this damage: it reports no error and gives all frames, but marks some of them."""
        data = bytearray(Path(clip("raw.h264")).read_bytes())
        data[len(data) // 2 : len(data) // 2 + 8] = bytes(8)
        with av.open(io.BytesIO(data)) as container:
            frames = list(container.decode(video=0))
        assert len(frames) == NUM_FRAMES
        assert any(frame.is_corrupt for frame in frames)
        with pytest.raises(VideoDecodeError, match="a frame is damaged"):
            decode_video(bytes(data))

    def test_frame_lost_without_an_error(self, clip):
        """The packet is made one of filler data, over which the decoder passes in silence."""
        data = bytearray(Path(clip("hevc_open_gop.mp4")).read_bytes())
        with av.open(io.BytesIO(data)) as container:
            packet = [packet for packet in container.demux(video=0) if packet.size][5]
        filler_unit = (packet.size - 4).to_bytes(4, "big") + bytes([38 << 1, 1])
        data[packet.pos : packet.pos + packet.size] = filler_unit.ljust(packet.size, b"\xff")
        with av.open(io.BytesIO(data)) as container:
            assert len(list(container.decode(video=0))) < NUM_FRAMES
        with pytest.raises(VideoDecodeError, match=f"a frame is missing; . of {NUM_FRAMES} frames decoded"):
            decode_video(bytes(data), lambda metadata: range(12))

    def test_damage_outside_of_what_is_decoded(self, clip, always_seek):
        data = bytearray(Path(clip("short_gop.mp4")).read_bytes())
        with av.open(io.BytesIO(data)) as container:
            packet = [packet for packet in container.demux(video=0) if packet.size][18]
        data[packet.pos : packet.pos + packet.size] = os.urandom(packet.size)
        data = bytes(data)
        expected = decode_sequentially(clip("short_gop.mp4"))
        # Frame 20 comes before the damaged frame 18 in decoding order and does not refer to it; frame 19 does.
        for indices in ([0, 5], [30, 31], [0, 40], [0, 20]):
            frames, _ = decode_video(data, lambda metadata, indices=indices: indices)
            np.testing.assert_array_equal(frames, expected[indices])
        for indices in ([0, 18], [19, 20]):
            with pytest.raises(VideoDecodeError):
                decode_video(data, lambda metadata, indices=indices: indices)

    def test_change_of_resolution(self, clip, tmp_path):
        encode(str(tmp_path / "wide.h264"), num_frames=9, size=(160, 96), format="h264")
        data = Path(clip("raw.h264")).read_bytes() + (tmp_path / "wide.h264").read_bytes()
        frames, metadata = decode_video(data)
        assert frames.shape[1:] == (96, 128, 3) and (metadata.height, metadata.width) == (96, 128)
        assert len(frames) == len(decode_video(clip("raw.h264"))[0]) + 9
        [whole] = decode_video(str(tmp_path / "wide.h264"), lambda metadata: [0])[0]
        expected = resize_frames(torch.from_numpy(whole).movedim(-1, -3)[None], 96, 128, resample=3)[0].movedim(-3, -1)
        assert np.corrcoef(frames[-9].ravel(), expected.numpy().ravel())[0, 1] > 0.95


class TestNeededFrames:
    """Frames that no other refers to are left out; those that are needed are the same as without that."""

    @pytest.fixture
    def sent(self, monkeypatch):
        """Numbers of packets given to the decoder by the last call."""
        counts = []
        choose_packets = video_decoding_vtn.VideoReader._choose_packets

        def spy(self, *args):
            counts.append(0)
            for packet in choose_packets(self, *args):
                counts[-1] += packet is not None
                yield packet

        monkeypatch.setattr(video_decoding_vtn.VideoReader, "_choose_packets", spy)
        return counts

    @pytest.mark.parametrize("name", ["bframes.mp4", "open_gop.mp4", "short_gop.mkv"])
    def test_leaves_out_frames_that_none_refers_to(self, clip, name, sent):
        indices = list(range(0, NUM_FRAMES, 7))
        frames, _ = decode_video(clip(name), lambda metadata: indices)
        np.testing.assert_array_equal(frames, decode_sequentially(clip(name))[indices])
        assert sum(sent) < 0.8 * NUM_FRAMES
        assert len(decode_video(clip(name))[0]) == NUM_FRAMES

    def test_what_is_sent_stops_with_the_last_frame(self, clip, sent):
        decode_video(clip("bframes.mp4"), lambda metadata: [0, 1, 2])
        assert sum(sent) <= 6

    @needs_real_clips
    def test_real_clip(self, sent):
        path = str(REAL_CLIPS / "arm_wrestling_k400.mp4")
        indices = list(range(80, 208, 8))
        frames, _ = decode_video(path, lambda metadata: indices)
        np.testing.assert_array_equal(frames, decode_sequentially(path)[indices])
        assert sum(sent) < 150

    def test_damaged_packet_is_not_taken_for_disposable(self, clip):
        with av.open(clip("bframes.mp4")) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        disposable = [packet for packet in packets if video_decoding_vtn._is_disposable(packet, 4)]
        assert 10 < len(disposable) < 50
        data = bytes(disposable[0])
        for damaged in (data[:-1], b"\xff" + data[1:], data + b"\0", bytes(20)):
            assert not video_decoding_vtn._is_disposable(damaged, 4)

    def test_one_opening_serves_counting_and_decoding(self, clip, monkeypatch):
        opened = []
        av_open = av.open
        monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(1) or av_open(*args, **kwargs))
        for name in ("bframes.mp4", "short_gop.mkv", "edit_list.mp4", "mpeg4.avi", "fragmented.mp4"):
            clip(name)
            del opened[:]
            decode_video(clip(name))
            assert len(opened) == 1, name


class TestLimits:
    def check(self, source, message, sample=None, **limits):
        limits = DecodeLimits(**limits)
        with pytest.raises(VideoDecodeError, match=message):
            decode_video(source, sample, limits=limits)
        with pytest.raises(VideoDecodeError, match=message):
            list(iter_video_frames(source, sample, limits=limits))

    def test_pixels(self, clip):
        self.check(clip("bframes.mp4"), "128x96 .*max_pixels=12,287", max_pixels=128 * 96 - 1)
        assert len(decode_video(clip("bframes.mp4"), limits=DecodeLimits(max_pixels=128 * 96))[0]) == NUM_FRAMES

    def test_huge_picture(self, tmp_path):
        """A file of some kilobytes that would take gigabytes: the default limit refuses it without decoding."""
        path = str(tmp_path / "huge.mkv")
        with av.open(path, "w") as container:
            stream = container.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 16000, 5000, "yuvj420p"
            # Of one colour: what a new frame holds is whatever was in memory.
            picture = np.zeros((7500, 16000), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuvj420p")))
            container.mux(stream.encode())
        assert os.path.getsize(path) < 2e6
        self.check(path, "picture of more than max_pixels=67,108,864 is refused")

    def test_picture_larger_than_the_header_says(self, clip):
        data = Path(clip("bframes.mp4")).read_bytes()
        size = (WIDTH << 16).to_bytes(4, "big") + (HEIGHT << 16).to_bytes(4, "big")
        assert size in data
        small = data.replace(size, bytes(8)).replace(
            WIDTH.to_bytes(2, "big") + HEIGHT.to_bytes(2, "big"), (16).to_bytes(2, "big") * 2
        )
        with pytest.raises(VideoDecodeError):
            decode_video(small, limits=DecodeLimits(max_pixels=1000))

    def test_duration(self, clip):
        self.check(clip("bframes.mp4"), "lasts .* max_duration_sec is 1.5", max_duration_sec=1.5)
        self.check(clip("raw.h264"), "lasts 2.0 s or more, max_duration_sec is 1.5", max_duration_sec=1.5)
        # A pause of hours between two frames.
        assert len(decode_video(clip("bframes.mp4"), limits=DecodeLimits(max_duration_sec=2.1))[0]) == NUM_FRAMES

    def test_bytes(self, clip):
        frame = WIDTH * HEIGHT * 3
        with pytest.raises(VideoDecodeError, match=f"take {60 * frame:,} bytes, max_bytes is {59 * frame:,}"):
            decode_video(clip("bframes.mp4"), limits=DecodeLimits(max_bytes=59 * frame))
        limits = DecodeLimits(max_bytes=frame)
        assert len(decode_video(clip("bframes.mp4"), lambda metadata: [3], limits=limits)[0]) == 1
        assert len(list(iter_video_frames(clip("bframes.mp4"), limits=limits))) == NUM_FRAMES

    def test_time(self, clip):
        self.check(clip("bframes.mp4"), "longer than max_decode_sec=1e-09", max_decode_sec=1e-9)
        frames = iter_video_frames(clip("mpeg4.avi"), limits=DecodeLimits(max_decode_sec=0.5))
        next(frames)
        time.sleep(0.6)
        with pytest.raises(VideoDecodeError, match="longer than max_decode_sec=0.5; .* of 60 frames decoded"):
            list(frames)


class TestOddFiles:
    @pytest.mark.parametrize("rotation", [0, 90, 180, 270])
    def test_mirrored(self, tmp_path, rotation):
        """The matrix that is written for a rotation is mirrored by hand: its column that makes x changes sign."""
        encode(str(tmp_path / "upright.mp4"), num_frames=2)
        encode(str(tmp_path / "mirrored.mp4"), num_frames=2, rotation=rotation)
        data = bytearray((tmp_path / "mirrored.mp4").read_bytes())
        matrix = data.index(b"tkhd") + 4 + 40
        for offset in (matrix, matrix + 12):
            number = int.from_bytes(data[offset : offset + 4], "big", signed=True)
            data[offset : offset + 4] = (-number).to_bytes(4, "big", signed=True)
        upright, _ = decode_video(tmp_path / "upright.mp4")
        mirrored, _ = decode_video(bytes(data))
        rotated = np.rot90(upright, rotation // 90, axes=(1, 2))
        np.testing.assert_array_equal(mirrored, rotated[:, :, ::-1])

    @pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
    def test_exif(self, picture_format, orientation):
        """Side data that PyAV has no name for do not matter, and an orientation is applied, as by ffmpeg."""
        exif = Image.Exif()
        exif[ExifTags.Base.Make] = "Camera"
        if orientation:
            exif[ExifTags.Base.Orientation] = orientation
        file = io.BytesIO()
        texture = np.arange(96 * 64 * 3, dtype=np.uint8).reshape(96, 64, 3) // 3
        Image.fromarray(texture).save(file, picture_format, exif=exif, lossless=True, quality=95)
        with av.open(io.BytesIO(file.getvalue())) as container:
            picture = next(container.decode(video=0)).to_image()
            picture.getexif()[ExifTags.Base.Orientation] = orientation or 1
        expected = np.asarray(ImageOps.exif_transpose(picture))
        frames, metadata = decode_video(file.getvalue())
        np.testing.assert_array_equal(frames, expected[None])
        assert (metadata.height, metadata.width) == expected.shape[:2]

    def test_exif_in_a_container(self, tmp_path):
        """Pictures of a camera, as they are, in an AVI."""
        exif = Image.Exif()
        exif[ExifTags.Base.Make] = "Camera"
        with av.open(str(tmp_path / "timelapse.avi"), "w") as container:
            stream = container.add_stream("mjpeg", rate=10)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
            for number in range(4):
                file = io.BytesIO()
                Image.new("RGB", (WIDTH, HEIGHT), (60 * number, 90, 90)).save(file, "JPEG", exif=exif)
                packet = av.Packet(file.getvalue())
                packet.stream, packet.pts, packet.dts = stream, number, number
                packet.time_base, packet.is_keyframe = Fraction(1, 10), True
                container.mux(packet)
        expected = decode_sequentially(str(tmp_path / "timelapse.avi"))
        np.testing.assert_array_equal(decode_video(tmp_path / "timelapse.avi")[0], expected)

    def test_interlaced(self, tmp_path):
        path = str(tmp_path / "interlaced.mp4")
        encode(path, gop=12, options={"flags": "+ildct+ilme", "x264-params": "tff=1"})
        with av.open(path) as container:
            assert next(container.decode(video=0)).interlaced_frame
        expected = decode_sequentially(path)
        np.testing.assert_array_equal(decode_video(path)[0], expected)
        np.testing.assert_array_equal(decode_video(path, lambda metadata: [3, 31, 50])[0], expected[[3, 31, 50]])

    @pytest.mark.parametrize("suffix", ["mp4", "mkv"])
    def test_negative_timestamps(self, clip, tmp_path, suffix):
        path = str(tmp_path / f"negative.{suffix}")

        def shift(packet):
            packet.pts, packet.dts = packet.pts - 200, packet.dts - 200

        remux(clip("short_gop.mp4"), path, change=shift, avoid_negative_ts="disabled")
        expected = decode_sequentially(path)
        assert len(expected) >= NUM_FRAMES - 1
        np.testing.assert_array_equal(decode_video(path)[0], expected)
        np.testing.assert_array_equal(decode_video(path, lambda metadata: [40])[0], expected[[40]])

    @pytest.mark.parametrize("name", ["short_gop.mp4", "vp9.webm", "mpeg4.avi", "raw.h264", "transport.ts"])
    def test_wrong_extension(self, clip, tmp_path, name):
        path = tmp_path / f"clip{'.mkv' if name.endswith('mp4') else '.mp4'}"
        path.write_bytes(Path(clip(name)).read_bytes())
        np.testing.assert_array_equal(decode_video(path)[0], decode_sequentially(clip(name)))

    def test_zero_duration(self, clip, tmp_path):
        """All frames at one time: they are still frames, in their order."""
        path = str(tmp_path / "still.mkv")

        def stop(packet):
            packet.pts = packet.dts = packet.duration = 0

        remux(clip("odd_size.mkv"), path, change=stop)
        frames, metadata = decode_video(path)
        assert metadata.total_num_frames == NUM_FRAMES
        np.testing.assert_array_equal(frames, decode_sequentially(clip("odd_size.mkv")))

    @pytest.mark.parametrize(
        ("name", "codec"),
        [("clip.ts", "libx264"), ("clip.webm", "libvpx"), ("vp9.webm", "libvpx-vp9")],
    )
    def test_change_of_resolution_in_a_container(self, tmp_path, name, codec, always_seek):
        """All frames get the size of the first of all, also where that is not asked for."""
        first, second = tmp_path / f"first{name}", tmp_path / f"second{name}"
        encode(str(first), codec, num_frames=20, gop=6)
        encode(str(second), codec, num_frames=20, size=(160, 112), gop=6)
        if first.suffix == ".webm":
            join([first, second], tmp_path / name)
        else:
            (tmp_path / name).write_bytes(first.read_bytes() + second.read_bytes())
        frames, metadata = decode_video(tmp_path / name)
        assert frames.shape == (40, HEIGHT, WIDTH, 3)
        assert (metadata.height, metadata.width) == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(frames[:20], decode_sequentially(str(first)))
        scaled = [
            np.asarray(Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.BICUBIC))
            for frame in decode_sequentially(str(second))
        ]
        assert np.corrcoef(frames[20:].ravel(), np.stack(scaled).ravel())[0, 1] > 0.95
        np.testing.assert_array_equal(np.stack(list(iter_video_frames(tmp_path / name))), frames)
        for indices in ([38], [30, 39], [19, 20]):
            some, metadata = decode_video(tmp_path / name, lambda metadata, indices=indices: indices)
            np.testing.assert_array_equal(some, frames[indices])
            assert (metadata.height, metadata.width) == (HEIGHT, WIDTH)

    @pytest.mark.parametrize("start_method", ["fork", "spawn"])
    def test_other_processes(self, clip, start_method):
        """Also when this process has decoded before."""
        expected = decode_video(clip("short_gop.mp4"))[0]
        context = multiprocessing.get_context(start_method)
        with context.Pool(2, initializer=sys.path.extend, initargs=(sys.path,)) as pool:
            for frames, _ in pool.map_async(decode_video, [clip("short_gop.mp4")] * 4).get(timeout=100):
                np.testing.assert_array_equal(frames, expected)

    @pytest.mark.parametrize("limits", [DecodeLimits(), DecodeLimits(max_decode_sec=60)])
    def test_nothing_is_left_to_the_garbage_collector(self, clip, limits):
        """In a forked process it would wait for the threads of a decoder for ever."""

        def count():
            return sum(type(item).__name__ in ("VideoCodecContext", "InputContainer") for item in gc.get_objects())

        gc.collect()
        before = count()
        gc.disable()
        try:
            errors = []
            for name in ("short_gop.mp4", "mpeg4.avi", "transport.ts"):
                decode_video(clip(name), limits=limits)
                next(iter_video_frames(clip(name), limits=limits))
                data = bytearray(Path(clip(name)).read_bytes())
                data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
                for source in (bytes(data), bytes(data[:5000])):
                    try:
                        decode_video(source, limits=limits)
                    except VideoDecodeError as error:
                        errors.append(error)
            assert errors
            assert count() == before
        finally:
            gc.enable()

    @pytest.mark.parametrize(
        ("name", "codec", "step", "before"),
        [("wrap.ts", "libx264", 33, 0.3), ("wrap.ts", "libx264", 5000, 80), ("wrap.vob", "mpeg2video", None, 0.3)],
    )
    def test_timestamps_of_33_bits_begin_again(self, tmp_path, name, codec, step, before):
        """These formats count 26 and a half hours; a recording goes on after that."""
        source, path = str(tmp_path / "source.mp4"), str(tmp_path / name)
        encode(source, codec, num_frames=20, pts=step and (lambda number: step * number))

        def shift(packet):
            offset = round((2**33 / 90_000 - before) / packet.time_base)
            packet.pts, packet.dts = packet.pts + offset, packet.dts + offset

        remux(source, path, change=shift, muxdelay="0", muxpreload="0")
        frames, metadata = decode_video(path)
        np.testing.assert_array_equal(frames, decode_sequentially(source))
        np.testing.assert_allclose(metadata.frame_times, np.arange(20) * (step or 1000 / 30) / 1000, atol=1e-3)
        assert not metadata.is_joined

    @pytest.mark.parametrize("empty", [0, 5, 19])
    def test_empty_sample(self, tmp_path, empty):
        """It is no frame, and the others keep their times; its bytes are behind or before those of a neighbour."""
        path = tmp_path / "clip.mov"
        encode(str(path), "mjpeg", num_frames=20, pix_fmt="yuvj420p")
        expected = np.delete(decode_sequentially(str(path)), max(empty, 1), axis=0)
        data = bytearray(path.read_bytes())
        sizes = np.frombuffer(data, ">u4", 20, offset=data.index(b"stsz") + 16)
        sizes[empty - 1 if empty else 1] += sizes[empty]
        sizes[empty] = 0
        frames, metadata = decode_video(bytes(data))
        np.testing.assert_array_equal(frames, expected)
        times = np.delete(np.arange(20), empty) / 30
        np.testing.assert_allclose(metadata.frame_times, times - times[0], atol=1e-3)


class TestStillPictures:
    """HEIC and AVIF: items in the place of tracks."""

    PICTURE = np.stack([*np.mgrid[:128, :192], np.full((128, 192), 90)], axis=-1).astype(np.uint8)

    @pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
    def test_avif(self, orientation):
        exif, file = Image.Exif(), io.BytesIO()
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(self.PICTURE).save(file, "AVIF", exif=exif, quality=95)
        frames, metadata = decode_video(file.getvalue())
        upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
        assert frames.shape == (1, *upright.shape) and metadata.total_num_frames == 1
        assert np.abs(frames[0].astype(int) - upright).mean() < 2

    def test_animated_avif(self):
        file = io.BytesIO()
        pictures = [Image.fromarray(np.roll(self.PICTURE, 20 * number, 1)) for number in range(6)]
        pictures[0].save(file, "AVIF", save_all=True, append_images=pictures[1:], duration=100, quality=95)
        frames, metadata = decode_video(file.getvalue())
        assert np.abs(frames.astype(int) - np.stack([np.asarray(each) for each in pictures])).mean() < 2
        np.testing.assert_allclose(metadata.frame_times, np.arange(6) / 10)

    def test_heic(self):
        [frame], _ = decode_video(make_heic([self.PICTURE], turn=1))
        assert np.abs(frame.astype(int) - np.rot90(self.PICTURE)).mean() < 2

    def test_heic_in_tiles(self):
        """As phones write them; a tile is not taken for the picture."""
        tiles = [part for rows in np.split(self.PICTURE, 2) for part in np.split(rows, 2, axis=1)]
        with pytest.raises(VideoDecodeError, match="a picture in tiles .* cannot be put together"):
            decode_video(make_heic(tiles, grid=self.PICTURE.shape[:2]))


def make_heic(pictures, grid=None, turn=0):
    """A HEIC file of one picture, turned anticlockwise by quarter turns, or of the four tiles of one."""

    def box(kind, *parts):
        body = b"".join(parts)
        return (8 + len(body)).to_bytes(4, "big") + kind + body

    def numbers(*values, size=2):
        return b"".join(value.to_bytes(size, "big") for value in values)

    items, headers = [], []
    for picture in pictures:
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream(
                "libx265", rate=1, options={"x265-params": "log-level=none:keyint=1", "crf": "5"}
            )
            stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
            container.mux(stream.encode())
        with av.open(io.BytesIO(file.getvalue())) as container:
            items.append(bytes(next(container.demux(video=0))))
            headers.append(container.streams.video[0].codec_context.extradata)
    height, width = pictures[0].shape[:2]
    properties = [box(b"hvcC", headers[0]), box(b"ispe", bytes(4), numbers(width, height, size=4))]
    properties += [box(b"irot", bytes([turn]))]
    used, kinds, references = [[1, 2, 3]] * len(items), [b"hvc1"] * len(items), b""
    if grid:
        items, kinds, used = [*items, bytes([0, 0, 1, 1]) + numbers(*grid[::-1])], [*kinds, b"grid"], [*used, [4]]
        properties.append(box(b"ispe", bytes(4), numbers(*grid[::-1], size=4)))
        references = box(b"iref", bytes(4), box(b"dimg", numbers(5, 4, 1, 2, 3, 4)))

    def write_meta(start):
        places, entries, associations = [], [], []
        for number, (item, kind, indices) in enumerate(zip(items, kinds, used, strict=True), 1):
            places.append(numbers(number, 0, 1) + numbers(start, len(item), size=4))
            entries.append(box(b"infe", b"\2\0\0\0", numbers(number, 0), kind, b"\0"))
            associations.append(numbers(number) + bytes([len(indices), *indices]))
            start += len(item)
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", bytes(4), numbers(len(items))),
            box(b"iloc", bytes(4), b"\x44\0", numbers(len(items)), *places),
            box(b"iinf", bytes(4), numbers(len(items)), *entries),
            references,
            box(
                b"iprp", box(b"ipco", *properties), box(b"ipma", bytes(4), numbers(len(items), size=4), *associations)
            ),
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    return head + write_meta(len(head) + len(write_meta(0)) + 8) + box(b"mdat", *items)


class TestConversion:
    def test_convert_frame(self, clip):
        frames, metadata = decode_video(
            clip("bframes.mp4"),
            lambda metadata: [5, 2, 5],
            convert_frame=lambda frame: frame[:4, :2].astype(np.float32),
        )
        assert frames.dtype == np.float32
        np.testing.assert_array_equal(frames, decode_sequentially(clip("bframes.mp4"))[[5, 2, 5], :4, :2])
        assert (metadata.height, metadata.width) == (HEIGHT, WIDTH)

    @pytest.mark.parametrize("rotation", [0, 90, 180, 270])
    def test_region_without_resizing_is_exact(self, tmp_path, rotation):
        path = tmp_path / "clip.mp4"
        encode(str(path), num_frames=3, rotation=rotation)
        whole, metadata = decode_video(path)
        assert (metadata.height, metadata.width) == whole.shape[1:3]
        seen = []

        def choose(height, width):
            seen.append((height, width))
            return Region(top=16, left=32, height=40, width=24, new_height=40, new_width=24)

        frames, metadata = decode_video(path, choose_region=choose)
        np.testing.assert_array_equal(frames, whole[:, 16:56, 32:56])
        assert set(seen) == {whole.shape[1:3]}
        assert (metadata.height, metadata.width) == whole.shape[1:3]

    def test_region_resized(self, clip):
        whole, _ = decode_video(clip("bframes.mp4"))
        frames, _ = decode_video(clip("bframes.mp4"), choose_region=lambda *size: Region(0, 0, 96, 128, 24, 32))
        assert frames.shape == (NUM_FRAMES, 24, 32, 3)
        expected = resize_frames(torch.from_numpy(whole).movedim(-1, -3), 24, 32, resample=2).movedim(-3, -1)
        # Colours have half the resolution, and are resized before they become RGB rather than after it.
        assert np.corrcoef(frames.ravel(), expected.numpy().ravel())[0, 1] > 0.9
        assert np.corrcoef(frames.ravel(), expected.numpy().ravel())[0, 1] > (
            np.corrcoef(frames.ravel(), np.roll(expected.numpy(), 1, axis=2).ravel())[0, 1] + 0.2
        )


class TestSource:
    @pytest.fixture
    def server(self, clip, monkeypatch):
        folder = os.path.dirname(clip("short_gop.mp4"))

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=folder)

            def log_message(self, *args):
                pass

        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    @pytest.mark.parametrize("kind", ["path", "bytes", "file", "unseekable"])
    def test_kinds(self, clip, kind):
        path = Path(clip("short_gop.mp4"))
        expected = decode_sequentially(str(path))
        if kind == "path":
            frames, _ = decode_video(path)
        elif kind == "bytes":
            frames, _ = decode_video(path.read_bytes())
        elif kind == "file":
            with open(path, "rb") as file:
                file.seek(100)
                frames, _ = decode_video(file)
                assert not file.closed
        else:
            file = io.BytesIO(path.read_bytes())
            file.seekable = lambda: False
            frames, _ = decode_video(file)
        np.testing.assert_array_equal(frames, expected)

    def test_name_that_looks_like_a_protocol_or_a_pattern(self, clip, tmp_path):
        path = tmp_path / "http:%03d.mp4"
        path.write_bytes(Path(clip("short_gop.mp4")).read_bytes())
        assert len(decode_video(str(path))[0]) == NUM_FRAMES

    def test_part_of_a_file(self, clip, tmp_path):
        path, content = tmp_path / "two, videos.tar", Path(clip("short_gop.mp4")).read_bytes()
        path.write_bytes(b"before" + content + b"after")
        frames, _ = decode_video(f"subfile,,start,6,end,{6 + len(content)},,:{path}")
        np.testing.assert_array_equal(frames, decode_sequentially(clip("short_gop.mp4")))
        with pytest.raises(VideoDecodeError, match="subfile,,start,0,end,9,,:missing.tar: No such file"):
            decode_video("subfile,,start,0,end,9,,:missing.tar")

    @pytest.mark.parametrize("convert", [bytearray, memoryview, np.bytes_])
    def test_bytes_of_other_kinds(self, clip, convert):
        assert len(decode_video(convert(Path(clip("short_gop.mp4")).read_bytes()))[0]) == NUM_FRAMES

    def test_home_and_file_url(self, clip, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "a clip.mp4").write_bytes(Path(clip("short_gop.mp4")).read_bytes())
        for source in ("~/a clip.mp4", (tmp_path / "a clip.mp4").as_uri(), f"file://localhost{tmp_path}/a%20clip.mp4"):
            assert len(decode_video(source)[0]) == NUM_FRAMES

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("null\0byte.mp4", "embedded null byte"),
            ("not \udcff utf8.mp4", r"not \\udcff utf8.mp4: No such file"),
            ("s3://bucket/clip.mp4", "those of http and https are opened"),
            ("subfile,,start,9,end,5,,:{clip}", "no part from 9 to 5"),
            ("subfile,,start,0,end,99999999,,:{clip}", "no part from 0 to 99,999,999"),
            ("https://", "https://: "),
        ],
    )
    def test_names_of_nothing(self, clip, source, message):
        with pytest.raises(VideoDecodeError, match=message) as error:
            decode_video(source.format(clip=clip("short_gop.mp4")))
        str(error.value).encode()

    def test_odd_files(self, clip, tmp_path):
        name = os.fsencode(tmp_path) + b"/not utf8 \xff.mp4"
        Path(os.fsdecode(name)).write_bytes(Path(clip("short_gop.mp4")).read_bytes())
        assert len(decode_video(os.fsdecode(name))[0]) == NUM_FRAMES
        (tmp_path / "dangling.mp4").symlink_to("nothing.mp4")
        with pytest.raises(VideoDecodeError, match="dangling.mp4: No such file"):
            decode_video(tmp_path / "dangling.mp4")
        with open(clip("short_gop.mp4")) as file, pytest.raises(VideoDecodeError, match="mode='rb'"):
            decode_video(file)
        with open(clip("short_gop.mp4"), "rb") as file:
            pass
        with pytest.raises(VideoDecodeError, match="closed file"):
            decode_video(file)
        for source in (None, 3, np.zeros((2, 8, 8, 3), np.uint8)):
            with pytest.raises(ValueError, match=f"got {type(source).__name__}"):
                decode_video(source)

    def test_pipe(self, clip, tmp_path):
        os.mkfifo(tmp_path / "pipe.mp4")
        data = Path(clip("short_gop.mp4")).read_bytes()
        threading.Thread(target=(tmp_path / "pipe.mp4").write_bytes, args=(data,), daemon=True).start()
        assert len(decode_video(tmp_path / "pipe.mp4")[0]) == NUM_FRAMES
        with pytest.raises(VideoDecodeError, match="pipe.mp4: it takes longer to arrive than max_decode_sec=0.3"):
            decode_video(tmp_path / "pipe.mp4", limits=DecodeLimits(max_decode_sec=0.3))

    def test_endless_pipe(self):
        source = SimpleNamespace(read=lambda size: bytes(size))
        with pytest.raises(VideoDecodeError, match="more bytes than max_file_bytes=1,000,000"):
            decode_video(source, limits=DecodeLimits(max_file_bytes=10**6))

    def test_silent_pipe(self, monkeypatch):
        silent = SimpleNamespace(read=lambda size: time.sleep(60))
        with pytest.raises(VideoDecodeError, match="nothing comes for 5 s"):
            decode_video(silent)

    def test_endings_of_downloads(self, odd_server):
        with pytest.raises(VideoDecodeError, match=r"/endless: .* max_file_bytes=100,000"):
            decode_video(f"{odd_server}/endless", limits=DecodeLimits(max_file_bytes=100_000))
        with pytest.raises(VideoDecodeError, match=r"/drip: .* longer to arrive than max_download_sec=0.5"):
            decode_video(f"{odd_server}/drip", limits=DecodeLimits(max_download_sec=0.5))
        with pytest.raises(VideoDecodeError, match=r"/drip: .* longer to arrive than max_decode_sec=0.5"):
            decode_video(f"{odd_server}/drip", limits=DecodeLimits(max_decode_sec=0.5))
        with pytest.raises(VideoDecodeError, match=r"/broken: .*503.*\(twice\)"):
            decode_video(f"{odd_server}/broken")
        with pytest.raises(VideoDecodeError, match=r"/elsewhere: .*file"):
            decode_video(f"{odd_server}/elsewhere")

    def test_second_try(self, clip, odd_server):
        assert len(decode_video(f"{odd_server}/second")[0]) == NUM_FRAMES

    @pytest.fixture
    def odd_server(self, clip, monkeypatch):
        clip_bytes = Path(clip("short_gop.mp4")).read_bytes()
        tries = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                tries.append(self.path)
                is_bad = self.path == "/broken" or (self.path == "/second" and len(tries) == 1)
                self.send_response(302 if self.path == "/elsewhere" else 503 if is_bad else 200)
                self.send_header("Location", "file:///etc/passwd")
                self.end_headers()
                with contextlib.suppress(OSError):
                    if self.path == "/second" and not is_bad:
                        self.wfile.write(clip_bytes)
                    while self.path in ("/endless", "/drip"):
                        self.wfile.write(bytes(10_000 if self.path == "/endless" else 1))
                        time.sleep(0.05 if self.path == "/drip" else 0)

            def log_message(self, *args):
                pass

        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    def test_url(self, clip, server):
        frames, _ = decode_video(f"{server}/short_gop.mp4", lambda metadata: [3, 30])
        np.testing.assert_array_equal(frames, decode_sequentially(clip("short_gop.mp4"))[[3, 30]])

    def test_url_errors(self, server):
        with pytest.raises(VideoDecodeError, match=f"{server}/missing.mp4.*404"):
            decode_video(f"{server}/missing.mp4")
        with pytest.raises(VideoDecodeError, match="https://127.0.0.1:9/clip.mp4"):
            decode_video("https://127.0.0.1:9/clip.mp4")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("missing.mp4", None),
            ("", None),  # the directory
            ("empty.mp4", b""),
            ("text.mp4", b"This is not a video. " * 100),
            ("zeros.avi", bytes(5000)),
        ],
    )
    def test_no_video(self, tmp_path, name, content):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
            with pytest.raises(VideoDecodeError, match=f"<{len(content)} bytes>"):
                decode_video(content)
        with pytest.raises(VideoDecodeError, match=re.escape(str(path))):
            decode_video(path)
        with pytest.raises(VideoDecodeError, match=re.escape(str(path))):
            next(iter_video_frames(path))

    def test_audio_alone(self, tmp_path):
        path = str(tmp_path / "audio.m4a")
        with av.open(path, "w") as container:
            stream = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        with pytest.raises(VideoDecodeError, match=r"audio\.m4a: there is no video stream"):
            decode_video(path)

    def test_unknown_codec(self, clip):
        data = Path(clip("short_gop.mp4")).read_bytes().replace(b"avc1", b"what")
        with pytest.raises(VideoDecodeError, match="no video stream that can be decoded"):
            decode_video(data)

    def test_metadata_that_is_not_unicode(self, clip):
        data = Path(clip("short_gop.mp4")).read_bytes()
        assert b"Lavf" in data
        assert len(decode_video(data.replace(b"Lavf", b"\xff\xfe\xfd\xfc"))[0]) == NUM_FRAMES

    @pytest.mark.parametrize(
        ("indices", "message"),
        [([3, NUM_FRAMES], f"frame {NUM_FRAMES} .* {NUM_FRAMES} frames"), ([-1], "frame -1 "), ([], "no frame")],
    )
    def test_bad_indices(self, clip, indices, message):
        with pytest.raises(ValueError, match=message):
            decode_video(clip("short_gop.mp4"), lambda metadata: indices)

    def test_fractional_index(self, clip):
        with pytest.raises(TypeError, match="float"):
            decode_video(clip("short_gop.mp4"), lambda metadata: [0.5])

    @pytest.mark.parametrize("error", [OSError("the disk is gone"), ValueError("negative seek value -1")])
    def test_file_object_that_fails(self, clip, error):
        class FailingFile(io.BytesIO):
            def read(self, size=-1):
                if self.tell() > 5000:
                    raise error
                return super().read(min(size, 4096))

        with pytest.raises(VideoDecodeError, match=f"bytes>: {error}"):
            decode_video(FailingFile(Path(clip("bframes.mp4")).read_bytes()))

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
    def test_no_file_is_left_open(self, clip, tmp_path):
        (tmp_path / "text.mp4").write_text("text")
        decode_video(clip("short_gop.mp4"))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            decode_video(clip("short_gop.mp4"))
            next(iter_video_frames(clip("short_gop.mp4")))
            with contextlib.suppress(ValueError):
                decode_video(clip("short_gop.mp4"), lambda metadata: [-1])
            with contextlib.suppress(ValueError):
                decode_video(tmp_path / "text.mp4")
        assert len(os.listdir("/proc/self/fd")) == before


class TestImport:
    def test_av_is_needed_only_to_decode(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(ImportError, match="pip install av"):
            decode_video(b"video")

    def test_remote_code_does_not_require_av(self):
        for module in (video_decoding_vtn, pixels_vtn):
            assert "av" not in get_imports(module.__file__)
