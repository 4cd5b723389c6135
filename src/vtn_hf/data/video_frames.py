"""The frames of a video one by one, in memory that does not grow with its length."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..pixels_vtn import ChooseRegion
from ..video_decoding_vtn import (
    ConvertFrame,
    DecodeLimits,
    FrameCountError,
    SampleIndices,
    TimedVideoMetadata,
    VideoSource,
    open_video,
)


PlanRounds = Callable[[TimedVideoMetadata], Sequence[Sequence[int] | np.ndarray]]


def iter_video_frames(
    source: VideoSource,
    sample_indices: SampleIndices | None = None,
    *,
    convert_frame: ConvertFrame | None = None,
    choose_region: ChooseRegion | None = None,
    limits: DecodeLimits | None = None,
) -> Iterator[np.ndarray]:
    """
    Decodes a video one frame at a time.

    As [`vtn_hf.video_decoding_vtn.decode_video`], but the frame numbers must be ascending (repetitions are allowed),
    and if the number of frames turns out to be another one, for which `sample_indices` chooses other frames than those
    already given out, this raises `VideoDecodeError`.

    Yields:
        Frames as uint8 RGB of shape (height, width, 3), or what `convert_frame` made of them.
    """
    with open_video(source, choose_region, limits) as video:
        indices = video.choose(sample_indices)
        if indices != sorted(indices):
            raise ValueError(f"{video.name}: frame numbers must be ascending to be iterated over, got {indices}.")
        repeats = Counter(indices)
        given: list[int] = []
        try:
            for number, frame in video.read(list(repeats)):
                frame = frame if convert_frame is None else convert_frame(frame)
                for _ in range(repeats[number]):
                    given.append(number)
                    yield np.ascontiguousarray(frame)
        except FrameCountError:
            if given != video.choose(sample_indices):
                raise


def iter_frame_rounds(
    source: VideoSource,
    plan_rounds: PlanRounds,
    *,
    convert_frame: ConvertFrame | None = None,
    choose_region: ChooseRegion | None = None,
    limits: DecodeLimits | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """
    Decodes a video in rounds, so that whoever has seen enough after some of them can stop. Frames of the next
    rounds that are on the way to others are decoded with them and kept, as far as they fit into about 200 MB.

    As [`vtn_hf.video_decoding_vtn.decode_video`], but `plan_rounds` returns rounds of frame numbers, ascending in
    each, no number twice. If it is called again, frames that were given out are not given again.

    Yields:
        The number of each frame, and the frame as uint8 RGB of shape (height, width, 3), or what `convert_frame` made
        of it.
    """
    with open_video(source, choose_region, limits) as video:
        given: set[int] = set()
        for is_last_try in (False, True):
            rounds = plan_rounds(video.metadata)
            video.ask_for(itertools.chain(*rounds))
            try:
                missing = [[int(number) for number in part if number not in given] for part in rounds]
                for place, part in enumerate(missing, start=1):
                    later = list(itertools.chain(*missing[place:]))
                    for number, frame in video.read(part, later):
                        given.add(number)
                        yield number, np.ascontiguousarray(frame if convert_frame is None else convert_frame(frame))
                return
            except FrameCountError:  # by now the video knows its true number of frames
                if is_last_try:
                    raise
