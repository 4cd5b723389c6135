"""
What a collection lacks: videos that are annotated but missing, and videos that cannot be decoded.

They are left out, but never in silence: they are counted and listed, in `coverage.json` beside the results.
"""

import json
import os
from collections import Counter
from pathlib import Path

from .class_names import escape_bytes


# The label of a video that could not be decoded: it takes no part in losses and accuracies.
NO_LABEL = -100


class SkippedVideos:
    """
    The list of the videos of one split that could not be decoded, kept in a file that all workers and processes write
    to, so that it outlives them.

    Args:
        path (`str` or `Path`): A file of JSON lines, which is appended to; its folder is made when need be.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def add(self, name: str, reason: str):
        """Notes that a video was skipped, and why."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            # One write per line, so that lines of several processes do not mix.
            file.write(json.dumps({"video": escape_bytes(name), "reason": escape_bytes(reason)}) + "\n")

    def clear(self):
        """Forgets an earlier run."""
        self.path.unlink(missing_ok=True)

    def count(self) -> int:
        """How many videos were skipped, each time that one was."""
        return self.path.read_bytes().count(b"\n") if self.path.is_file() else 0

    def summarize(self) -> list[dict]:
        """Each skipped video once: `video`, `reason` (the first one) and `times`, how often it was skipped."""
        if not self.path.is_file():
            return []
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        times = Counter(line["video"] for line in lines)
        reasons = {line["video"]: line["reason"] for line in reversed(lines)}
        return [{"video": name, "reason": reasons[name], "times": times[name]} for name in sorted(times)]


def report_coverage(num_videos: int | None, missing: list[str], damaged: list[dict]) -> dict:
    """
    Says how much of a split was used.

    Args:
        num_videos (`int`, *optional*): Videos in the split, without the missing ones; `None` for a stream, which does
            not tell.
        missing (`list[str]`): Of [`vtn_hf.data.collection.Collection`].
        damaged (`list[dict]`): From [`SkippedVideos.summarize`].

    Returns:
        `dict`: `annotated`, `used` and `coverage` (`used / annotated`), which are `None` for a stream; `missing` and
        `damaged`, the lists.
    """
    annotated = None if num_videos is None else num_videos + len(missing)
    used = None if num_videos is None else num_videos - len(damaged)
    return {
        "annotated": annotated,
        "used": used,
        "coverage": used / annotated if used is not None and annotated else None,
        "missing": missing,
        "damaged": damaged,
    }
