"""What an augmentation does is checked against its rule, worked out here from the same draws."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers.utils import is_torchvision_available

from vtn_hf import VTNVideoProcessor
from vtn_hf.data.augmentation import ClipAugmentation, ClipMixing


@pytest.fixture
def clip():
    """Three frames of noise, wider than high."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 50, 70), dtype=np.uint8))


def make_processor(**kwargs):
    return VTNVideoProcessor(size=40, crop_size=32, **kwargs)


SETTINGS = [
    {"resize_range": (40, 60)},
    {"crop_scale": (0.1, 1.0)},
    {"flip_prob": 0.5},
    {"warp": (0.2, 0.1, 10)},
    {"erasing_prob": 1.0},
    {"resize_range": (40, 60), "flip_prob": 0.5, "erasing_prob": 0.5},
]
if is_torchvision_available():
    SETTINGS += [{"rand_augment": (2, 9)}, {"crop_scale": (0.1, 1.0), "rand_augment": (2, 15), "erasing_prob": 0.5}]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "+".join(settings))
def test_all_frames_change_alike(clip, settings):
    augmentation = ClipAugmentation(make_processor(), **settings)
    still = clip[:1].expand(5, -1, -1, -1)
    results = []
    for seed in range(20):
        frames = augmentation(still, np.random.default_rng(seed))
        assert frames.shape == (5, 3, 32, 32)
        assert frames.dtype == torch.uint8
        assert torch.equal(frames, frames[:1].expand_as(frames))
        # The frame alone becomes the same.
        assert torch.equal(augmentation(clip[:1], np.random.default_rng(seed)), frames[:1])
        results.append(frames[0])
    assert any(not torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "+".join(settings))
def test_draws_come_from_the_generator_alone(clip, settings):
    augmentation = ClipAugmentation(make_processor(), **settings)
    torch.manual_seed(0)
    first = augmentation(clip, np.random.default_rng(3))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(augmentation(clip, np.random.default_rng(3)), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [(50, 70), (70, 50), (50, 50), (40, 40)])
def test_scale_jitter_crop_and_flip_of_the_original(size):
    frames = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 3, *size), dtype=np.uint8))
    augmentation = ClipAugmentation(make_processor(pixel_protocol="pyslowfast"), resize_range=(40, 60), flip_prob=0.5)
    sides, flips = set(), set()
    for seed in range(60):
        generator = np.random.default_rng(seed)
        # PySlowFast's `random_short_side_scale_jitter`, `random_crop` (with the last offset, which it misses) and
        # `horizontal_flip`, after its normalisation.
        side = round(generator.uniform(40, 60))
        height, width = (max(side, side * length // min(size)) for length in size)
        expected = nn.functional.interpolate(
            (frames / 255 - 0.45) / 0.225, (height, width), mode="bilinear", align_corners=False
        )
        top, left = generator.integers(height - 31), generator.integers(width - 31)
        expected = expected[..., top : top + 32, left : left + 32]
        flip = generator.random() < 0.5
        expected = expected.flip(-1) if flip else expected
        result = augmentation(frames, np.random.default_rng(seed))
        assert result.dtype == torch.float32
        torch.testing.assert_close((result / 255 - 0.45) / 0.225, expected, rtol=0, atol=1e-5)
        sides.add(side)
        flips.add(flip)
    assert len(sides) > 15
    assert flips == {False, True}


def test_crop_scale(clip):
    # Each pixel tells its place.
    places = torch.stack(torch.meshgrid(torch.arange(64), torch.arange(128), indexing="ij")).to(torch.uint8)
    frames = torch.cat([places, places[:1]])[None]
    augmentation = ClipAugmentation(make_processor(resample=0), crop_scale=(0.1, 0.5))
    for seed in range(100):
        rows, columns = augmentation(frames, np.random.default_rng(seed))[0, :2].float()
        # A box of which 32 x 32 pixels are picked tells its sides within a pixel or so.
        height, width = (float(place.max() - place.min()) * 32 / 31 for place in (rows, columns))
        assert 0.08 < height * width / (64 * 128) < 0.55
        assert 0.65 < width / height < 1.5


def test_flip_and_centre_crop(clip):
    straight = ClipAugmentation(make_processor())(clip, np.random.default_rng(0))
    flipped = ClipAugmentation(make_processor(), flip_prob=1.0)(clip, np.random.default_rng(0))
    assert torch.equal(flipped, straight.flip(-1))
    processor = make_processor(do_rescale=False, do_normalize=False)
    expected = processor(clip, do_sample_frames=False, return_tensors="pt").pixel_values[0]
    assert torch.equal(straight.float(), expected)


def test_a_warp_stretches_shifts_and_turns_what_is_shown():
    columns = 4 * torch.arange(32, dtype=torch.uint8).expand(2, 3, 32, 32)
    rows = columns.mT.contiguous()
    processor = VTNVideoProcessor(size=32, crop_size=32)

    def warp(pictures, *settings):
        draws = (
            ClipAugmentation(processor, warp=settings)(pictures, np.random.default_rng(seed)) for seed in range(30)
        )
        # Away from the edges, which are continued.
        return torch.stack([draw[0, 0, 12:20, 12:20].float() for draw in draws]), pictures[0, 0, 12:20, 12:20].float()

    unchanged, before = warp(columns, 0, 0, 0)
    assert unchanged.eq(before).all()
    shifted, before = warp(columns, 0, 0.1, 0)
    moves = (shifted - before).flatten(1)
    assert (moves.amax(1) - moves.amin(1)).max() <= 1  # rounded to bytes
    assert 8 < moves.abs().max() <= 4 * 0.1 * 32 + 1
    stretched, _ = warp(columns, 0.25, 0, 0)
    slopes = (stretched[..., -1] - stretched[..., 0]) / 7
    assert slopes.min() < 3.4 and slopes.max() > 4.6 and (slopes - 4).abs().max() <= 1.15
    turned = [warp(pictures, 0, 0, 20)[0] for pictures in (columns, rows)]
    along, across = ((each[:, 3, -1] - each[:, 3, 0]) / 28 for each in turned)
    assert along.square().add(across.square()).sub(1).abs().max() < 0.1
    assert np.sin(np.radians(12)) < across.abs().max() < np.sin(np.radians(20)) + 0.05


def test_erasing(clip):
    straight = ClipAugmentation(make_processor())(clip, np.random.default_rng(0))
    augmentation = ClipAugmentation(make_processor(), erasing_prob=1.0)
    for seed in range(50):
        frames = augmentation(clip, np.random.default_rng(seed))
        changed = (frames != straight).any(dim=1).any(dim=0)
        rows, columns = (torch.nonzero(changed.any(dim=side)).flatten() for side in (1, 0))
        share = len(range(rows.min(), rows.max() + 1)) * len(range(columns.min(), columns.max() + 1)) / 32**2
        assert 0.015 < share < 0.36
        inside = frames[..., rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert torch.equal(inside, inside[:1].expand_as(inside))
        assert inside.float().std() > 20


@pytest.mark.parametrize(
    ("processor", "settings", "error", "message"),
    [
        ({}, {"resize_range": (40, 60), "crop_scale": (0.1, 1.0)}, ValueError, "Give `resize_range` or `crop_scale`"),
        ({}, {"resize_range": (31, 60)}, ValueError, "begins below the crop"),
        ({}, {"warp": (1.5, 0, 0)}, ValueError, "a stretch below 1, a shift and an angle"),
        ({}, {"warp": (0.1, 0.1)}, ValueError, "a stretch below 1, a shift and an angle"),
        *(
            [({"pixel_protocol": "pyslowfast"}, {"rand_augment": (2, 9)}, ValueError, "makes floats")]
            if is_torchvision_available()
            else [({}, {"rand_augment": (2, 9)}, ImportError, "RandAugment needs torchvision: `pip install")]
        ),
    ],
)
def test_contradictions(processor, settings, error, message):
    with pytest.raises(error, match=message):
        ClipAugmentation(make_processor(**processor), **settings)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_mixup(dtype):
    clips = torch.arange(4).reshape(4, 1, 1, 1, 1).expand(4, 2, 3, 5, 6).to(dtype) * 40
    for seed in range(10):
        mixed, targets = ClipMixing(mixup_alpha=0.8)(clips, torch.eye(4), np.random.default_rng(seed))
        assert mixed.shape == clips.shape
        assert mixed.dtype == dtype
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
        expected = (targets @ clips[:, 0, 0, 0, 0].float()).reshape(4, 1, 1, 1, 1).expand_as(mixed)
        torch.testing.assert_close(mixed.float(), expected, rtol=0, atol=0.51 if dtype == torch.uint8 else 1e-4)


def test_cutmix():
    clips = torch.arange(4).reshape(4, 1, 1, 1, 1).expand(4, 2, 3, 20, 30).to(torch.uint8)
    shares = []
    for seed in range(30):
        mixed, targets = ClipMixing(cutmix_alpha=1.0)(clips, torch.eye(4), np.random.default_rng(seed))
        # All frames and channels alike, and each pixel is that of one clip.
        assert torch.equal(mixed, mixed[:, :1, :1].expand_as(mixed))
        for number, (picture, target) in enumerate(zip(mixed[:, 0, 0], targets, strict=True)):
            for other in range(4):
                assert (picture == other).float().mean() == pytest.approx(target[other].item(), abs=1e-6)
            shares.append(target[number].item())
    assert min(shares) < 0.5 and max(shares) > 0.9
    assert torch.equal(clips[1], torch.ones_like(clips[1]))


def test_mixup_and_cutmix_take_turns():
    clips = torch.rand(2, 1, 3, 8, 8)
    mixing = ClipMixing(mixup_alpha=0.8, cutmix_alpha=1.0)
    is_cut = [bool((mixing(clips, torch.eye(2), np.random.default_rng(seed))[0] == clips).any()) for seed in range(60)]
    assert 10 < sum(is_cut) < 50


@pytest.mark.parametrize("alphas", [(0, 0), (-1, 1)])
def test_mixing_needs_an_alpha(alphas):
    with pytest.raises(ValueError, match="must be positive, got"):
        ClipMixing(*alphas)
