"""From a decoded frame to an upright RGB picture, with libswscale: whole, or a region of it in a smaller size."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Region(NamedTuple):
    """A rectangle of an upright picture, in pixels, and the size that it is resized to."""

    top: int
    left: int
    height: int
    width: int
    new_height: int
    new_width: int


ChooseRegion = Callable[[int, int], Region]


class _Orientation(NamedTuple):
    """How a coded picture becomes upright: first rows become columns, then rows and columns are reversed."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def turn(self, picture: np.ndarray) -> np.ndarray:
        """Put a coded picture (height, width, 3) upright."""
        if self == _UPRIGHT:
            return picture
        picture = picture.transpose(1, 0, 2) if self.transpose else picture
        return np.ascontiguousarray(picture[:: 1 - 2 * self.flip_rows, :: 1 - 2 * self.flip_columns])

    def turn_back(self, region: Region, height: int, width: int) -> Region:
        """A region of the upright picture (height, width) as a region of the coded one."""
        top, left, region_height, region_width, new_height, new_width = region
        if self.flip_rows:
            top = height - top - region_height
        if self.flip_columns:
            left = width - left - region_width
        if self.transpose:
            return Region(left, top, region_width, region_height, new_width, new_height)
        return Region(top, left, region_height, region_width, new_height, new_width)


_UPRIGHT = _Orientation()


class FrameConverter:
    """
    Converts the frames of one video.

    Args:
        av: The module PyAV, which is imported where a video is decoded only.
        choose_region: Called with height and width of the upright picture; says which region to take and what to
            resize it to (bilinear, antialiased). `None` takes the whole picture as it is. A region that keeps its size
            has the pixels of the whole picture there, if it begins and ends at multiples of 4, as colours are coded
            for up to 4 pixels at once.

    Attributes:
        height, width: Of the upright picture, before resizing; `None` until a frame has been seen.
    """

    def __init__(self, av: Any, choose_region: ChooseRegion | None = None):
        self.height: int | None = None
        self.width: int | None = None
        self._choose_region = choose_region
        self._orientation = _UPRIGHT
        self._rotation: int | None = None
        # One converter for all frames, with one thread: setting these up costs more than converting a frame.
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._av = av
        self._graph: Any = None
        self._graph_input: tuple | None = None

    def convert(self, frame: Any) -> np.ndarray:
        """
        Convert an `av.VideoFrame` to an upright uint8 RGB array (height, width, 3), which may share its memory.

        Raises:
            ValueError: If the size is not that of the frames before.
        """
        if frame.rotation != self._rotation:
            # Once, as PyAV makes a cycle of a frame and its side data: it would wait for the garbage collector.
            self._orientation, self._rotation = _read_orientation(self._av, frame), frame.rotation
        orientation = self._orientation
        height, width = (frame.width, frame.height) if orientation.transpose else (frame.height, frame.width)
        if (height, width) != (self.height or height, self.width or width):
            raise ValueError(f"the resolution changes from {self.width}x{self.height} to {width}x{height}")
        self.height, self.width = height, width
        if self._choose_region is not None:
            frame = self._take_region(frame, orientation)
        return orientation.turn(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())

    def _take_region(self, frame: Any, orientation: _Orientation) -> Any:
        """Crop, which moves pointers only; where the size changes, resize and convert in one pass."""
        graph_input = (frame.format.name, frame.colorspace, frame.color_range, orientation)
        if graph_input != self._graph_input:
            region = orientation.turn_back(self._choose_region(self.height, self.width), self.height, self.width)
            is_whole = region == (0, 0, frame.height, frame.width, frame.height, frame.width)
            self._graph = None if is_whole else _fill_graph(self._av.filter.Graph(), frame, region)
            self._graph_input = graph_input
        if self._graph is None:
            return frame
        self._graph.push(frame)
        return self._graph.pull()


def _read_orientation(av: Any, frame: Any) -> _Orientation:
    """
    Read the display matrix, which FFmpeg also makes of what EXIF says; turns other than quarter turns are rounded to
    them, as FFmpeg's players do.
    """
    try:
        side_data = frame.side_data
    except ValueError:  # FFmpeg gives a kind of side data that PyAV has no name for
        side_data = _keep_known_side_data(av, frame).side_data
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _UPRIGHT
    # A coded point (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32, count=5).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    return _Orientation(True, flip_rows=b < 0, flip_columns=c < 0)


def _keep_known_side_data(av: Any, frame: Any) -> Any:
    known = {kind.value for kind in av.sidedata.sidedata.Type}
    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=1)]
    nodes += [graph.add("sidedata", f"delete:{kind}") for kind in range(128) if kind not in known]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def _fill_graph(graph: Any, frame: Any, region: Region) -> Any:
    """Make a filter graph take frames like this one to the region, which is RGB where it is resized."""
    graph.threads = 1
    time_base = frame.time_base or 1
    buffer = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    nodes = [buffer, graph.add("crop", f"{region.width}:{region.height}:{region.left}:{region.top}:exact=1")]
    if (region.height, region.width) != (region.new_height, region.new_width):
        nodes.append(graph.add("scale", f"{region.new_width}:{region.new_height}:flags=bilinear"))
        nodes.append(graph.add("format", "rgb24"))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph
