"""The video processor against the image processor on the same frames, against PyAV, and against the original."""

import functools
import http.server
import io
import json
import pickle
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from PIL import Image
from safetensors.torch import load_file
from tiny_models import make_vit_vtn
from video_files import write_video

from vtn_hf import VideoDecodeError, VTNImageProcessor, VTNVideoProcessor
from vtn_hf.video_decoding_vtn import decode_video
from vtn_hf.video_processing_vtn import load_video


PIXELS = {"size": {"shortest_edge": 16}, "crop_size": {"height": 12, "width": 14}}
UINT8 = {"do_rescale": False, "do_normalize": False}

# Frames, frames per second, width and height as shown, and quarter turns to the left that the container asks for.
READABLE_CLIPS = {
    "arm_wrestling_k400.mp4": (280, 28, 340, 256, 0),
    "decord_video_0.mov": (3, 30, 568, 320, 0),
    "decord_video_90.mov": (3, 30, 320, 568, -1),
    "decord_video_180.mov": (3, 30, 568, 320, 2),
    "mm_det.mp4": (57, 6, 340, 256, 0),
    "mm_part.mp4": (32, 30, 340, 256, 0),
    "mm_test.avi": (164, 25, 320, 240, 0),
    "mm_test.mp4": (300, 30, 340, 256, 0),
    "ntu.avi": (103, 30, 1920, 1080, 0),
    "tc_h264_10bits.mp4": (30, 30, 200, 200, 0),
    "tc_h265_video.mp4": (10, 10, 128, 128, 0),
    # The better one of two video streams; the other one has 325 frames.
    "tc_nasa_13013.mp4": (390, 30000 / 1001, 480, 270, 0),
}


def draw_frames(num_frames=9, height=20, width=28, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def to_pil(frames):
    return [Image.fromarray(frame) for frame in frames]


def assert_same(inputs, expected):
    """Two outputs of a processor are the same, bit for bit."""
    assert list(inputs) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(inputs[name], values, rtol=0, atol=0)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """Nine frames at 10 frames per second, with a space and other characters in their name."""
    return write_video(tmp_path_factory.mktemp("videos") / "nine frames, Ü.mp4", draw_frames())


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "short.mp4", draw_frames(2, 30, 24, seed=1))


@pytest.fixture
def processor():
    return VTNVideoProcessor(num_frames=4, **PIXELS)


@pytest.fixture
def expected(processor):
    """What four of the nine frames of `clip` become."""
    frames = to_pil(draw_frames()[[0, 2, 5, 8]])
    pixel_values = VTNImageProcessor(**PIXELS)(frames, return_tensors="pt").pixel_values
    return {"pixel_values": pixel_values, "position_ids": torch.tensor([[0, 2, 5, 8]])}


KINDS = {
    "path": str,
    "pathlib": Path,
    "bytes": Path.read_bytes,
    "array": lambda clip: draw_frames(),
    "array_channels_first": lambda clip: draw_frames().transpose(0, 3, 1, 2),
    "tensor": lambda clip: torch.tensor(draw_frames()),
    "tensor_channels_first": lambda clip: torch.tensor(draw_frames()).permute(0, 3, 1, 2),
    # As of a BGR video read with OpenCV, its channels turned round.
    "view": lambda clip: draw_frames()[..., ::-1].copy()[..., ::-1],
    "pil": lambda clip: to_pil(draw_frames()),
    "list_of_arrays": lambda clip: list(draw_frames()),
    "list_of_tensors": lambda clip: list(torch.tensor(draw_frames())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_videos(processor, expected, clip, kind):
    assert_same(processor(KINDS[kind](clip), return_tensors="pt"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_videos(processor, expected, clip, kind):
    video = KINDS[kind](clip)
    inputs = processor([video, video, video], return_tensors="pt")
    assert_same(inputs, {name: torch.cat([values] * 3) for name, values in expected.items()})
    assert_same(processor([video], return_tensors="pt"), expected)


def test_batches_of_videos(processor, expected):
    twice = {name: torch.cat([values] * 2) for name, values in expected.items()}
    frames = draw_frames()
    assert_same(processor(np.stack([frames, frames]), return_tensors="pt"), twice)
    assert_same(processor(torch.tensor(np.stack([frames, frames])), return_tensors="pt"), twice)
    assert_same(processor((frames, frames), return_tensors="pt"), twice)


def test_paths_and_arrays_in_one_list(processor, expected, clip):
    twice = {name: torch.cat([values] * 2) for name, values in expected.items()}
    assert_same(processor([str(clip), clip.read_bytes()], return_tensors="pt"), twice)
    assert_same(processor([draw_frames(), to_pil(draw_frames())], return_tensors="pt"), twice)
    assert_same(processor([str(clip), draw_frames()], return_tensors="pt"), twice)
    assert_same(processor([draw_frames(), clip], return_tensors="pt"), twice)


def test_one_frame_is_a_video_of_one_frame(processor, expected):
    first = {"pixel_values": expected["pixel_values"][:, :1], "position_ids": torch.tensor([[0]])}
    assert_same(processor(draw_frames()[0], return_tensors="pt"), first)
    assert_same(processor(Image.fromarray(draw_frames()[0]), return_tensors="pt"), first)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_that_are_not_rgb(processor, mode):
    pictures = [picture.convert(mode) for picture in to_pil(draw_frames(3))]
    inputs = processor(pictures, return_tensors="pt")
    expected = VTNImageProcessor(**PIXELS)(pictures, return_tensors="pt").pixel_values
    torch.testing.assert_close(inputs.pixel_values, expected, rtol=0, atol=0)


def test_gray_becomes_rgb(processor):
    gray = draw_frames(3)[..., :1]
    inputs = processor(gray, return_tensors="pt")
    torch.testing.assert_close(
        inputs.pixel_values, processor(gray.repeat(3, axis=-1), return_tensors="pt").pixel_values, rtol=0, atol=0
    )


def test_view_played_backwards(processor):
    backwards = processor(draw_frames()[::-1], do_sample_frames=False, return_tensors="pt").pixel_values
    forwards = processor(draw_frames(), do_sample_frames=False, return_tensors="pt").pixel_values
    torch.testing.assert_close(backwards, forwards.flip(1), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["int64", "float16", "float32", "float64"])
def test_arrays_of_other_types(processor, dtype):
    pixel_values = processor(draw_frames(3).astype(dtype), return_tensors="pt").pixel_values
    assert pixel_values.dtype == torch.float32
    difference = pixel_values - processor(draw_frames(3), return_tensors="pt").pixel_values
    assert difference.abs().max() < 1.5 / 255 / 0.225


def test_short_video_gives_all_its_frames_once(clip):
    inputs = VTNVideoProcessor(**PIXELS)(clip, return_tensors="pt")
    assert inputs.position_ids.tolist() == [list(range(9))]
    assert "attention_mask" not in inputs
    expected = VTNImageProcessor(**PIXELS)(to_pil(draw_frames()), return_tensors="pt").pixel_values
    torch.testing.assert_close(inputs.pixel_values, expected, rtol=0, atol=0)


@pytest.mark.parametrize("as_arrays", [False, True])
def test_videos_of_unequal_length(processor, expected, clip, short_clip, as_arrays):
    videos = [draw_frames(2, 30, 24, seed=1), draw_frames()] if as_arrays else [short_clip, clip]
    inputs = processor(videos, return_tensors="pt")
    assert inputs.position_ids.tolist() == [[0, 1, 0, 0], [0, 2, 5, 8]]
    assert inputs.attention_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert inputs.attention_mask.dtype == torch.int64
    alone = processor(videos[0], return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(inputs.pixel_values[0, :2], alone, rtol=0, atol=0)
    assert (inputs.pixel_values[0, 2:] == 0).all()
    torch.testing.assert_close(inputs.pixel_values[1], expected["pixel_values"][0], rtol=0, atol=0)


SAMPLINGS = [
    ({}, [0, 2, 5, 8]),
    ({"num_frames": 1}, [0]),
    ({"num_frames": 2}, [0, 8]),
    ({"num_frames": 8}, [0, 1, 2, 3, 4, 5, 6, 8]),
    ({"num_frames": 9}, list(range(9))),
    ({"num_frames": 250}, list(range(9))),
    # 0.9 seconds at 5 frames per second: 4.5, to the nearest even number.
    ({"fps": 5}, [0, 2, 5, 8]),
    ({"fps": 3.0}, [0, 4, 8]),
    ({"fps": 100, "num_frames": 3}, [0, 4, 8]),
    ({"fps": 0.01}, [0]),
    ({"do_sample_frames": False}, list(range(9))),
    ({"do_sample_frames": False, "num_frames": 2}, list(range(9))),
    # 0.2 seconds at 10 frames per second, as 5 frames.
    ({"frame_sampling": "pyslowfast", "num_frames": 5}, [0, 0, 0, 0, 1]),
    # 0.8 seconds, all but one frame.
    ({"frame_sampling": "pyslowfast", "num_frames": 20}, [n * 7 // 19 for n in range(20)]),
]
ALL_FRAMES = [({"num_frames": None}, list(range(9))), ({"num_frames": None, "fps": 100}, list(range(9)))]


@pytest.mark.parametrize(("arguments", "position_ids"), SAMPLINGS + ALL_FRAMES)
def test_sampling_in_a_call(processor, clip, arguments, position_ids):
    inputs = processor(clip, return_tensors="pt", **arguments)
    assert inputs.position_ids.tolist() == [position_ids]
    expected = VTNImageProcessor(**PIXELS)(draw_frames()[position_ids], return_tensors="pt").pixel_values
    torch.testing.assert_close(inputs.pixel_values, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("arguments", "position_ids"), SAMPLINGS)
def test_sampling_of_the_class(clip, arguments, position_ids):
    inputs = VTNVideoProcessor(**{"num_frames": 4, **arguments})(clip, return_tensors="pt", **PIXELS)
    assert inputs.position_ids.tolist() == [position_ids]


def test_frame_rate_of_an_array(processor):
    metadata = {"total_num_frames": 9, "fps": 3}
    inputs = processor(draw_frames(), video_metadata=metadata, fps=1, return_tensors="pt")
    assert inputs.position_ids.tolist() == [[0, 4, 8]]
    inputs = processor([draw_frames()] * 2, video_metadata=[metadata, {**metadata, "fps": 9}], fps=2, num_frames=9)
    assert [ids.tolist() for ids in inputs.position_ids] == [[0, 1, 3, 4, 6, 8], [0, 8, 0, 0, 0, 0]]
    inputs = processor(
        draw_frames(), video_metadata=metadata, frame_sampling="pyslowfast", num_frames=25, return_tensors="pt"
    )
    assert inputs.position_ids.tolist() == [[n * 2 // 24 for n in range(25)]]


def test_position_ids_of_frames_that_were_sampled_before(processor):
    metadata = {"total_num_frames": 300, "fps": 25, "frames_indices": [7, 90, 91]}
    inputs = processor(draw_frames(3), video_metadata=metadata, do_sample_frames=False, return_tensors="pt")
    assert inputs.position_ids.tolist() == [[7, 90, 91]]


def test_metadata(processor, expected, clip, short_clip):
    inputs = processor(clip, return_metadata=True, return_tensors="pt")
    metadata = inputs.pop("video_metadata")
    assert_same(inputs, expected)
    assert len(metadata) == 1
    assert (metadata[0].total_num_frames, metadata[0].fps, metadata[0].duration) == (9, 10, 0.9)
    assert (metadata[0].width, metadata[0].height) == (28, 20)
    assert list(metadata[0].frames_indices) == [0, 2, 5, 8]
    metadata = processor([clip, short_clip], return_metadata=True).video_metadata
    assert [video.total_num_frames for video in metadata] == [9, 2]
    metadata = processor(draw_frames(), return_metadata=True).video_metadata
    assert (metadata[0].total_num_frames, metadata[0].fps) == (9, None)
    assert list(metadata[0].frames_indices) == [0, 2, 5, 8]
    assert "video_metadata" not in processor(clip)


@pytest.mark.parametrize("tensor_type", [None, "np", "pt"])
def test_tensor_types(processor, clip, short_clip, tensor_type):
    expected = processor([clip, short_clip], return_tensors="pt")
    inputs = processor([clip, short_clip], return_tensors=tensor_type)
    assert list(inputs) == ["pixel_values", "position_ids", "attention_mask"]
    for name, values in expected.items():
        assert isinstance(inputs[name], {None: list, "np": np.ndarray, "pt": torch.Tensor}[tensor_type])
        assert np.array_equal(np.stack([np.asarray(video) for video in inputs[name]]), values.numpy())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resample": 3, "size": {"height": 15, "width": 17}},
        {"do_resize": False, "image_mean": [0.1, 0.2, 0.3], "image_std": 0.7},
        {"do_center_crop": False, "do_rescale": False},
        {"do_normalize": False, "rescale_factor": 0.5},
        {"pixel_protocol": "pyslowfast"},
    ],
)
def test_pixels_are_those_of_the_image_processor(clip, settings):
    settings = {**PIXELS, **settings}
    expected = VTNImageProcessor(**settings)(to_pil(draw_frames()), return_tensors="pt").pixel_values
    at_construction, at_call = VTNVideoProcessor(**settings), VTNVideoProcessor()
    for pixel_values in (
        at_construction(clip, return_tensors="pt").pixel_values,
        at_call(clip, return_tensors="pt", **settings).pixel_values,
        at_construction.to_image_processor()(to_pil(draw_frames()), return_tensors="pt").pixel_values,
    ):
        torch.testing.assert_close(pixel_values, expected, rtol=0, atol=0)


def test_default_settings_are_those_of_the_image_processor():
    video, image = VTNVideoProcessor(), VTNImageProcessor()
    for name in image.to_dict().keys() - {"image_processor_type"}:
        assert getattr(video, name) == getattr(image, name) == getattr(video.to_image_processor(), name)
    assert (video.num_frames, video.do_sample_frames, video.frame_sampling) == (250, True, "uniform")


def decode_with_pyav(path, indices, num_quarter_turns):
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "AUTO"
        frames = {
            n: frame.to_ndarray(format="rgb24") for n, frame in enumerate(container.decode(stream)) if n in indices
        }
    return [np.rot90(frames[index], num_quarter_turns).copy() for index in indices]


@pytest.mark.parametrize("name", READABLE_CLIPS)
def test_real_clips(videos_dir, name):
    total, fps, width, height, num_quarter_turns = READABLE_CLIPS[name]
    inputs = VTNVideoProcessor(num_frames=4)(videos_dir / name, return_metadata=True, return_tensors="pt")
    positions = [0, 1, 2] if total == 3 else [n * (total - 1) // 3 for n in range(4)]
    assert inputs.position_ids.tolist() == [positions]
    metadata = inputs.video_metadata[0]
    assert (metadata.total_num_frames, metadata.width, metadata.height) == (total, width, height)
    assert metadata.fps == pytest.approx(fps)
    assert metadata.duration == pytest.approx(total / fps)
    frames = decode_with_pyav(videos_dir / name, positions, num_quarter_turns)
    assert frames[0].shape == (height, width, 3)
    expected = VTNImageProcessor()(frames, return_tensors="pt").pixel_values
    assert inputs.pixel_values.shape == (1, len(positions), 3, 224, 224)
    torch.testing.assert_close(inputs.pixel_values, expected, rtol=0, atol=0)
    assert inputs.pixel_values.std() > 0.1


@pytest.mark.parametrize("name", ["arm_wrestling_k400.mp4", "mm_test.mp4", "mm_part.mp4"])
def test_pyslowfast_equals_the_original(videos_dir, reference_dir, name):
    reference = load_file(reference_dir / "preprocess.safetensors")
    keys = ("frame_index", "pixel_values_every_97th", "kept", "mean_per_frame")
    expected = {key: reference[f"{name}.{key}"] for key in keys}
    processor = VTNVideoProcessor(frame_sampling="pyslowfast", pixel_protocol="pyslowfast")
    inputs = processor(videos_dir / name, return_tensors="pt")
    assert inputs.position_ids[0].tolist() == expected["frame_index"].tolist()
    kept = inputs.pixel_values[0, expected["kept"]].flatten()[::97]
    torch.testing.assert_close(kept, expected["pixel_values_every_97th"].float(), rtol=0, atol=2e-3)
    means = inputs.pixel_values[0].mean(dim=(1, 2, 3))
    torch.testing.assert_close(means, expected["mean_per_frame"], rtol=0, atol=1e-4)


@pytest.fixture
def server(clip, monkeypatch):
    """The address under which the folder of `clip` is served."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(Handler, directory=clip.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_url(processor, expected, clip, server):
    url = f"{server}/nine%20frames,%20%C3%9C.mp4"
    assert_same(processor(url, return_tensors="pt"), expected)
    twice = {name: torch.cat([values] * 2) for name, values in expected.items()}
    assert_same(processor([url, str(clip)], return_tensors="pt"), twice)


def test_url_that_is_not_there(processor, server):
    with pytest.raises(VideoDecodeError, match=rf"{server}/nothing\.mp4.*404"):
        processor(f"{server}/nothing.mp4")


def test_damaged_file(processor, videos_dir, clip):
    path = videos_dir / "decord_corrupted.mp4"
    with pytest.raises(VideoDecodeError, match=r"decord_corrupted\.mp4: .*28 of 50 frames decoded"):
        processor(path, num_frames=250)
    with pytest.raises(VideoDecodeError, match=r"decord_corrupted\.mp4"):
        processor([clip, path])


def test_text_file_named_mp4(processor, tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("This is no video.\n" * 100)
    for video in (path, str(path), [str(path)]):
        with pytest.raises(VideoDecodeError, match=rf"{path}: Invalid data found when processing input"):
            processor(video)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/clip.mp4", "/nowhere/clip.mp4: No such file or directory"),
        (Path("/nowhere/clip.mp4"), "/nowhere/clip.mp4: No such file or directory"),
        (b"", "<0 bytes>: there is nothing in it"),
        (b"This is no video.", "<17 bytes>: "),
        ("/", "/: Is a directory"),
    ],
)
def test_nothing_to_decode(processor, source, message):
    with pytest.raises(VideoDecodeError, match=message):
        processor(source)
    with pytest.raises(VideoDecodeError, match=message):
        processor([source])


@pytest.mark.parametrize(
    "videos", [[], (), [[]], draw_frames(0), torch.tensor(draw_frames(0)), [draw_frames(2), draw_frames(0)]]
)
def test_no_frames(processor, videos):
    with pytest.raises(ValueError, match="at least one frame, got"):
        processor(videos)


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (None, "Invalid video input"),
        (5, "Invalid video input"),
        (np.zeros((2, 8, 9, 5), dtype=np.uint8), "channel"),
        (np.zeros((2, 8), dtype=np.uint8), "Invalid video input|channels"),
        ([draw_frames(1), draw_frames(1, 30, 40)], r"one picture size.*\(3, 20, 28\), \(3, 30, 40\)"),
    ],
)
def test_wrong_videos(videos, message):
    with pytest.raises(ValueError, match=message):
        VTNVideoProcessor(do_resize=False, do_center_crop=False)(videos)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be positive, got 0"),
        ({"num_frames": -4}, "`num_frames` must be positive, got -4"),
        ({"num_frames": 2.5}, r"(?s)num_frames.*2\.5"),
        ({"fps": 0}, "`fps` must be positive, got 0"),
        ({"fps": -2.0}, "`fps` must be positive, got -2"),
        ({"frame_sampling": "random"}, "`frame_sampling` must be one of.*got 'random'"),
        ({"pixel_protocol": "random"}, "`pixel_protocol` must be one of.*got 'random'"),
        ({"resample": 9}, "`resample` must be one of.*got 9"),
        ({"size": {"longest_edge": 8}}, "`size` must have the key.*8"),
        ({"image_mean": [0.1, 0.2]}, "`image_mean` has 2 entries for frames of 3 channels"),
    ],
)
def test_wrong_settings(processor, clip, settings, message):
    # Transformers checks the types of the arguments of a call, with an error of its own.
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match=message):
        processor(clip, **settings)


@pytest.mark.parametrize("settings", [{"fps": 2}, {"frame_sampling": "pyslowfast"}])
def test_array_does_not_tell_its_frame_rate(processor, settings):
    with pytest.raises(ValueError, match="needs the frame rate.*pass `video_metadata`"):
        processor(draw_frames(), **settings)


def test_metadata_of_another_video(processor):
    with pytest.raises(ValueError, match="90.*9|9.*90"):
        processor(draw_frames(), video_metadata={"total_num_frames": 90, "fps": 3})


IMPOSSIBLE = [
    ({"num_frames": 0}, "`num_frames` must be positive, got 0"),
    ({"num_frames": -1}, "`num_frames` must be positive, got -1"),
    ({"num_frames": "8"}, "num_frames.*8"),
    ({"num_frames": True}, "num_frames.*True"),
    ({"fps": float("nan")}, "`fps` must be positive, got nan"),
    ({"fps": float("inf")}, "`fps` must be positive, got inf"),
    ({"frame_sampling": "random"}, "`frame_sampling` must be one of.*got 'random'"),
    ({"decode_limits": {"max_pixel": 1}}, "max_pixel"),
    ({"size": {"longest_edge": 8}}, "`size` must have the key.*longest_edge.*8"),
    ({"size": {"shortest_edge": 8, "longest_edge": 9}}, "`size` must have the key.*9"),
    ({"size": {"shortest_edge": 0}}, "`size` must have the key.*from 1 on, got.*0"),
    ({"size": -3}, "`size` must have the key.*-3"),
    ({"crop_size": 0}, "`crop_size` must have the keys.*from 1 on, got.*0"),
    ({"crop_size": -8}, "`crop_size` must have the keys.*-8"),
    ({"crop_size": {"shortest_edge": 3}}, "`crop_size` must have the keys.*3"),
    ({"pixel_protocol": "random"}, "`pixel_protocol` must be one of.*got 'random'"),
    ({"resample": 1}, "`resample` must be one of.*got 1"),
    ({"image_std": 0.0}, "`image_std` must be positive, got 0.0"),
    ({"image_std": [0.2, 0.2, -1.0]}, "`image_std` must be positive"),
    ({"crop_size": {"height": 8.5, "width": 8}}, "height"),
    (
        {"decode_limits": {"max_pixel": 8}},
        "`decode_limits` must be a dictionary, keys .*'max_pixel'",
    ),
    ({"image_std": float("nan")}, "`image_std` must be a number, or one per channel, got nan"),
    ({"image_mean": [0.1] * 4}, "`image_mean` has 4 entries for frames of 3 channels"),
    ({"rescale_factor": 0.0}, "`rescale_factor` must be a number other than 0, got 0.0"),
]


@pytest.mark.parametrize(("settings", "message"), IMPOSSIBLE)
def test_impossible_settings_are_refused_when_made(processor, clip, settings, message):
    errors = (ValueError, TypeError, StrictDataclassFieldValidationError)
    with pytest.raises(errors, match=f"(?s){message}"):
        VTNVideoProcessor(**settings)
    with pytest.raises(errors, match=f"(?s){message}"):
        processor(clip, **settings)


def test_misspelt_settings(caplog):
    with pytest.raises(ValueError, match=r"VTNVideoProcessor has no settings \['num_frame'\]; it has .*'num_frames'"):
        VTNVideoProcessor(num_frame=3)
    # What a later version has saved can be loaded.
    settings = VTNVideoProcessor(num_frames=3).to_dict() | {"new_setting": 1}
    assert VTNVideoProcessor.from_dict(settings).num_frames == 3


def test_floats_of_another_scale(processor):
    """Are not rescaled a second time in silence."""
    frames = draw_frames(4)
    floats = (frames / 255).astype(np.float32)
    for video in (floats, torch.tensor(floats), list(floats), [floats, floats], floats.transpose(0, 3, 1, 2)):
        with pytest.raises(ValueError, match=r"to be rescaled, but these are in \[0, 1\].*do_rescale=False"):
            processor(video)
    expected = processor(frames, return_tensors="pt").pixel_values
    for video in (floats, floats.astype(np.float64), torch.tensor(floats)):
        pixel_values = processor(video, do_rescale=False, return_tensors="pt").pixel_values
        assert (pixel_values - expected).abs().max() < 1.5 / 255 / 0.225
    with pytest.raises(ValueError, match=r"in \[-2, 2.44444\]"):
        processor((floats - 0.45) / 0.225)
    with pytest.raises(ValueError, match=r"in \[0, 1020\]"):
        processor(frames.astype(np.uint16) * 4)
    with pytest.raises(ValueError, match=r"in \[nan, nan\]"):
        processor(np.full_like(floats, np.nan))
    # Dark frames are no frames in [0, 1].
    dark = frames.astype(np.float32) * np.array([0.001, 1, 1, 1])[:, None, None, None]
    processor(dark)
    processor(list(dark))
    processor(np.zeros_like(floats))


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint16", "uint32", "float16", "float64"])
def test_numbers_of_any_type(processor, dtype):
    expected = processor(draw_frames(4), return_tensors="pt").pixel_values
    for video in (draw_frames(4).astype(dtype), torch.tensor(draw_frames(4).astype(dtype))):
        pixel_values = processor(video, return_tensors="pt").pixel_values
        assert (pixel_values - expected).abs().max() < 1.5 / 255 / 0.225


@pytest.mark.parametrize("dtype", ["bool", "complex64", "object"])
def test_numbers_that_are_no_pixels(processor, dtype):
    with pytest.raises(ValueError, match=f"integers or floats, got {dtype}"):
        processor(draw_frames(4).astype(dtype))


def test_files_that_are_open(processor, expected, clip):
    with open(clip, "rb") as file:
        for source in (file, io.BytesIO(clip.read_bytes())):
            source.read(10)
            assert_same(processor(source, return_tensors="pt"), expected)
            assert_same(processor([source], return_tensors="pt"), expected)


def test_frames_of_several_sizes(processor):
    pictures = to_pil(draw_frames(2)) + to_pil(draw_frames(2, 30, 24))
    pixel_values = processor(pictures, return_tensors="pt").pixel_values
    expected = [VTNImageProcessor(**PIXELS)(picture, return_tensors="pt").pixel_values for picture in pictures]
    assert torch.equal(pixel_values, torch.cat(expected, dim=1))


def test_unknown_argument(processor, clip):
    with pytest.raises(TypeError, match="frame_sampling_rate"):
        processor(clip, frame_sampling_rate=3)


SETTINGS = {
    "num_frames": 5,
    "fps": 7,
    "frame_sampling": "pyslowfast",
    "pixel_protocol": "pyslowfast",
    "size": {"shortest_edge": 18},
    "crop_size": {"height": 10, "width": 12},
    "resample": 3,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": 0.5,
    "do_rescale": False,
}


def test_save_and_load(tmp_path, clip):
    processor = VTNVideoProcessor(**SETTINGS)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert saved["video_processor_type"] == "VTNVideoProcessor"
    assert {name: saved[name] for name in SETTINGS} == SETTINGS
    loaded = VTNVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert_same(loaded(clip, return_tensors="pt"), processor(clip, return_tensors="pt"))
    assert VTNVideoProcessor.from_pretrained(tmp_path, num_frames=3).num_frames == 3


def test_pickling(clip):
    processor = VTNVideoProcessor(**SETTINGS)
    loaded = pickle.loads(pickle.dumps(processor))
    assert loaded.to_dict() == processor.to_dict()
    assert_same(loaded(clip, return_tensors="pt"), processor(clip, return_tensors="pt"))


def test_settings_of_a_backbone(tmp_path):
    config = {
        "size": {"shortest_edge": 32},
        "crop_pct": 0.8,
        "resample": 3,
        "image_mean": [0.1] * 3,
        "image_std": [2] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    processor = VTNVideoProcessor.from_backbone_pretrained(tmp_path, num_frames=3)
    assert (dict(processor.size), processor.num_frames, processor.resample) == ({"shortest_edge": 40}, 3, 3)
    expected = VTNImageProcessor.from_backbone_pretrained(tmp_path)
    for name in expected.to_dict().keys() - {"image_processor_type"}:
        assert getattr(processor, name) == getattr(expected, name)


@pytest.mark.parametrize("protocol", ["transformers", "pyslowfast"])
def test_videos_are_left_as_they_were(processor, protocol):
    frames = draw_frames()
    channels_first = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
    for array in (frames, frames.astype(np.float32), channels_first, channels_first.astype(np.float32)):
        for video in (array.copy(), torch.tensor(array)):
            processor(video, pixel_protocol=protocol)
            processor(video, pixel_protocol=protocol, do_resize=False, do_center_crop=False, do_sample_frames=False)
            assert np.array_equal(video, array)


def test_frames_chosen_by_the_caller(processor, clip):
    pixel_values, metadata = load_video(clip, lambda metadata: [7, 2], processor.pixel_settings)
    every = processor(clip, do_sample_frames=False, return_tensors="pt").pixel_values[0]
    assert torch.equal(pixel_values, every[[7, 2]])
    assert metadata.frames_indices == [7, 2]
    assert metadata.timestamps == [0.7, 0.2]


def assert_only_a_part_is_converted(path, **settings):
    """Of each frame, and the pixels are those of whole frames, resized and cropped."""
    processor = VTNVideoProcessor(num_frames=2, **settings, **UINT8)
    frames, _ = decode_video(path, lambda metadata: processor.sample_frames(metadata, 2))
    assert torch.equal(
        processor(str(path), return_tensors="pt").pixel_values,
        processor(frames, do_sample_frames=False, return_tensors="pt").pixel_values,
    )


@pytest.mark.parametrize(
    "name",
    ["ntu.avi", "arm_wrestling_k400.mp4", "tc_nasa_13013.mp4", "tc_h264_10bits.mp4", "decord_video_90.mov"],
)
@pytest.mark.parametrize("settings", [{}, {"size": 300}, {"do_resize": False, "crop_size": 96}, {"resample": 3}])
def test_a_part_of_real_frames(videos_dir, name, settings):
    assert_only_a_part_is_converted(videos_dir / name, **settings)


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [("libx264", name) for name in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p")]
    + [("ffv1", name) for name in ("yuv411p", "yuv410p", "gray16le")]
    + [("png", name) for name in ("rgb24", "monob")],
)
def test_a_part_of_frames_of_any_format(tmp_path, codec, pixel_format):
    picture = np.random.default_rng(0).integers(256, size=(45, 80, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    path = tmp_path / ("clip.mkv" if codec == "ffv1" else "clip.mov")
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pixel_format
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert_only_a_part_is_converted(path, size={"height": 90, "width": 160}, crop_size=64)


@pytest.mark.parametrize(
    "settings", [{}, {"do_center_crop": False}, {"size": 8}, {"size": {"height": 9, "width": 30}}]
)
def test_libswscale_gives_pictures_of_the_same_size(clip, settings):
    exact = VTNVideoProcessor(num_frames=6, **{"size": 15, "crop_size": 12, **settings})
    fast = VTNVideoProcessor(**{**exact.to_dict(), "pixel_protocol": "libswscale"})
    assert fast(clip, return_tensors="pt").pixel_values.shape == exact(clip, return_tensors="pt").pixel_values.shape
    # Frames that are decoded already are resized exactly.
    frames = decode_video(clip)[0]
    assert torch.equal(fast(frames, return_tensors="pt").pixel_values, exact(frames, return_tensors="pt").pixel_values)


@pytest.mark.parametrize(
    ("name", "side", "difference"),
    [("arm_wrestling_k400.mp4", 256, 0), ("arm_wrestling_k400.mp4", 224, 4), ("ntu.avi", 256, 2)],
)
def test_libswscale_is_close(videos_dir, name, side, difference):
    """Mean difference in steps of 255; where nothing is resized, there is none."""
    exact = VTNVideoProcessor(num_frames=3, size=side, **UINT8)
    fast = VTNVideoProcessor(num_frames=3, size=side, pixel_protocol="libswscale", **UINT8)
    path = str(videos_dir / name)
    pixels = [each(path, return_tensors="pt").pixel_values.float() for each in (exact, fast)]
    assert (pixels[0] - pixels[1]).abs().mean() <= difference


def test_decode_limits(clip, tmp_path):
    processor = VTNVideoProcessor(decode_limits={"max_pixels": 10})
    processor.save_pretrained(tmp_path)
    for each in (processor, VTNVideoProcessor.from_pretrained(tmp_path)):
        with pytest.raises(VideoDecodeError, match="max_pixels=10"):
            each(clip)
        each(clip, decode_limits={"max_pixels": 10**6})


def test_limits_of_a_batch(clip):
    processor = VTNVideoProcessor(num_frames=4, size=16, crop_size=12)
    num_bytes = 3 * 4 * 3 * 12 * 12 * 4
    processor([clip] * 3, decode_limits={"max_bytes": num_bytes})
    with pytest.raises(VideoDecodeError, match=f"3 videos.* take {num_bytes:,} bytes or more, max_bytes is"):
        processor([clip] * 3, decode_limits={"max_bytes": num_bytes - 1})
    # Which counts a short video as long as the longest.
    with pytest.raises(VideoDecodeError, match="3 videos"):
        processor([draw_frames(1), clip, draw_frames(1)], decode_limits={"max_bytes": num_bytes - 1})


def test_limits_hold_where_frames_are_fetched(clip):
    with pytest.raises(VideoDecodeError, match="max_pixels=10"):
        VTNVideoProcessor(decode_limits={"max_pixels": 10}).fetch_videos([str(clip)])


def test_number_of_frames_is_the_models(tmp_path, caplog):
    make_vit_vtn(num_frames=12).save_pretrained(tmp_path)
    VTNVideoProcessor(num_frames=12).save_pretrained(tmp_path)
    assert not caplog.records
    assert VTNVideoProcessor.from_pretrained(tmp_path).num_frames == 12
    processor = VTNVideoProcessor(num_frames=7)
    processor.save_pretrained(tmp_path)
    assert "num_frames=7 gives way to num_frames=12" in caplog.text
    assert json.loads((tmp_path / "video_preprocessor_config.json").read_text())["num_frames"] == 12
    assert processor.num_frames == 7
    assert VTNVideoProcessor.from_pretrained(tmp_path, num_frames=3).num_frames == 3
    make_vit_vtn(num_frames=20).save_pretrained(tmp_path)
    assert VTNVideoProcessor.from_pretrained(tmp_path).num_frames == 20


# Thirty frames in the first second, then one per second.
UNEVEN = [number / 30 for number in range(30)] + list(range(1, 30))


@pytest.fixture(scope="session")
def uneven_clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "uneven.mp4", draw_frames(59), times=UNEVEN)


@pytest.mark.parametrize(("fps", "times"), [(1, range(30)), (0.5, np.linspace(0, 29, 15)), (4, None)])
def test_fps_goes_by_timestamps(uneven_clip, fps, times):
    inputs = VTNVideoProcessor(**PIXELS)(uneven_clip, fps=fps, return_metadata=True, return_tensors="pt")
    [metadata] = inputs["video_metadata"]
    taken = np.array(UNEVEN)[inputs["position_ids"][0]]
    np.testing.assert_allclose(metadata.timestamps, taken, atol=1e-3)
    if times is not None:
        expected = [min(UNEVEN, key=lambda time, wanted=wanted: abs(time - wanted)) for wanted in times]
        assert taken.tolist() == expected
    else:
        assert (taken < 1).sum() == 4 and (taken[4:] == range(1, 30)).all()
