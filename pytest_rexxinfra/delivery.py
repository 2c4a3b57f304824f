"""The commands that put one file in its place in a machine: there whole, or not at all."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

# A file is written beside its place and moved there, unless that is a device, a pipe, a mount, or a file whose
# directory takes no others. A link is followed, as by a shell. Variables: t where to, n where it is written.
_FUNCTIONS = """
find_place() {
  case "$t" in */*) [ -d "${t%/*}/" ] || mkdir -p "${t%/*}/" || return;; esac
  if [ -L "$t" ]; then l=$(readlink -f "$t"; echo .); [ "$l" = . ] || t=${l%??}; fi
  d=${t%/*}; [ "$d" != "$t" ] || d=.
  n=$t.rexxinfra-$$
  [ ! -e "$t" ] || { [ -f "$t" ] && [ -w "${d:-/}" ]; } || n=
}
dress() {
  chmod "$1" "$3" && { [ -z "$2" ] || chown "$2" "$3"; }
}
settle() {
  dress "$1" "$2" "$n" && { mv -f "$n" "$t" 2>/dev/null || cat "$n" >"$t"; }
}
"""


@dataclass(frozen=True)
class Delivery:
    """A file that goes to ``target``, or with ``name`` into it when that is a directory or ends in ``/``."""

    target: str
    name: str
    mode: int
    owner: str = ""

    @property
    def _begin(self) -> str:
        word = shlex.quote(self.name)
        into = f'case "$t" in */) t="$t"{word};; *) [ ! -d "$t" ] || t="$t"/{word};; esac; '
        return f"{_FUNCTIONS}t={shlex.quote(self.target)}; {into if self.name else ''}find_place || exit"

    @property
    def _dress(self) -> str:
        return f"{self.mode:o} {shlex.quote(self.owner)}"

    @property
    def from_stdin(self) -> str:
        """Puts what comes on standard input there."""
        return f"""{self._begin}
if [ -z "$n" ]; then cat >"$t" && {{ [ ! -f "$t" ] || dress {self._dress} "$t"; }}; exit; fi
trap 'rm -f "$n"' EXIT
(umask 077; cat >"$n") && settle {self._dress}"""

    @property
    def draft(self) -> str:
        """Makes an empty file that nobody else may read.

        Prints its path and that which it is to get, with a NUL between them; prints nothing where there can be none.
        """
        return f"""{self._begin}
umask 077
[ -z "$n" ] || {{ : >"$n" && printf '%s\\0%s' "$n" "$t"; }}"""
