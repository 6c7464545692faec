"""How much of an attempt's output is kept: its beginning and its end; what lies between is cut out. Pure."""

from __future__ import annotations

from dataclasses import dataclass

SLACK_BYTES = 4 << 20
"""By how much the end may grow beyond its share before some of it is cut again."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Of a stream of `end` bytes those from cut_from to cut_to are not kept. cut_from is where its beginning is over,
    once that is known; nothing is cut while cut_to is not behind it."""

    end: int
    cut_from: int = 0
    cut_to: int = 0

    @property
    def missing(self) -> int:
        return max(0, self.cut_to - self.cut_from)

    def holds_out(self, offset: int) -> bool:
        """Whether the byte at that offset was cut out."""
        return self.missing > 0 and self.cut_from <= offset < self.cut_to


def capped(extent: Extent, *, total: int, cap: int) -> Extent:
    """The extent after an append. total: how long the stream is where it is written, as far as that is known.

    Half of the cap is for the beginning, half for the end. Where so much more is waiting than the end may have, what
    would be cut at once is skipped: the stream goes on at the new `end`.
    """
    head = cap // 2
    tail = cap - head
    if extent.end < head:
        return extent
    cut_from = extent.cut_from or extent.end
    if total - extent.end > tail:
        return Extent(end=total - tail, cut_from=cut_from, cut_to=total - tail)
    if extent.end - max(cut_from, extent.cut_to) > tail + min(SLACK_BYTES, tail // 4):
        return Extent(end=extent.end, cut_from=cut_from, cut_to=extent.end - tail)
    return Extent(end=extent.end, cut_from=cut_from, cut_to=extent.cut_to)
