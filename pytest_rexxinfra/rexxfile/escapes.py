"""Text of a machine that is shown on a terminal: nothing in it can move the cursor or change what stands there."""

from __future__ import annotations

import re

# Controls, also the C1 ones; marks of direction and other invisible ones; separators of lines; halves of pairs.
_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """``text`` with what has no shape of its own written as an escape of Python's: ``\\x1b[2J``; tabs stay."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
