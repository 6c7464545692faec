"""What a person wants to know of a session's log at Kaggle: the sentence that it ended with, not the tools' own noise."""

from __future__ import annotations

import re

WORD_LIMIT = 300

OURS = "Dormouse:"
"""How our notebook, and the agent's cell, begin the sentence that ends a session."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Kaggle runs the notebook through nbconvert, which speaks last: what it wrote, where, and warnings of its libraries.
_NOISE = re.compile(r"\[NbConvertApp\]|.*\b(site|dist)-packages/.*Warning\b|0\.00s - ")


def last_word(log: str) -> str:
    """Our own last sentence; or else the last line that somebody wrote who is not nbconvert; empty where there is none."""
    lines = [line.rstrip() for line in _COLOURS.sub("", log).splitlines() if line.strip()]
    ours = [line.strip() for line in lines if line.lstrip().startswith(OURS)]
    # A line that is set in belongs to the one before it: a warning quotes its source in that way.
    others = [line for line in lines if not line[0].isspace() and not _NOISE.match(line)]
    return (ours or others or [""])[-1][:WORD_LIMIT]
