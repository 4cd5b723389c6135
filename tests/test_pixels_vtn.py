"""Parts of frames, their colours and their sizes, compared with whole frames, with PIL and with the original."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import SizeDict
from video_files import read_original_frame

from vtn_hf import VideoDecodeError, VTNImageProcessor, VTNVideoProcessor
from vtn_hf.pixels_vtn import Region, Span, View, resize_frames
from vtn_hf.video_decoding_vtn import DecodeLimits, decode_video
from vtn_hf.video_processing_vtn import load_video


# Pixels as they are.
RAW = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}


def crop(frames, size, position=0.5, round_up=False):
    protocol = "pyslowfast" if round_up else "transformers"
    pixels = VTNImageProcessor(do_resize=False, crop_size=dict(size), pixel_protocol=protocol).pixel_settings
    return pixels.take(frames, pixels.view(*frames.shape[-2:], position))


def number_pixels(height, width):
    """A frame whose pixels are 100 * row + column."""
    return (100.0 * torch.arange(height)[:, None] + torch.arange(width)).expand(1, 1, height, width)


@pytest.mark.parametrize(
    ("size", "arguments", "rows", "columns"),
    [
        ((4, 8), {}, (0, 4), (2, 6)),
        ((8, 4), {}, (2, 6), (0, 4)),
        ((6, 9), {}, (1, 5), (2, 6)),  # a margin of 5: 2 and 3
        ((6, 9), {"round_up": True}, (1, 5), (3, 7)),
        ((4, 9), {"position": 0}, (0, 4), (0, 4)),
        ((4, 9), {"position": 1}, (0, 4), (5, 9)),
        ((9, 5), {"position": 0}, (0, 4), (0, 4)),
        ((9, 5), {"position": 1, "round_up": True}, (5, 9), (1, 5)),
        ((4, 4), {"position": 1}, (0, 4), (0, 4)),
    ],
)
def test_crop(size, arguments, rows, columns):
    frames = number_pixels(*size)
    cropped = crop(frames, SizeDict(height=4, width=4), **arguments)
    assert cropped.tolist() == frames[..., slice(*rows), slice(*columns)].tolist()


def test_crop_of_another_shape():
    frames = number_pixels(7, 9)
    cropped = crop(frames, SizeDict(height=3, width=5))
    assert cropped.tolist() == frames[..., 2:5, 2:7].tolist()


@pytest.mark.parametrize(
    ("height", "width", "size", "crop", "left_out"),
    [
        (1080, 1920, 256, 224, (0, 384)),
        (1920, 1080, 256, 224, (384, 0)),
        (720, 1280, 256, 224, (0, 256)),
        (480, 854, 232, 112, (60, 0)),
        (200, 200, 300, 224, (20, 20)),  # larger
        (256, 340, 256, 224, (12, 52)),  # not resized
        (240, 320, 256, 224, (0, 0)),  # 341 columns are no ratio to cut at
        (240, 320, 128, 160, (0, 0)),  # padded
        (360, 640, 225, 200, (8, 152)),
    ],
)
@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("position", [0, 0.5, 1])
def test_a_part_gives_the_same_pixels(height, width, size, crop, left_out, resample, position):
    frames = torch.randint(256, (1, height, width, 3), dtype=torch.uint8).movedim(-1, -3)
    pixels = VTNImageProcessor(size=size, crop_size=crop, resample=resample).pixel_settings
    whole = pixels.view(height, width, position)
    part = View(*map(Span.narrow, whole))
    if position == 0.5:
        assert (part.rows.start, part.columns.start) == left_out
    assert torch.equal(pixels.take(frames, part), pixels.take(frames, whole))


def test_a_part_is_the_whole():
    pixels = VTNImageProcessor(do_resize=False, crop_size=64).pixel_settings
    whole = replace(pixels, do_center_crop=False).view(96, 128)
    assert View(*map(Span.narrow, whole)) == whole
    assert View(*map(Span.narrow, pixels.view(96, 128))) == ((12, 72, 72, 4, 64), (28, 72, 72, 4, 64))


def test_pyslowfast_crops_equal_the_original(reference_dir):
    frame, expected = read_original_frame(reference_dir)
    resized = resize_frames(frame.permute(2, 0, 1)[None].float(), 224, 297, resample=2, antialias=False)
    for position, original in zip((0, 0.5, 1), expected, strict=True):
        cropped = crop(resized, SizeDict(height=224, width=224), position=position, round_up=True)
        torch.testing.assert_close((cropped[0, :, 132:] / 255 - 0.45) / 0.225, original, rtol=0, atol=2e-3)


def encode(path, frames, codec, pixel_format, container_format=None, **options):
    """Writes uint8 RGB or RGBA frames, ten per second."""
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
        for frame in frames:
            name = "rgba" if frames.shape[-1] == 4 else "rgb24"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=name)))
        container.mux(stream.encode())
    return str(path)


def draw_blocks(height=64, width=96, seed=0):
    """A picture of large blocks, so that chroma of several pixels is exact."""
    blocks = np.random.default_rng(seed).integers(256, size=(height // 16, width // 16, 3), dtype=np.uint8)
    return blocks.repeat(16, 0).repeat(16, 1)


# Transparency


def draw_transparent():
    """Red, but for a border: 16 transparent black rows at the top, 16 half transparent ones below them."""
    picture = np.zeros((64, 96, 4), dtype=np.uint8)
    picture[16:] = (255, 0, 0, 255)
    picture[16:32, :, 3] = 128
    return picture


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("clip.mov", "png", "rgba"),
        ("clip.apng", "apng", "rgba"),
        ("clip.mov", "qtrle", "argb"),
        ("clip.mov", "prores_ks", "yuva444p10le"),
        ("clip.mkv", "ffv1", "yuva420p"),
        ("clip.mkv", "ffv1", "bgra"),
        ("clip.avi", "utvideo", "gbrap"),
        ("clip.webm", "libvpx", "yuva420p"),
        ("clip.webm", "libvpx-vp9", "yuva420p"),
        ("clip.mkv", "libvpx-vp9", "yuva420p"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"do_center_crop": True, "crop_size": 56}, {"pixel_protocol": "libswscale"}])
def test_transparent_files_are_white(tmp_path, name, codec, pixel_format, settings):
    options = {"prores_ks": {"profile": "4444"}, "libvpx": {"auto-alt-ref": "0"}, "libvpx-vp9": {"auto-alt-ref": "0"}}
    options = options.get(codec, {}) | ({"crf": "4", "b": "2M"} if "vpx" in codec else {})
    path = encode(tmp_path / name, np.stack([draw_transparent()] * 2), codec, pixel_format, **options)
    pixels = VTNVideoProcessor(**RAW | settings)(path, return_tensors="np")["pixel_values"][0, 1]
    rows = pixels[:, :, pixels.shape[2] // 2].astype(int).T
    top = 4 if "crop_size" in settings else 0
    assert np.abs(rows[12 - top] - 255).max() <= (3 if "vpx" in codec else 0)
    assert np.abs(rows[24 - top] - (255, 127, 127)).max() <= 6
    assert np.abs(rows[40 - top] - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "PA"])
@pytest.mark.parametrize("suffix", ["gif", "png", "webp", None])
def test_transparent_pictures_are_white(tmp_path, suffix, mode):
    if suffix == "gif" and mode != "RGBA":
        pytest.skip("Pillow writes it without transparency")
    picture = draw_transparent()
    picture[16:32, :, 3] = 255  # which gif can show
    picture = Image.fromarray(picture).convert(mode)
    if suffix is None:
        inputs = VTNVideoProcessor(**RAW)([picture] * 2, return_tensors="np")
    else:
        picture.convert("RGBA" if mode == "PA" else mode).save(tmp_path / f"picture.{suffix}", lossless=True)
        inputs = VTNVideoProcessor(**RAW)(tmp_path / f"picture.{suffix}", return_tensors="np")
    pixels = inputs["pixel_values"][0, 0]
    assert (pixels[:, :15] == 255).all()
    expected = (255, 0, 0) if mode in ("RGBA", "P", "PA") else (76, 76, 76)
    assert np.abs(pixels[:, 40, 50].astype(int) - expected).max() <= 6
    # The image processor sees the same.
    with Image.open(tmp_path / f"picture.{suffix}") if suffix else picture as loaded:
        expected = VTNImageProcessor(**RAW)(loaded, return_tensors="np")["pixel_values"][0, 0]
    assert np.abs(pixels.astype(int) - expected).max() <= (2 if suffix == "webp" else 0)


def test_an_opaque_file_with_an_alpha_channel_keeps_its_colours(tmp_path):
    frames = np.random.default_rng(0).integers(256, size=(2, 48, 64, 4), dtype=np.uint8)
    frames[..., 3] = 255
    with_alpha = encode(tmp_path / "alpha.mkv", frames, "ffv1", "yuva420p")
    without = encode(tmp_path / "opaque.mkv", frames, "ffv1", "yuv420p")
    assert np.array_equal(decode_video(with_alpha)[0], decode_video(without)[0])


# Parts of frames


@pytest.mark.parametrize("pixel_format", ["yuyv422", "uyvy422", "yvyu422", "nv12", "nv16", "yuv420p", "rgb24", "pal8"])
def test_a_part_has_the_colours_of_the_whole(tmp_path, pixel_format):
    noise = np.random.default_rng(0).integers(256, size=(2, 96, 128, 3), dtype=np.uint8)
    if pixel_format == "pal8":
        path = str(tmp_path / "clip.gif")
        pictures = [Image.fromarray(frame).quantize() for frame in noise]
        pictures[0].save(path, save_all=True, append_images=pictures[1:])
    else:
        path = encode(tmp_path / "clip.nut", noise, "rawvideo", pixel_format)
    whole = decode_video(path)[0]
    for region in (Region(16, 32, 40, 24, 40, 24), Region(0, 8, 96, 116, 96, 116)):
        part = decode_video(path, choose_region=lambda *size, region=region: region)[0]
        inside = whole[:, region.top : region.top + region.height, region.left : region.left + region.width]
        edge = 4 if pixel_format == "nv12" else 0
        assert np.array_equal(part[:, edge:-4], inside[:, edge:-4])


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p", "yuyv422"])
@pytest.mark.parametrize("size", [(96, 128), (95, 127), (61, 130)])
@pytest.mark.parametrize("box", [(0, 0, 40, 50), (7, 9, 30, 41), (21, 77, 39, 49), (12, 16, 49, 60)])
def test_any_part_of_a_file_has_the_colours_of_the_whole(tmp_path, pixel_format, size, box):
    height, width = size
    if pixel_format == "yuyv422" and width % 2:
        pytest.skip("has no odd width")
    noise = np.random.default_rng(0).integers(256, size=(2, *size, 3), dtype=np.uint8)
    path = encode(tmp_path / "clip.nut", noise, "rawvideo" if pixel_format == "yuyv422" else "ffv1", pixel_format)
    pixels = VTNVideoProcessor(do_rescale=False, do_normalize=False).pixel_settings
    top, left, box_height, box_width = box
    view = View(Span(top, box_height, 24, 0, 24), Span(left, box_width, 24, 0, 24))
    cut, _ = load_video(path, None, pixels, choose_view=lambda *size: view)
    frames = torch.from_numpy(decode_video(path)[0]).movedim(-1, -3)
    assert torch.equal(cut, pixels.take(frames, view))


# Sizes


@pytest.mark.parametrize("sizes", [[(64, 96), (32, 48)], [(32, 48), (64, 96)], [(64, 96), (64, 64), (48, 96)]])
@pytest.mark.parametrize("settings", [{}, {"pixel_protocol": "libswscale"}, {"pixel_protocol": "pyslowfast"}])
def test_later_sizes_become_the_first(tmp_path, sizes, settings):
    """As in a recording of a call, whose resolution follows the network."""
    blocks, parts = draw_blocks(), []
    for number, (height, width) in enumerate(sizes):
        picture = np.asarray(Image.fromarray(blocks).resize((width, height)))
        path = encode(tmp_path / f"{number}.webm", np.stack([picture] * 5), "libvpx", "yuv420p", crf="4", b="2M")
        with av.open(path) as container:
            parts.append([bytes(packet) for packet in container.demux(video=0) if packet.size])
    with av.open(str(tmp_path / "0.webm")) as first, av.open(str(tmp_path / "clip.webm"), "w") as container:
        stream = container.add_stream_from_template(first.streams.video[0])
        for number, data in enumerate(sum(parts, [])):
            packet = av.Packet(data)
            packet.pts = packet.dts = 100 * number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 1000), stream, number % 5 == 0
            container.mux(packet)
    path = str(tmp_path / "clip.webm")
    frames, metadata = decode_video(path)
    assert frames.shape == (5 * len(sizes), *sizes[0], 3)
    assert (metadata.height, metadata.width) == sizes[0]
    # The same picture throughout, but for its edges.
    assert np.abs(frames[-1].astype(int) - frames[0]).mean() < 12
    pixels = VTNVideoProcessor(size=32, crop_size=28, do_rescale=False, do_normalize=False, **settings)(path)
    assert len(pixels["pixel_values"][0]) == len(frames)


def test_what_comes_out_is_limited(tmp_path):
    frame = np.zeros((3, 2000, 3), dtype=np.uint8)
    path = encode(tmp_path / "flat.mkv", np.stack([frame] * 2), "ffv1", "yuv444p")
    processor = VTNVideoProcessor(size=256, do_center_crop=False, decode_limits={"max_pixels": 10**6})
    with pytest.raises(VideoDecodeError, match=r"resized to 170666x256 has more than max_pixels=1,000,000"):
        processor(path)
    pixels = VTNVideoProcessor(size=24, crop_size=20).pixel_settings
    path = encode(tmp_path / "clip.mkv", np.stack([draw_blocks()] * 9), "ffv1", "yuv444p")
    num_bytes = 9 * 3 * 20 * 20 * 4
    for protocol in ("transformers", "libswscale", "pyslowfast"):
        wanted = replace(pixels, pixel_protocol=protocol)
        load_video(path, None, wanted, DecodeLimits(max_bytes=num_bytes))
        with pytest.raises(VideoDecodeError, match=f"9 frames of 20x20 .* {num_bytes:,} bytes, max_bytes is"):
            load_video(path, None, wanted, DecodeLimits(max_bytes=num_bytes - 1))
    load_video(
        path, None, replace(pixels, do_rescale=False, do_normalize=False), DecodeLimits(max_bytes=num_bytes // 4)
    )
