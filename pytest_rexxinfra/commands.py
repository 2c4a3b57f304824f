"""Which commands a policy refuses: destruction by accident, and what the user lists.

Only the outermost words count: those of the command line itself and of an ``sh -c`` in it. What a script
does, what a variable holds and what is merely printed is not looked at. No boundary for who means harm.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import PurePosixPath

_SUSPECT = re.compile(
    r"\b(?:rm|dd|mkfs|mke2fs|mkswap|wipefs|shred|blkdiscard)\b"
    r"|\(\s*\)\s*\{|>\|?\s*['\"]?/+dev/+(?!null|zero|full|tty|std|fd|shm)"
)
"""Found in every text that the built-in rules can refuse, and in few others."""

_TOKEN = re.compile(
    r"""(?P<gap>[ \t\r]+|\\\n)
      | (?P<comment>\#[^\n]*)
      | (?P<end>\n|;;?|&&|\|\||\|&|\||&(?!>)|[()`])
      | (?P<redirection>\d*(?:<<-|<<<|<<|<>|<&|<|>>|>\||>&|>)|&>>?)
      | (?P<word>(?:[^\s;&|()<>'"`\\]+|\\[^\n]|'[^']*'|"(?:[^"\\]|\\.)*")+)
    """,
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(r"""\\(.)|'([^']*)'|"((?:[^"\\]|\\.)*)"|([^'"\\]+)""", re.DOTALL)
_PREFIX_WORD = re.compile(r"-.*|[\d.]+[smhd]?", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_FORK_BOMB = re.compile(r"(?<!\S)(\S+) \( \) \{ \1 \| \1 & ")

_KEYWORDS = frozenset(("if", "then", "elif", "else", "while", "until", "do", "!", "{"))
_PREFIXES = frozenset(
    (
        *("busybox", "command", "doas", "env", "exec", "ionice", "nice", "nohup"),
        *("setsid", "stdbuf", "sudo", "time", "timeout"),
    )
)
_VALUED = frozenset(("-a", "-c", "-g", "-k", "-n", "-s", "-u"))
"""Options of the prefixes that a word belongs to."""
_SHELLS = frozenset(("sh", "ash", "bash", "dash", "ksh", "zsh"))
_FORMATTING = frozenset(("mke2fs", "mkswap", "wipefs", "shred", "blkdiscard"))
_HARMLESS = re.compile(r"/dev/(null|zero|full|tty|std(in|out|err)|(fd|shm|pts|mqueue)/.*)")
_OTHER_DISK = re.compile(r"/dev/(vd[b-z]|sd[a-z])\d*")
"""A disk of a virtual machine's that its root file system is not on."""
_DISK = re.compile(r"/dev/((sd|hd|vd|xvd|nvme|mmcblk|md|dm-|loop)\w*|mapper/.+|disk/.+)")


def refusal(command: str | Sequence[str], banned: Sequence[str] = (), own_disks: bool = False) -> str | None:
    """Why a command, a shell line or words that no shell interprets, is refused; else ``None``.

    ``banned`` are commands of the user's: their words are patterns for the first words of a command. A machine with
    ``own_disks`` may write to them, but for the first one, which has its files.
    """
    if not isinstance(command, str):
        return _simple(list(command), banned, own_disks)
    if not banned and not _SUSPECT.search(command):
        return None
    tokens = list(_tokens(command))
    if _FORK_BOMB.search("".join(f"{'_' if re.search('[ _]', text) else text} " for _, text in tokens if text != "\n")):
        return "a fork bomb"
    words: list[str] = []
    target = False
    for kind, text in [*tokens, ("end", "\n")]:
        if kind == "word" and target:
            if _DISK.fullmatch(_joined(text)) and not (own_disks and _OTHER_DISK.fullmatch(_joined(text))):
                return f"writing to the disk {text}"
        elif kind == "word":
            words.append(text)
        elif kind == "end":
            why = _simple(words, banned, own_disks)
            if why:
                return why
            words = []
        target = kind == "redirection" and ">" in text
    return None


def _tokens(line: str) -> Iterator[tuple[str, str]]:
    """Words without their quotes, operators and redirections; what stands in a here-document is left out."""
    place, heredoc = 0, ""
    pending: list[tuple[str, str]] = []
    while place < len(line):
        match = _TOKEN.match(line, place)
        if match is None:
            # A quote without its end: for the shell to judge.
            place += 1
            continue
        kind, text = str(match.lastgroup), match[0]
        place = match.end()
        if kind == "word":
            text = _unquoted(text)
            if heredoc:
                pending.append((text, heredoc))
                heredoc = ""
                continue
        elif kind == "redirection" and text.endswith(("<<", "<<-")):
            heredoc = text
        elif kind in ("gap", "comment"):
            continue
        if not heredoc:
            yield kind, text
        if kind == "end" and text == "\n":
            for end, operator in pending:
                place = _after(line, place, end, operator.endswith("-"))
            pending.clear()


def _after(line: str, place: int, end: str, tabs: bool) -> int:
    """Where a here-document that begins at ``place`` is over."""
    indent = r"\t*" if tabs else ""
    found = re.compile(rf"^{indent}{re.escape(end)}$\n?", re.MULTILINE).search(line, place)
    return found.end() if found else len(line)


def _unquoted(word: str) -> str:
    return "".join(next(part for part in match.groups() if part is not None) for match in _PIECE.finditer(word))


def _simple(words: list[str], banned: Sequence[str], own_disks: bool) -> str | None:
    """Why one command without operators is refused."""
    words = _without_prefixes(words)
    if not words:
        return None
    name, arguments = PurePosixPath(words[0]).name, words[1:]
    for each in banned:
        first, *rest = _patterns(each)
        if (fnmatchcase(words[0], first) or fnmatchcase(name, first)) and _begin(arguments, rest):
            return f"the banned command `{each}`"
    if name in _SHELLS:
        options = [number for number, word in enumerate(arguments) if re.fullmatch(r"-[a-z]*c[a-z]*", word)]
        inner = arguments[options[0] + 1 : options[0] + 2] if options else []
        return refusal(inner[0], banned, own_disks) if inner else None
    if name == "rm":
        flags = [word for word in arguments if word.startswith("-")]
        recursive = any(flag == "--recursive" or re.fullmatch(r"-[a-zA-Z]*[rR][a-zA-Z]*", flag) for flag in flags)
        roots = [word for word in arguments if re.fullmatch(r"/[/.]*\*?", word)]
        return f"removing {roots[0]}" if recursive and roots else None
    if name == "dd":
        outputs = [_joined(word[3:]) for word in arguments if word.startswith("of=")]
        return next((f"writing to the device {each}" for each in outputs if _is_device(each, own_disks)), None)
    if name in _FORMATTING or name.partition(".")[0] == "mkfs":
        devices = [each for each in map(_joined, arguments) if _is_device(each, own_disks)]
        return next((f"{name} of the device {each}" for each in devices), None)
    return None


@cache
def _patterns(text: str) -> list[str]:
    return shlex.split(text)


def check_pattern(text: str) -> None:
    """Raises `ValueError` for a text that cannot be one of the ``banned``."""
    if not _patterns(text):
        raise ValueError("there is no word in it")


def _without_prefixes(words: list[str]) -> list[str]:
    """The words from the command's own name on."""
    prefixed = False
    for number, word in enumerate(words):
        if PurePosixPath(word).name in _PREFIXES:
            prefixed = True
        elif prefixed and (_PREFIX_WORD.fullmatch(word) or words[number - 1] in _VALUED):
            continue
        elif not _ASSIGNMENT.match(word) and (prefixed or word not in _KEYWORDS):
            return words[number:]
    return []


def _begin(words: Sequence[str], patterns: Sequence[str]) -> bool:
    return len(words) >= len(patterns) and all(map(fnmatchcase, words, patterns))


def _is_device(path: str, own_disks: bool) -> bool:
    """Whether a path is of a device on which nobody may write in place."""
    harmless = _HARMLESS.fullmatch(path) or (own_disks and _OTHER_DISK.fullmatch(path))
    return path.startswith("/dev/") and not harmless


def _joined(path: str) -> str:
    """The path without repeated slashes and dots that mean nothing."""
    return re.sub(r"/(\./|/)+", "/", path)
