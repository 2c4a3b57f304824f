"""The lines of a stream of bytes, however it comes in chunks."""

from __future__ import annotations

LONGEST_LINE = 1024 * 1024
"""Most bytes of a line that are kept together."""


class Lines:
    """Cuts a stream of UTF-8 into lines, however the stream comes in chunks.

    Lines end with LF or CR LF. What is not UTF-8 becomes U+FFFD. A line longer than `LONGEST_LINE` is handed on in
    pieces of that size, cut between characters; ``pieces`` has the places of such in the latest answer.
    """

    def __init__(self) -> None:
        self.pieces: set[int] = set()
        self._pending = bytearray()
        self._inside = False

    def feed(self, data: bytes) -> list[str]:
        """The lines, without their ends, that ``data`` completes."""
        self.pieces = set()
        lines: list[str] = []
        *ended, rest = data.split(b"\n")
        if ended:
            ended[0] = bytes(self._pending + ended[0])
            self._pending.clear()
        for raw in ended:
            self._finish(raw, lines)
        self._pending += rest
        if len(self._pending) > LONGEST_LINE:
            del self._pending[: self._cut(self._pending, lines)]
        return lines

    def end(self) -> list[str]:
        """What is left and has no line end: one line or none. A CR at its end is taken for half of a line end."""
        self.pieces = set()
        lines: list[str] = []
        if self._pending:
            self._finish(bytes(self._pending), lines)
            self._pending.clear()
        return lines

    def _finish(self, raw: bytes, lines: list[str]) -> None:
        if len(raw) > LONGEST_LINE:
            raw = raw[self._cut(raw, lines) :]
        if self._inside:
            self.pieces.add(len(lines))
            self._inside = False
        lines.append(raw.removesuffix(b"\r").decode("utf-8", "replace"))

    def _cut(self, raw: bytes | bytearray, lines: list[str]) -> int:
        """Hand on full pieces and say where the rest begins; a CR at the end may be half of a line end."""
        start, size = 0, len(raw) - raw.endswith(b"\r")
        while size - start > LONGEST_LINE:
            full = start + LONGEST_LINE
            end = next((at for at in range(full, full - 4, -1) if raw[at] & 0xC0 != 0x80), full)
            self.pieces.add(len(lines))
            lines.append(raw[start:end].decode("utf-8", "replace"))
            start, self._inside = end, True
        return start
