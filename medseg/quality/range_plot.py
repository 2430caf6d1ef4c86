"""Volumes against the range of the training cases, as SVG that is part of a page.

The scale is logarithmic: half and double lie equally far from the median.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medseg.quality.checks import millilitres, volume_limits
from medseg.reference import Range

WIDTH, HEIGHT = 640, 54
LEFT, RIGHT = 14, 14
MIDDLE = 22
MOST_TICKS = 7
TICKS = (1, 2, 5)
FINE_TICKS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
"""For scales that don't hold three coarse ticks."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One case in a plot: its name, its anchor in the page, and its volume, ml."""

    name: str
    anchor: str
    volume_ml: float


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic scale from `low` to `high` ml over a plot's width."""

    low: float
    high: float

    @classmethod
    def over(cls, volumes: Sequence[float]) -> Scale:
        """Return a scale that holds all positive volumes with some room."""
        positive = [volume for volume in volumes if volume > 0] or [1.0]
        return cls(min(positive) / 1.25, max(positive) * 1.25)

    def __call__(self, volume: float) -> float:
        """Return the place of a volume, 0 to 1, clipped."""
        share = math.log(max(volume, self.low) / self.low) / math.log(self.high / self.low)
        return min(1.0, share)

    def ticks(self) -> list[float]:
        """Return round volumes on the scale: as coarse as still gives three of them."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        powers = range(first, last + 1)
        coarse, fine, decades = (
            [
                digit * 10.0**power
                for power in powers
                for digit in digits
                if self.low <= digit * 10.0**power <= self.high
            ]
            for digits in (TICKS, FINE_TICKS, (1,))
        )
        return fine if len(coarse) < 3 else coarse if len(coarse) <= MOST_TICKS else decades


def volume_plot(label: str, colour: str, dots: Sequence[Dot], known: Range | None) -> Markup:
    """Return a strip with a dot a case over the band of the training cases; unusual dots are links.

    Parameters
    ----------
    label : name of the structure.
    colour : of the label, as CSS.
    known : training volumes; None: no band.
    """
    bounds = volume_limits(known) if known else None
    band = [known.low, known.high] if known else []
    scale = Scale.over([*(dot.volume_ml for dot in dots), *band, *(bounds or ())])
    parts = [_band(scale, known, bounds)]
    low, high = bounds or (-math.inf, math.inf)
    usual = [dot for dot in dots if low <= dot.volume_ml <= high]
    unusual = [dot for dot in dots if not low <= dot.volume_ml <= high]
    # All usual dots are one path: a thousand elements for each label would make the page slow.
    path = "".join(f"M{_x(scale(dot.volume_ml))} {_y(number)}h0" for number, dot in enumerate(usual))
    parts.append(Markup('<path class="dots" style="stroke:{}" d="{}"/>').format(colour, path))
    parts += [
        Markup('<a href="#{}"><circle class="odd" cx="{}" cy="{}" r="5"><title>{}: {}</title></circle></a>').format(
            dot.anchor, _x(scale(dot.volume_ml)), _y(number), dot.name, millilitres(dot.volume_ml)
        )
        for number, dot in enumerate(unusual)
    ]
    parts += [
        Markup('<text class="tick" x="{}" y="{}">{}</text>').format(_x(scale(tick)), HEIGHT - 3, f"{tick:g}")
        for tick in scale.ticks()
    ]
    described = f"Volumes of {label} in {len(dots)} cases, {len(unusual)} of them outside the range of training"
    head = Markup('<svg class="strip" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, described)
    return head + Markup("").join(parts) + Markup("</svg>")


def case_bar(volume_ml: float, colour: str, known: Range) -> Markup:
    """Return a small bar: the band of training volumes, its median, and where this case lies."""
    bounds = volume_limits(known) or (known.low, known.high)
    scale = Scale.over([volume_ml, known.low, known.high, *bounds])
    low, high, median, here = (round(100 * scale(v), 1) for v in (known.low, known.high, known.median, volume_ml))
    is_odd = not bounds[0] <= volume_ml <= bounds[1]
    title = f"training: {millilitres(known.low)} to {millilitres(known.high)}, median {millilitres(known.median)}"
    return Markup(
        '<span class="bar" title="{}"><i class="band" style="left:{}%;width:{}%"></i><i class="mid" style="left:{}%">'
        '</i><i class="here{}" style="left:{}%;background:{}"></i></span>'
    ).format(title, low, round(high - low, 1), median, " odd" if is_odd else "", here, colour)


def _band(scale: Scale, known: Range | None, bounds: tuple[float, float] | None) -> Markup:
    if not known:
        return Markup("")
    outer = bounds or (known.low, known.high)
    parts = []
    for name, (low, high) in (("outer", outer), ("inner", (known.low, known.high))):
        left, right = _x(scale(low)), _x(scale(high))
        shape = '<rect class="{}" x="{}" y="4" width="{}" height="{}" rx="3"/>'
        parts.append(Markup(shape).format(name, left, round(max(right - left, 1), 1), 2 * (MIDDLE - 4)))
    middle = _x(scale(known.median))
    line = Markup('<line class="median" x1="{0}" x2="{0}" y1="4" y2="{1}"/>').format(middle, 2 * MIDDLE - 4)
    return Markup("").join(parts) + line


def _x(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(number: int) -> float:
    """Spread dots by their number, not at random: the same cases give the same page."""
    return round(MIDDLE + ((number * 0.618034) % 1.0 - 0.5) * 22, 1)
