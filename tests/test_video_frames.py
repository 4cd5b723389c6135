"""Frames one by one, and in rounds: those of `decode_video`, in memory that does not grow."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import test_video_decoding_vtn
from test_video_decoding_vtn import HEIGHT, NUM_FRAMES, RECIPES, WIDTH, decode_sequentially, encode, remux

from vtn_hf import VideoDecodeError, video_decoding_vtn
from vtn_hf.data.video_frames import iter_frame_rounds, iter_video_frames
from vtn_hf.video_decoding_vtn import decode_video


# Its fixtures.
clip, converted, always_seek = (
    getattr(test_video_decoding_vtn, name) for name in ("clip", "converted", "always_seek")
)


class TestIteration:
    @pytest.mark.parametrize("name", ["bframes.mp4", "open_gop.mkv", "mpeg4_bframes.avi"])
    def test_same_frames(self, clip, name, always_seek):
        expected = decode_sequentially(clip(name))
        np.testing.assert_array_equal(np.stack(list(iter_video_frames(clip(name)))), expected)
        indices = [3, 20, 20, 21, 55]
        frames = list(iter_video_frames(clip(name), lambda metadata: indices))
        np.testing.assert_array_equal(np.stack(frames), expected[indices])
        assert all(frame.flags.c_contiguous for frame in frames)

    def test_one_frame_at_a_time(self, clip, converted):
        frames = iter_video_frames(clip("bframes.mp4"))
        next(frames)
        next(frames)
        assert len(converted) == 2

    @pytest.fixture(params=["short_gop.mkv", "no_bframes.mkv"])
    def headless(self, clip, tmp_path, request):
        """Begins between two key frames: the first packets are no frames."""
        remux(clip(request.param), tmp_path / "headless.mkv", skip=5)
        return str(tmp_path / "headless.mkv"), decode_sequentially(str(tmp_path / "headless.mkv"))

    def test_accepts_the_true_count_if_nothing_changes(self, headless):
        path, expected = headless
        np.testing.assert_array_equal(np.stack(list(iter_video_frames(path))), expected)
        every_third = iter_video_frames(path, lambda metadata: range(0, metadata.total_num_frames, 3))
        np.testing.assert_array_equal(np.stack(list(every_third)), expected[::3])

    def test_refuses_to_have_sampled_wrongly(self, headless):
        path, expected = headless
        frames = iter_video_frames(path, lambda metadata: np.linspace(0, metadata.total_num_frames - 1, 5).astype(int))
        with pytest.raises(VideoDecodeError, match=f"{len(expected)} frames decoded, .* {NUM_FRAMES - 5} packets"):
            list(frames)

    def test_descending_order(self, clip):
        with pytest.raises(ValueError, match=r"ascending.*\[5, 4\]"):
            list(iter_video_frames(clip("bframes.mp4"), lambda metadata: [5, 4]))


class TestRounds:
    ROUNDS = [[0, 30, 58], [10, 20, 57], list(range(1, 10))]

    @pytest.fixture
    def decoded(self, monkeypatch):
        """The frames that are decoded, asked for or not."""
        decoded, check_frame = [], video_decoding_vtn.VideoReader._check_frame

        def note_and_check(reader, *args, **kwargs):
            decoded.append(reader._file.position)
            check_frame(reader, *args, **kwargs)

        monkeypatch.setattr(video_decoding_vtn.VideoReader, "_check_frame", note_and_check)
        return decoded

    @pytest.mark.parametrize("max_kept", [0, 20, 1000])
    @pytest.mark.parametrize("name", [name for name in RECIPES if name != "one_frame.mp4"])
    def test_frames_and_numbers(self, clip, name, max_kept, always_seek, monkeypatch):
        expected = decode_sequentially(clip(name))
        monkeypatch.setattr(video_decoding_vtn, "_MAX_KEPT_PIXELS", max_kept * expected[0, ..., 0].size)
        numbers, frames = zip(*iter_frame_rounds(clip(name), lambda metadata: self.ROUNDS), strict=True)
        assert list(numbers) == [number for part in self.ROUNDS for number in part]
        np.testing.assert_array_equal(np.stack(frames), expected[list(numbers)])

    @pytest.mark.parametrize("name", ["raw.h264", "transport.ts", "mpeg4_bframes.avi", "vp8.webm", "bframes.mp4"])
    def test_what_is_on_the_way_is_decoded_once(self, clip, name, decoded):
        list(iter_frame_rounds(clip(name), lambda metadata: [[0, 30, 58], [10, 20, 57], [1, 2, 12]]))
        assert len(decoded) <= NUM_FRAMES

    def test_frames_that_nobody_asks_for_soon_are_left_out(self, clip, decoded):
        with closing(iter_frame_rounds(clip("bframes.mp4"), lambda metadata: [[0, 58], range(1, 58)])) as frames:
            for _ in range(2):
                next(frames)
            assert len(decoded) < 0.9 * NUM_FRAMES

    @pytest.mark.parametrize(
        "max_kept, expected",
        [(4, [[1, 10, 20, 57], [1], []]), (1000, [[*range(1, 7), 10, 20, 57], [*range(1, 7)], []])],
    )
    def test_no_more_is_kept_than_allowed(self, clip, max_kept, expected, monkeypatch):
        kept, read = [], video_decoding_vtn.VideoReader.read

        def read_and_look(reader, numbers, later):
            yield from read(reader, numbers, later)
            kept.append(sorted(reader._kept))

        monkeypatch.setattr(video_decoding_vtn.VideoReader, "read", read_and_look)
        height, width = decode_sequentially(clip("transport.ts")).shape[1:3]
        monkeypatch.setattr(video_decoding_vtn, "_MAX_KEPT_PIXELS", max_kept * height * width)
        list(iter_frame_rounds(clip("transport.ts"), lambda metadata: self.ROUNDS))
        assert kept == expected

    def test_frames_that_grow_are_not_kept(self, clip, tmp_path, monkeypatch):
        first, second, grown = (str(tmp_path / name) for name in ("first.ts", "second.ts", "grown.ts"))
        encode(first, num_frames=10)
        encode(second, num_frames=10, size=(2 * WIDTH, 2 * HEIGHT))
        Path(grown).write_bytes(b"".join(Path(name).read_bytes() for name in (first, second)))
        expected, _ = decode_video(grown)
        kept, to_array = [], video_decoding_vtn.VideoReader._to_array

        def look_and_convert(reader, frame):
            kept.extend(reader._kept)
            return to_array(reader, frame)

        monkeypatch.setattr(video_decoding_vtn.VideoReader, "_to_array", look_and_convert)
        for number, frame in iter_frame_rounds(grown, lambda metadata: [[0, 5, 19], [1, 2, 3, 12, 18]]):
            np.testing.assert_array_equal(frame, expected[number])
        assert {1, 2, 3} == set(kept)

    def test_counted_once(self, clip, monkeypatch):
        counted, opened = [], []
        count, open_container = video_decoding_vtn.Packets, video_decoding_vtn.VideoReader._open_container
        monkeypatch.setattr(
            video_decoding_vtn, "Packets", lambda *args, **kwargs: counted.append(1) or count(*args, **kwargs)
        )
        monkeypatch.setattr(
            video_decoding_vtn.VideoReader, "_open_container", lambda self: opened.append(1) or open_container(self)
        )
        list(iter_frame_rounds(clip("bframes.mp4"), lambda metadata: self.ROUNDS))
        assert (len(counted), len(opened)) == (1, 1)

    def test_planned_again_with_the_true_count(self, clip, tmp_path):
        remux(clip("short_gop.mkv"), tmp_path / "headless.mkv", skip=5)
        expected = decode_sequentially(str(tmp_path / "headless.mkv"))

        def plan(metadata):
            last = metadata.total_num_frames - 1
            return [[0, last // 2, last], [3, last - 2]]

        frames = dict(iter_frame_rounds(tmp_path / "headless.mkv", plan))
        last = len(expected) - 1
        assert {0, last // 2, last, 3, last - 2} <= frames.keys()
        for number, frame in frames.items():
            np.testing.assert_array_equal(frame, expected[number])

    def test_number_beyond_the_video(self, clip):
        with pytest.raises(ValueError, match=f"frame {NUM_FRAMES} "):
            list(iter_frame_rounds(clip("bframes.mp4"), lambda metadata: [[0], [NUM_FRAMES]]))
