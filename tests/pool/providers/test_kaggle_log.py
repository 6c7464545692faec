"""What is said of a session that broke: its own sentence, whatever Kaggle's tools print after it."""

from __future__ import annotations

import pytest

from pool.providers.kaggle_log import last_word

NOISE = """\
[NbConvertApp] Converting notebook __notebook__.ipynb to html
/opt/conda/lib/python3.11/site-packages/nbconvert/filters/highlight.py:71: UserWarning: IPython3 lexer unavailable
  return _pygments_highlight(
[NbConvertApp] Writing 298522 bytes to __results__.html
"""


@pytest.mark.parametrize(
    ("log", "word"),
    [
        ("", ""),
        (NOISE, ""),
        ("one\ntwo\n" + NOISE, "two"),
        (
            "Dormouse: there is no join token.\nValueError: later\n" + NOISE,
            "Dormouse: there is no join token.",
        ),
        ("\x1b[0;31mDormouse: no.\x1b[0m\n" + NOISE, "Dormouse: no."),
        ('    return [f"Dormouse: {self}"]\nDormouse: first\nDormouse: second\nx', "Dormouse: second"),
        ("a" * 400, "a" * 300),
    ],
)
def test_last_word_is_the_notebooks_and_not_its_converters(log, word):
    assert last_word(log) == word
