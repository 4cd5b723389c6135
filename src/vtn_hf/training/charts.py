"""Charts as SVG, to be put into an HTML page as they are; no plotting library is needed. Names are escaped."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image


# (x, y) pairs of a curve.
Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 34
# Okabe and Ito's palette, which colour-blind people can tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
# The colours of none and of all videos of a class.
_LOW, _HIGH = np.array([247, 251, 255]), np.array([8, 48, 107])


def draw_curves(title: str, x_label: str, curves: Mapping[str, Points], y_max: float | None = None) -> Markup:
    """
    Draws curves over a common axis, each point with its values as a tooltip; nothing, if all are at one place.

    Args:
        title (`str`), x_label (`str`): What is drawn, and over what.
        curves (`Mapping[str, Points]`): The points of each curve, by its name; those that are not finite are left out.
        y_max (`float`, *optional*): Upper end of the axis; defaults to the highest point.
    """
    finite = {name: [point for point in points if np.isfinite(point).all()] for name, points in curves.items()}
    curves = {name: points for name, points in finite.items() if points}
    if len({x for points in curves.values() for x, _ in points}) < 2:  # which is no curve
        return Markup("")
    xs, ys = np.concatenate([*map(np.array, curves.values())]).T
    axes = _Axes(xs.min(), xs.max(), min(0, ys.min()), max(ys.max() * 1.05, 1e-9))
    if y_max is not None:
        axes.high = y_max
    lines = [
        _draw_curve(name, points, colour, axes)
        for (name, points), colour in zip(curves.items(), _COLOURS, strict=False)
    ]
    legend = [
        Markup('<span><i style="background:{}"></i>{}</span>').format(colour, name)
        for name, colour in zip(curves, _COLOURS, strict=False)
    ]
    return Markup(
        '<figure><figcaption>{}</figcaption><svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title>'
        '{}{}</svg><p class="legend">{}</p></figure>'
    ).format(title, _WIDTH, _HEIGHT, title, axes.draw(x_label), Markup("").join(lines), Markup("").join(legend))


@dataclass
class _Axes:
    """The axes of a chart: map values to coordinates in the picture."""

    left: float
    right: float
    low: float
    high: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - self.left) / (self.right - self.left) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - (y - self.low) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM),
        )

    def draw(self, x_label: str) -> Markup:
        parts = [Markup('<text x="{}" y="{}" class="middle">{}</text>').format(_WIDTH / 2, _HEIGHT - 4, x_label)]
        for value in _choose_ticks(self.low, self.high):
            y = self.place(self.left, value)[1]
            line = Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(_LEFT, y, _WIDTH - _RIGHT)
            parts += [line, Markup('<text x="{}" y="{:.1f}" class="end">{:g}</text>').format(_LEFT - 6, y + 4, value)]
        for value in _choose_ticks(self.left, self.right):
            x, y = self.place(value, self.low)[0], _HEIGHT - _BOTTOM + 15
            parts.append(Markup('<text x="{:.1f}" y="{}" class="middle">{:g}</text>').format(x, y, value))
        return Markup("").join(parts)


def _draw_curve(name: str, points: Points, colour: str, axes: _Axes) -> Markup:
    places = [axes.place(*point) for point in points]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    # The points of a long curve are just large enough for their tooltips.
    radius = 3 if len(points) <= 60 else 1
    dots = [
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}: {:.4g} at {:.4g}</title></circle>').format(
            x, y, radius, name, value, at
        )
        for (x, y), (at, value) in zip(places, points, strict=True)
    ]
    return Markup('<g fill="{0}" stroke="{0}"><path fill="none" stroke-width="1.6" d="{1}"/>{2}</g>').format(
        colour, line, Markup("").join(dots)
    )


def _choose_ticks(low: float, high: float) -> list[float]:
    """About five round numbers from one to the other."""
    step = 10 ** np.floor(np.log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    return [float(f"{value:.12g}") for value in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]


def draw_matrix(counts: np.ndarray, names: list[str]) -> Markup:
    """
    Draws a confusion matrix as a table with a cell per pair of classes: rows are the true classes, and the colour of a
    cell is its share of the row.

    Args:
        counts (`np.ndarray` of shape `(classes, classes)`): Videos.
        names (`list[str]`): Of the classes.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = Markup("").join(Markup("<th scope=col><span>{}</span></th>").format(name) for name in names)
    rows = []
    for row, name in enumerate(names):
        cells = [
            Markup('<td style="background:{};color:{}" title="{} taken for {}: {}">{}</td>').format(
                "rgb({},{},{})".format(*(_LOW + (_HIGH - _LOW) * shares[row, column]).round().astype(int)),
                "#fff" if shares[row, column] > 0.5 else "#222",
                name,
                names[column],
                counts[row, column],
                counts[row, column] or "",
            )
            for column in range(len(names))
        ]
        rows.append(Markup("<tr><th scope=row>{}</th>{}</tr>").format(name, Markup("").join(cells)))
    return Markup('<table class="matrix"><tr><td></td>{}</tr>{}</table>').format(head, Markup("").join(rows))


def draw_large_matrix(counts: np.ndarray) -> Markup:
    """As [`draw_matrix`], for classes that are too many to be named: a picture with a pixel per pair of classes."""
    shares = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[..., None]
    picture = embed_picture((_LOW + (_HIGH - _LOW) * shares**0.5).round().astype(np.uint8), "png")
    return Markup('<img class="pixels" src="{}" alt="confusion matrix">').format(picture)


def draw_attention(attention: np.ndarray, shown: np.ndarray) -> Markup:
    """
    Draws a bar per frame, all together as wide as the strip of `shown` frames above them.

    Args:
        attention (`np.ndarray` of shape `(frames,)`): How much of it each frame gets; not negative.
        shown (`np.ndarray`): Numbers of the frames whose pictures are shown; their bars stand out.
    """
    heights = 40 * attention / max(attention.max(), 1e-12)
    bars = "".join(f"M{frame} 40h1v-{height:.1f}h-1z" for frame, height in enumerate(heights))
    chosen = "".join(f"M{frame} 40h1v-{heights[frame]:.1f}h-1z" for frame in shown)
    # Attention spread evenly would reach up to here.
    even = 40 - heights.mean()
    return Markup(
        '<svg class="attention" viewBox="0 0 {0} 40" preserveAspectRatio="none" role="img">'
        "<title>attention to each of {0} frames</title>"
        '<path fill="#9ab" d="{1}"/><path fill="#d55e00" d="{2}"/><path class="even" d="M0 {3:.1f}H{0}"/></svg>'
    ).format(len(attention), bars, chosen, even)


def embed_picture(picture: np.ndarray, format: str = "jpeg") -> str:
    """Encodes a picture, uint8 `(height, width, 3)`, as a `data:` URL."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format, quality=80)
    return f"data:image/{format};base64,{base64.b64encode(file.getvalue()).decode()}"
