"""Pixels are compared with numbers worked out by hand, with torchvision, and with those of the original."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor
from transformers.utils import is_torchvision_available
from video_files import read_original_frame

from vtn_hf import VTNImageProcessor


needs_torchvision = pytest.mark.skipif(not is_torchvision_available(), reason="compares with torchvision")

GRAY_LEVEL = 1 / 255 / 0.225  # of a normalised pixel


def draw_frames(num_frames=3, height=36, width=50, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


@pytest.fixture
def frames():
    return draw_frames()


@pytest.fixture
def processor():
    return VTNImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 20, "width": 20})


@pytest.fixture
def unchanged():
    """A processor that leaves pixels as they are."""
    return VTNImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)


def to_pil(frames):
    return [Image.fromarray(frame) for frame in frames]


KINDS = {
    "pil": to_pil,
    "numpy": list,
    "torch": lambda frames: list(torch.tensor(frames)),
    "numpy_channels_first": lambda frames: list(frames.transpose(0, 3, 1, 2)),
    "torch_channels_first": lambda frames: list(torch.tensor(frames).permute(0, 3, 1, 2)),
    "tuple": tuple,
    "array": lambda frames: frames,
    "array_channels_first": lambda frames: frames.transpose(0, 3, 1, 2),
    "tensor": torch.tensor,
    # As of BGR frames read with OpenCV, their channels turned round.
    "views": lambda frames: [frame[..., ::-1].copy()[..., ::-1] for frame in frames],
    "read_only": lambda frames: [np.asarray(frame) for frame in to_pil(frames)],
    "mixture": lambda frames: [Image.fromarray(frames[0]), frames[1].transpose(2, 0, 1), torch.tensor(frames[2])],
    "list_of_one_video": lambda frames: [to_pil(frames)],
    "rgba": lambda frames: [image.convert("RGBA") for image in to_pil(frames)],
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_frames(unchanged, frames, kind):
    inputs = unchanged(KINDS[kind](frames), return_tensors="pt")
    assert list(inputs) == ["pixel_values"]
    assert inputs.pixel_values.dtype == torch.uint8
    assert inputs.pixel_values.tolist() == frames.transpose(0, 3, 1, 2)[None].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_frames_give_the_same_pixels(processor, frames, kind):
    inputs = processor(KINDS[kind](frames), return_tensors="pt")
    torch.testing.assert_close(
        inputs.pixel_values, processor(frames, return_tensors="pt").pixel_values, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "to_gray",
    [
        lambda gray: [Image.fromarray(frame[..., 0]) for frame in gray],
        list,
        lambda gray: list(gray.transpose(0, 3, 1, 2)),
        lambda gray: list(torch.tensor(gray)),
        lambda gray: gray,
    ],
)
def test_gray_becomes_rgb(unchanged, frames, to_gray):
    gray = frames[..., :1]
    pixel_values = unchanged(to_gray(gray), return_tensors="pt").pixel_values
    assert pixel_values.tolist() == gray.repeat(3, axis=-1).transpose(0, 3, 1, 2)[None].tolist()


@pytest.mark.parametrize(
    "make_frame",
    [Image.fromarray, np.asarray, lambda frame: frame.transpose(2, 0, 1), torch.tensor],
    ids=["pil", "numpy", "numpy_channels_first", "torch"],
)
def test_transparent_becomes_white(unchanged, make_frame):
    frame = np.full((6, 8, 4), 40, dtype=np.uint8)
    frame[:2, :, 3], frame[2:4, :, 3], frame[4:, :, 3] = 0, 255, 51
    rows = unchanged(make_frame(frame), return_tensors="pt").pixel_values[0, 0, :, :, 0].T
    # A fifth of 40 over four fifths of 255.
    assert rows.tolist() == [[255] * 3] * 2 + [[40] * 3] * 2 + [[212] * 3] * 2


def test_transparency_of_float_frames(unchanged):
    frame = np.full((6, 8, 4), 0.5, dtype=np.float32)
    assert (unchanged(frame, return_tensors="pt").pixel_values == 0.75).all()
    with pytest.raises(ValueError, match=r"\[0, 1\], got 128"):
        unchanged(frame * 256)


def test_one_frame_is_a_video_of_one_frame(unchanged, frames):
    for frame in (frames[0], Image.fromarray(frames[0]), torch.tensor(frames[0])):
        pixel_values = unchanged(frame, return_tensors="pt").pixel_values
        assert pixel_values.tolist() == frames[:1].transpose(0, 3, 1, 2)[None].tolist()


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint16", "float16", "float32", "float64"])
def test_frames_of_other_types(processor, frames, dtype):
    pixel_values = processor(list(frames.astype(dtype)), return_tensors="pt").pixel_values
    assert pixel_values.dtype == torch.float32
    # Resized without the rounding of bytes.
    difference = pixel_values - processor(list(frames), return_tensors="pt").pixel_values
    assert difference.abs().max() < 1.5 * GRAY_LEVEL
    assert difference.mean().abs() < 0.05 * GRAY_LEVEL


def test_frames_between_zero_and_one(processor, frames):
    pixel_values = processor(
        list((frames / 255).astype(np.float32)), do_rescale=False, return_tensors="pt"
    ).pixel_values
    difference = pixel_values - processor(list(frames), return_tensors="pt").pixel_values
    assert difference.abs().max() < 1.5 * GRAY_LEVEL
    assert difference.mean().abs() < 0.05 * GRAY_LEVEL


def test_frames_are_left_as_they_were(processor, frames):
    before = frames.copy()
    for protocol in ("transformers", "pyslowfast"):
        processor(list(frames), pixel_protocol=protocol)
        tensors = [torch.from_numpy(frame).float() for frame in frames]
        processor(tensors, pixel_protocol=protocol, do_resize=False)
        assert (torch.stack(tensors).numpy() == before).all()
    assert (frames == before).all()


def test_defaults_are_the_papers():
    # Half as high as it is resized to, and the middle of the long side is cut out.
    frame = np.zeros((128, 192, 3), dtype=np.uint8)
    frame[:, :40] = 255
    pixel_values = VTNImageProcessor()([frame], return_tensors="pt").pixel_values
    assert pixel_values.shape == (1, 1, 3, 224, 224)
    # Column 0 of the crop is column 80 of the resized frame, white and black meet there.
    assert pixel_values[..., -1].unique().tolist() == [-2]
    columns = pixel_values[0, 0, 0, 100]
    assert columns[1:].max() == columns[1] < columns[0] == columns.max()
    assert (columns[2:] == -2).all()
    white = VTNImageProcessor()([frame[:, :40]], return_tensors="pt").pixel_values
    torch.testing.assert_close(white.max(), torch.tensor((1 - 0.45) / 0.225))


def row_image(*values):
    """A square gray frame each of whose rows holds these values."""
    return np.broadcast_to(np.array(values, dtype=np.uint8)[None, :, None], (len(values), len(values), 3))


@pytest.mark.parametrize(
    ("protocol", "resample", "expected"),
    [
        # Antialiased, a pixel of half the size weighs 3, 3 and 1 of the old ones (of 1, 3, 3, 1 with one outside).
        ("transformers", 2, [50, 160]),
        # Without antialiasing it is the mean of the two that it covers.
        ("pyslowfast", 2, [35, 175]),
        ("transformers", 0, [70, 210]),
    ],
)
def test_resizing_by_hand(protocol, resample, expected):
    processor = VTNImageProcessor(
        size={"shortest_edge": 2}, resample=resample, do_center_crop=False, pixel_protocol=protocol
    )
    # Of a frame so small it must be said which dimension the channels are.
    frame = row_image(0, 70, 140, 210)
    pixel_values = processor([frame], input_data_format="channels_last", return_tensors="pt").pixel_values
    rows = torch.tensor([expected, expected]).expand(1, 1, 3, 2, 2)
    torch.testing.assert_close(pixel_values, (rows / 255 - 0.45) / 0.225)


def test_normalising_by_hand(frames):
    processor = VTNImageProcessor(
        do_resize=False, do_center_crop=False, rescale_factor=0.5, image_mean=[1, 2, 3], image_std=[2, 4, 8]
    )
    frame = np.full((2, 2, 3), 10, dtype=np.uint8)
    frame[1, 0] = (0, 100, 200)
    pixel_values = processor([frame], return_tensors="pt").pixel_values
    assert pixel_values[0, 0, :, 0, 1].tolist() == [2, 0.75, 0.25]
    assert pixel_values[0, 0, :, 1, 0].tolist() == [-0.5, 12, 12.125]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"do_normalize": False}, 0.2),
        ({"do_rescale": False}, (51 - 0.45) / 0.225),
        ({"do_normalize": False, "rescale_factor": 2.0}, 102),
        ({"image_mean": 0.1, "image_std": 0.5}, 0.2),
        ({"image_mean": [0.1], "image_std": [0.5]}, 0.2),
        ({"image_mean": [0.1, 0.1, 0.1]}, 0.1 / 0.225),
        ({}, (0.2 - 0.45) / 0.225),
    ],
)
def test_overrides_of_a_call(overrides, expected):
    frame = np.full((8, 8, 3), 51, dtype=np.uint8)
    processor = VTNImageProcessor(size={"shortest_edge": 6}, crop_size={"height": 4, "width": 4})
    for pixel_values in (
        processor([frame], return_tensors="pt", **overrides).pixel_values,
        VTNImageProcessor(**{**processor.to_dict(), **overrides})([frame], return_tensors="pt").pixel_values,
    ):
        torch.testing.assert_close(pixel_values, torch.full((1, 1, 3, 4, 4), float(expected)))
    # The processor itself is unchanged.
    assert processor.to_dict() == VTNImageProcessor(size={"shortest_edge": 6}, crop_size=4).to_dict()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"shortest_edge": 18}, (18, 25)),
        (18, (18, 25)),
        ({"shortest_edge": 23}, (23, 31)),  # 31.94, cut off as PySlowFast does
        ({"height": 10, "width": 14}, (10, 14)),
    ],
)
def test_size(frames, size, expected):
    processor = VTNImageProcessor(size=size, do_center_crop=False)
    assert processor(list(frames), return_tensors="pt").pixel_values.shape == (1, 3, 3, *expected)
    upright = frames.transpose(0, 2, 1, 3)
    expected = expected if isinstance(size, dict) and "height" in size else expected[::-1]
    assert processor(list(upright), return_tensors="pt").pixel_values.shape == (1, 3, 3, *expected)


@pytest.mark.parametrize(
    ("crop_size", "rows", "columns"),
    [
        # Missing pixels are shared out, an odd one goes to the right or to the bottom.
        ((5, 8), (1, 3), (1, 6)),
        ((4, 7), (1, 3), (1, 6)),
        # One side is padded, the other cut.
        ((5, 4), (1, 3), (0, 4)),
        ((1, 9), (0, 1), (2, 7)),
    ],
)
def test_crop_pads_a_smaller_frame(unchanged, crop_size, rows, columns):
    frame = np.full((2, 5, 3), 9, dtype=np.uint8)
    crop_size = {"height": crop_size[0], "width": crop_size[1]}
    pixel_values = unchanged([frame], do_center_crop=True, crop_size=crop_size, return_tensors="pt").pixel_values
    expected = torch.zeros(1, 1, 3, *crop_size.values())
    expected[..., slice(*rows), slice(*columns)] = 9
    assert pixel_values.tolist() == expected.tolist()


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize(("height", "width"), [(36, 50), (50, 36), (33, 47), (12, 16)])
def test_pixels_equal_a_direct_computation(height, width, resample):
    # Bicubic weights overshoot, bytes cannot: not too bright, not too dark.
    frames = draw_frames(2, height, width) // 2 + 64
    processor = VTNImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 20, "width": 22}, resample=resample)
    pixel_values = processor(list(frames), return_tensors="pt").pixel_values[0]
    scale = 24 / min(height, width)
    size = (24, int(width * scale)) if height < width else (int(height * scale), 24)
    resized = nn.functional.interpolate(
        torch.tensor(frames).permute(0, 3, 1, 2).double(),
        size,
        mode={2: "bilinear", 3: "bicubic"}[resample],
        antialias=True,
    )
    top, left = (size[0] - 20) // 2, (size[1] - 22) // 2
    cropped = resized[..., top : top + 20, left : left + 22]
    # Bytes are resized to bytes, row after row, in whole numbers: up to one level off, and no more than that.
    difference = (pixel_values - (cropped / 255 - 0.45) / 0.225).abs() / GRAY_LEVEL
    assert difference.max() < 1.5
    assert 0.2 < difference.mean() < 0.4


@needs_torchvision
@pytest.mark.parametrize("resample", [0, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(36, 48), (48, 36), (33, 44), (12, 16), (24, 30)])
def test_pixels_equal_torchvision(height, width, resample):
    from torchvision.transforms.v2 import InterpolationMode, functional

    mode = {
        0: InterpolationMode.NEAREST_EXACT,
        2: InterpolationMode.BILINEAR,
        3: InterpolationMode.BICUBIC,
    }[resample]
    frames = draw_frames(2, height, width)
    processor = VTNImageProcessor(
        size={"shortest_edge": 24},
        crop_size={"height": 20, "width": 20},
        resample=resample,
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.4, 0.5, 0.6],
    )
    expected = functional.resize(torch.tensor(frames).permute(0, 3, 1, 2), 24, interpolation=mode, antialias=True)
    expected = functional.center_crop(expected, [20, 20])
    expected = functional.normalize(expected / 255, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    pixel_values = processor(list(frames), return_tensors="pt").pixel_values[0]
    # On a CPU without AVX2 torchvision resizes in floats: a few pixels are off by one level.
    difference = (pixel_values - expected).abs()
    assert difference.max() < 1.01 / 255 / 0.4
    assert difference.mean() < 1e-4


@needs_torchvision
@pytest.mark.parametrize(("height", "width"), [(36, 50), (51, 37)])
def test_pixels_equal_the_backbones_processor(tmp_path, height, width):
    """A backbone sees through a VTN what it was trained on, odd margins included."""
    clip = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 19, "width": 19})
    clip.save_pretrained(tmp_path)
    frames = draw_frames(2, height, width)
    pixel_values = VTNImageProcessor.from_backbone_pretrained(tmp_path)(frames, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(pixel_values, clip(to_pil(frames), return_tensors="pt").pixel_values)


def test_pyslowfast_pixels_equal_the_original(reference_dir):
    frame, crops = read_original_frame(reference_dir)
    processor = VTNImageProcessor(size={"shortest_edge": 224}, pixel_protocol="pyslowfast")
    pixel_values = processor([frame], return_tensors="pt").pixel_values
    torch.testing.assert_close(pixel_values[0, 0, :, 132:], crops[1], rtol=0, atol=2e-3)
    # Which transformers' pixels are not.
    pixel_values = processor([frame], pixel_protocol="transformers", return_tensors="pt").pixel_values
    assert (pixel_values[0, 0, :, 132:] - crops[1]).abs().max() > 0.1


def test_videos_of_unequal_length(processor):
    long, short = draw_frames(4), draw_frames(2, 30, 25, seed=1)
    inputs = processor([to_pil(long), to_pil(short)], return_tensors="pt")
    assert inputs.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert inputs.attention_mask.dtype == torch.int64
    alone = [processor(to_pil(video), return_tensors="pt").pixel_values[0] for video in (long, short)]
    torch.testing.assert_close(inputs.pixel_values[0], alone[0], rtol=0, atol=0)
    torch.testing.assert_close(inputs.pixel_values[1, :2], alone[1], rtol=0, atol=0)
    assert (inputs.pixel_values[1, 2:] == 0).all()
    from_arrays = processor([long, short], return_tensors="pt")
    torch.testing.assert_close(from_arrays.pixel_values, inputs.pixel_values, rtol=0, atol=0)


def test_videos_of_equal_length_need_no_mask(processor, frames):
    inputs = processor([to_pil(frames), to_pil(frames[::-1])], return_tensors="pt")
    assert list(inputs) == ["pixel_values"]
    torch.testing.assert_close(inputs.pixel_values[0], inputs.pixel_values[1].flip(0), rtol=0, atol=0)


def test_frames_of_unequal_size(processor):
    frames = [*draw_frames(1), *draw_frames(1, 40, 31), *draw_frames(1, 24, 24)]
    pixel_values = processor(frames, return_tensors="pt").pixel_values
    alone = [processor([frame], return_tensors="pt").pixel_values for frame in frames]
    torch.testing.assert_close(pixel_values, torch.cat(alone, dim=1), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"must have one size.*\(3, 24, 24\), \(3, 24, 33\), \(3, 30, 24\)"):
        processor(frames, do_center_crop=False)


@pytest.mark.parametrize("tensor_type", [None, "np", "pt"])
def test_tensor_types(processor, tensor_type):
    expected = processor([draw_frames(2), draw_frames(1)], return_tensors="pt")
    inputs = processor([draw_frames(2), draw_frames(1)], return_tensors=tensor_type)
    for name, values in expected.items():
        assert isinstance(inputs[name], {None: list, "np": np.ndarray, "pt": torch.Tensor}[tensor_type])
        assert np.array_equal(np.stack([np.asarray(video) for video in inputs[name]]), values.numpy())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], r"at least one frame, got \[\] frames"),
        ([[]], r"at least one frame, got \[0\] frames"),
        ([[draw_frames(1)[0]], []], r"at least one frame, got \[1, 0\] frames"),
        (draw_frames(0), r"at least one frame, got \[0\] frames"),
        (None, "Invalid input type"),
        ("frame.jpg", "Invalid input type"),
        ([np.zeros((8, 9, 5), dtype=np.uint8)], "channel"),
        ([np.zeros((2, 3, 3, 8, 9), dtype=np.uint8)], "Invalid input type|dimension"),
        ([[draw_frames(1)[0]], [draw_frames(1, 30, 40)[0]]], r"one picture size.*\(3, 36, 50\), \(3, 30, 40\)"),
    ],
)
def test_wrong_frames(images, message):
    with pytest.raises(ValueError, match=message):
        VTNImageProcessor(do_resize=False, do_center_crop=False)(images, return_tensors="pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": [0.1, 0.2]}, "`image_mean` has 2 entries for frames of 3 channels"),
        ({"image_std": [0.1, 0.2, 0.3, 0.4]}, "`image_std` has 4 entries for frames of 3 channels"),
        ({"pixel_protocol": "torchvision"}, "`pixel_protocol` must be one of.*got 'torchvision'"),
        ({"size": {"longest_edge": 30}}, "`size` must have the key.*30"),
        ({"size": {"short": 30}}, "size must have one of"),
        ({"resample": 1}, "`resample` must be one of.*got 1"),
        ({"resample": 5}, "`resample` must be one of.*got 5"),
        ({"crop_size": {"shortest_edge": 3}}, "crop_size.*3"),
        ({"crop_size": {"high": 3, "wide": 3}}, "crop_size must have one of"),
    ],
)
def test_wrong_settings(processor, frames, settings, message):
    with pytest.raises(ValueError, match=message):
        processor(list(frames), **settings)
    with pytest.raises(ValueError, match=message):
        VTNImageProcessor(**settings)(list(frames))


def test_unknown_argument(processor, frames):
    with pytest.raises(TypeError, match="num_frames"):
        processor(list(frames), num_frames=3)


def test_save_and_load(tmp_path, frames):
    processor = VTNImageProcessor(
        size={"shortest_edge": 30},
        crop_size={"height": 12, "width": 14},
        resample=3,
        image_mean=[0.1, 0.2, 0.3],
        image_std=0.5,
        do_rescale=False,
        pixel_protocol="pyslowfast",
    )
    processor.save_pretrained(tmp_path)
    loaded = VTNImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "VTNImageProcessor"
    assert saved["crop_size"] == {"height": 12, "width": 14}
    assert (saved["resample"], saved["image_std"], saved["do_rescale"]) == (3, 0.5, False)
    expected = processor(frames, return_tensors="pt").pixel_values
    assert expected.shape == (1, 3, 3, 12, 14)
    torch.testing.assert_close(loaded(frames, return_tensors="pt").pixel_values, expected, rtol=0, atol=0)
    assert VTNImageProcessor.from_pretrained(tmp_path, resample=2).resample == 2
