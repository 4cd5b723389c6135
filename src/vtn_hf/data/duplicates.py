"""
Videos that are there twice: with the same content, or with the same pictures, as after another encoding or resizing.

The pictures of a video are known by its fingerprint: a few moments of it, spread over its length, each a small grey
picture. Two videos are taken for the same if these pictures agree and, where something moves, so do their changes from
moment to moment: what a fixed camera shows at two times is alike in the former only.
"""

import base64
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn


NUM_MOMENTS, SIDE = 8, 8
# Correlations of two fingerprints, of the whole of them and of what changes in them.
_MIN_ALIKE, _MIN_CHANGES_ALIKE = 0.97, 0.85
# Grey levels: pictures that vary by less, over all places and moments, show nothing; and changes by less are noise.
_MIN_CONTRAST, _MIN_CHANGE = 2.0, 0.75
# Of videos in which nothing changes, the pictures must differ by less.
_MAX_STILL_DIFFERENCE = 1.5
_BLOCK = 2048


def choose_moments(num_frames: int) -> list[int]:
    """The frames that a fingerprint is made of: the middles of equal parts."""
    return [int((moment + 0.5) / NUM_MOMENTS * num_frames) for moment in range(NUM_MOMENTS)]


def shrink(frame: np.ndarray) -> np.ndarray:
    """A frame, uint8 `(height, width, 3)`, as a small grey picture `(SIDE, SIDE)`, uint8."""
    grey = torch.from_numpy(frame).float().mean(dim=-1)
    return nn.functional.adaptive_avg_pool2d(grey[None, None], SIDE)[0, 0].round().byte().numpy()


def make_fingerprint(pictures: Sequence[np.ndarray]) -> str:
    """The fingerprint of a video, as text, from the small pictures of its moments."""
    return base64.b64encode(np.stack(pictures).tobytes()).decode()


@dataclass(frozen=True)
class Duplicates:
    """
    Files that are the same video.

    Args:
        paths (`list[str]`): Two or more.
        is_same_content (`bool`): Whether they are the same to the last byte; else they have the same pictures.
    """

    paths: list[str]
    is_same_content: bool


def find_duplicates(paths: Sequence[str], hashes: Sequence[str], fingerprints: Sequence[str]) -> list[Duplicates]:
    """
    Finds the files that are the same video.

    Args:
        paths (`Sequence[str]`): Files.
        hashes (`Sequence[str]`): Of the content of each; empty where it is not known.
        fingerprints (`Sequence[str]`): From [`make_fingerprint`]; empty where there is none.
    """
    by_content, by_pictures = defaultdict(list), {}
    for path, content_hash, fingerprint in zip(paths, hashes, fingerprints, strict=True):
        by_content[content_hash or path].append(path)
        if fingerprint and len(by_content[content_hash or path]) == 1:
            by_pictures[path] = fingerprint
    found = [Duplicates(sorted(group), True) for group in by_content.values() if len(group) > 1]
    names = list(by_pictures)
    pairs = [(names[first], names[second]) for first, second in find_alike(list(by_pictures.values()))]
    copies = {group[0]: group for group in by_content.values()}
    for group in group_pairs(pairs):
        found.append(Duplicates(sorted(path for name in group for path in copies[name]), False))
    return sorted(found, key=lambda each: each.paths)


def find_alike(fingerprints: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The pairs of fingerprints that are of the same video, by their numbers."""
    if not fingerprints:
        return
    content = b"".join(map(base64.b64decode, fingerprints))
    pictures = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, NUM_MOMENTS, SIDE * SIDE).float()
    whole = (pictures - pictures.mean(dim=(1, 2), keepdim=True)).flatten(1)
    changes = (pictures - pictures.mean(dim=1, keepdim=True)).flatten(1)
    shows = whole.square().mean(dim=1).sqrt() >= _MIN_CONTRAST
    moves = changes.square().mean(dim=1).sqrt() >= _MIN_CHANGE
    unit_whole, unit_changes = (nn.functional.normalize(each, dim=1) for each in (whole, changes))
    for start in range(0, len(pictures), _BLOCK):
        rows = slice(start, start + _BLOCK)
        alike = (unit_whole[rows] @ unit_whole.T >= _MIN_ALIKE) & shows[rows, None] & shows
        alike &= torch.arange(len(pictures)) > torch.arange(len(pictures))[rows, None]
        for first, second in alike.nonzero().tolist():
            first += start
            if moves[first] and moves[second]:
                is_same = unit_changes[first] @ unit_changes[second] >= _MIN_CHANGES_ALIKE
            else:
                difference = (whole[first] - whole[second]).square().mean().sqrt()
                is_same = moves[first] == moves[second] and difference <= _MAX_STILL_DIFFERENCE
            if is_same:
                yield first, second


def group_pairs(pairs: Iterable[tuple[Hashable, Hashable]]) -> list[list]:
    """Joins pairs that have an element in common, again and again: groups, in the order in which they begin."""
    leaders: dict[Hashable, Hashable] = {}

    def find(element: Hashable) -> Hashable:
        while leaders.setdefault(element, element) != element:
            leaders[element] = leaders[leaders[element]]
            element = leaders[element]
        return element

    for first, second in pairs:
        leaders[find(second)] = find(first)
    groups = defaultdict(list)
    for element in list(leaders):
        groups[find(element)].append(element)
    return list(groups.values())
