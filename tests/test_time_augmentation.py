"""Which frames of a training video are used, at which speed, and how two videos are blended."""

import numpy as np
import pytest
import torch

from vtn_hf.data.time_augmentation import TimeAugmentation, mix_videos


POSITIONS = 2 * np.arange(10)


def draw(augmentation: TimeAugmentation, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return augmentation(POSITIONS, np.random.default_rng(seed))


def test_nothing_changes_by_default():
    chosen, positions = draw(TimeAugmentation(), 0)

    assert chosen.tolist() == list(range(10)) and positions.tolist() == POSITIONS.tolist()


def test_a_part_is_anywhere_and_its_positions_count_from_its_start():
    starts = set()
    for seed in range(300):
        chosen, positions = draw(TimeAugmentation(min_share=0.5), seed)
        assert 5 <= len(chosen) <= 10
        assert np.diff(chosen).tolist() == [1] * (len(chosen) - 1)
        assert positions.tolist() == (2 * np.arange(len(chosen))).tolist()
        starts.add(chosen[0])
    assert starts == set(range(6))


def test_frames_are_left_out_and_the_others_keep_their_positions():
    counts = []
    for seed in range(200):
        chosen, positions = draw(TimeAugmentation(drop_prob=0.4), seed)
        assert positions.tolist() == POSITIONS[chosen].tolist()
        counts.append(len(chosen))
    assert min(counts) >= 1 and np.mean(counts) == pytest.approx(6, abs=0.4)
    assert len(TimeAugmentation(drop_prob=0.999)(np.arange(3), np.random.default_rng(0))[0]) == 1


def test_speed_divides_the_positions():
    assert draw(TimeAugmentation(speed_range=(2, 2)), 0)[1].tolist() == list(range(10))
    lasts = [draw(TimeAugmentation(speed_range=(0.5, 2)), seed)[1][-1] for seed in range(100)]
    assert min(lasts) < 11 and max(lasts) > 30


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"min_share": 0}, "min_share"),
        ({"drop_prob": 1.0}, "drop_prob"),
        ({"speed_range": (2, 1)}, "speed_range"),
        ({"speed_range": (0, 1)}, "speed_range"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TimeAugmentation(**settings)


@pytest.mark.parametrize("name", ["inputs_embeds", "pixel_values"])
def test_mixup_blends_videos_of_unequal_length_and_their_labels(name):
    shape = (2,) if name == "inputs_embeds" else (3, 2, 2)
    dtype = torch.float32 if name == "inputs_embeds" else torch.uint8
    examples = [
        {
            name: torch.full((length, *shape), 100 * label, dtype=dtype),
            "position_ids": torch.arange(length),
            "labels": label,
        }
        for label, length in enumerate((3, 5, 4))
    ]

    mixed = mix_videos(examples, 3, 1.0, np.random.default_rng(0))

    assert any(len(example["labels"].nonzero()) == 2 for example in mixed)
    for label, (before, after) in enumerate(zip(examples, mixed, strict=True)):
        assert after[name].shape == before[name].shape and after[name].dtype == dtype
        assert after["position_ids"].equal(before["position_ids"])
        assert after["labels"].sum() == pytest.approx(1) and after["labels"][label] >= 0.5
        value = (100 * torch.arange(3) * after["labels"]).sum()
        assert after[name].float().sub(value).abs().max() <= 0.5
        assert isinstance(before["labels"], int)
