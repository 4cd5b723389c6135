"""Splits by group: no group in two, classes alike."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from vtn_hf.data.group_split import split_groups


SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def draw(num_groups, num_classes, seed, max_size=8):
    """Groups of one to some videos, of which some have one class only and others several."""
    generator = np.random.default_rng(seed)
    groups, labels = [], []
    for group in range(num_groups):
        own = generator.integers(num_classes)
        for _ in range(generator.integers(1, max_size + 1)):
            groups.append(f"source {group}")
            labels.append([int(own if generator.random() < 0.7 else generator.integers(num_classes))])
    return groups, labels


def check(groups, labels, chosen, shares, tolerance):
    where = defaultdict(set)
    for group, split in zip(groups, chosen, strict=True):
        where[group].add(split)
    assert all(len(splits) == 1 for splits in where.values())
    total = Counter(label for each in labels for label in each)
    counts = Counter((split, label) for split, each in zip(chosen, labels, strict=True) for label in each)
    for split, share in shares.items():
        for label, number in total.items():
            assert counts[split, label] / number == pytest.approx(share, abs=tolerance), (split, label)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("num_groups", "num_classes"), [(400, 2), (600, 10)])
def test_groups(seed, num_groups, num_classes):
    groups, labels = draw(num_groups, num_classes, seed)
    check(groups, labels, split_groups(groups, labels, SHARES, seed), SHARES, 0.02)


def test_videos_alone():
    labels = [[number % 7] for number in range(1400)]
    chosen = split_groups(range(1400), labels, SHARES)
    check(range(1400), labels, chosen, SHARES, 0.005)
    assert split_groups(range(1400), labels, SHARES) == chosen != split_groups(range(1400), labels, SHARES, seed=1)


def test_several_labels():
    generator = np.random.default_rng(0)
    labels = [generator.choice(5, generator.integers(1, 3), replace=False).tolist() for _ in range(1000)]
    groups = [number // 3 for number in range(1000)]
    check(groups, labels, split_groups(groups, labels, SHARES), SHARES, 0.02)


def test_few_groups():
    """Each split gets one, however large they are."""
    groups = ["a"] * 50 + ["b"] * 30 + ["c"]
    assert set(split_groups(groups, [[0]] * 81, SHARES)) == set(SHARES)
    assert split_groups(groups, [[0]] * 81, {"train": 0.7, "val": 0.3})[0] == "train"
    with pytest.raises(ValueError, match=r"81 videos in 1 group\(s\) make no 3 splits"):
        split_groups([0] * 81, [[0]] * 81, SHARES)


@pytest.mark.parametrize(
    "shares", [{}, {"train": 0.9, "val": 0.2}, {"train": 1.0, "val": 0.0}, {"train": 1.2, "val": -0.2}]
)
def test_no_shares(shares):
    with pytest.raises(ValueError, match="must be positive and make 1 together"):
        split_groups([0, 1], [[0], [0]], shares)
