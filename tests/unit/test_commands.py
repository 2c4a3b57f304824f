"""Destruction by accident is refused; texts that only contain such words are not."""

from __future__ import annotations

import time

import pytest

from pytest_rexxinfra import commands

REFUSED = [
    ("rm -rf /", "removing /"),
    ("rm -fr / ", "removing /"),
    ("rm --recursive --no-preserve-root /", "removing /"),
    ("rm\\\n -rf /", "removing /"),
    ("'rm' -rf \"/\"", "removing /"),
    ("rm -rf //", "removing //"),
    ("rm -rf /../", "removing /../"),
    ("/bin/rm -rf /*", "removing /*"),
    ("cd / && rm -rf /", "removing /"),
    ("true\nrm -rf /\n", "removing /"),
    ("if true; then rm -rf /; fi", "removing /"),
    ("(rm -rf /)", "removing /"),
    ("echo $(rm -rf /)", "removing /"),
    ("echo `rm -rf /`", "removing /"),
    ("cat <<E\nx\nE\nrm -rf /", "removing /"),
    ("A=b rm -Rf /", "removing /"),
    ("sudo -u root rm -rf /", "removing /"),
    ("env A=1 timeout 5 rm -rf /", "removing /"),
    ("busybox rm -rf /", "removing /"),
    ("sh -c 'rm -rf /'", "removing /"),
    ("exec bash -ec \"rm -rf '/'\"", "removing /"),
    ("mkfs.ext4 /dev/sda1", "mkfs.ext4 of the device /dev/sda1"),
    ("wipefs -a /dev/vda", "wipefs of the device /dev/vda"),
    ("dd if=/dev/zero of=/dev/sda bs=1M", "writing to the device /dev/sda"),
    ("dd if=x of=/dev/./sda", "writing to the device /dev/sda"),
    ("cat x > /dev/sda", "writing to the disk /dev/sda"),
    ("cat x >>/dev/nvme0n1p1", "writing to the disk /dev/nvme0n1p1"),
    (":(){ :|:& };:", "a fork bomb"),
    ("bomb() {\n bomb | bomb &\n}; bomb", "a fork bomb"),
]
ALLOWED = [
    "echo 'rm -rf /'",
    'echo "it\'s rm -rf /"',
    "echo 'one` rm -rf /'",
    "grep -r 'rm -rf /' .",
    "printf '%s' \"mkfs /dev/sda\"",
    "echo rm -rf /",
    "# rm -rf /",
    "echo hi # it's; rm -rf /",
    "cat <<E\nrm -rf /\nE",
    "cat <<-'E' >f\n\trm -rf /\n\tE\necho done",
    "rm -rf /tmp/x /srv",
    "rm -rf ./",
    "rm -f /",
    "x=/; rm -rf $x/sub",
    "git rm -r /",
    "dd if=/dev/zero of=/dev/null",
    "dd if=/dev/sda of=/tmp/x",
    "dd if=/dev/zero of=/dev/shm/x",
    "mkfs.ext4 disk.img",
    "echo x >/dev/null 2>&1",
    "echo ':(){ :|:& };:'",
    "f() { g | h & }; f",
    "echo 'no end; rm",
    "",
    ";;",
]


@pytest.mark.parametrize(("command", "why"), REFUSED)
def test_refused(command: str, why: str) -> None:
    assert commands.refusal(command) == why


@pytest.mark.parametrize("command", ALLOWED)
def test_allowed(command: str) -> None:
    assert commands.refusal(command) is None


def test_words_are_no_shell_line() -> None:
    assert commands.refusal(["rm", "-rf", "/"]) == "removing /"
    assert commands.refusal(["sh", "-c", "rm -rf /"]) == "removing /"
    assert commands.refusal(["echo", "x; rm -rf /"]) is None
    assert commands.refusal(["rm -rf /"]) is None
    assert commands.refusal([]) is None


@pytest.mark.parametrize(
    ("command", "banned", "refused"),
    [
        ("curl -s x", "curl", True),
        ("/usr/bin/curl x", "curl", True),
        ("a | curl x", "cur[kl] *", True),
        ("curl", "curl *", False),
        ("echo curl", "curl", False),
        ("curly", "curl", False),
        ("git push -f", "git push", True),
        ("git pull", "git push", False),
        ("sudo shutdown -h now", "shutdown", True),
        ("/opt/bin/tool", "/opt/bin/*", True),
        ("'a b' c", "'a b'", True),
    ],
)
def test_banned_by_the_user(command: str, banned: str, refused: bool) -> None:
    assert commands.refusal(command, [banned]) == (f"the banned command `{banned}`" if refused else None)


LONG = ["a" * 100_000, "a'" * 20_001, '"\\' * 20_001, "<<E\n" * 5_000, "(" * 40_000, "a " * 40_000, "/." * 50_000 + "x"]


@pytest.mark.parametrize("text", LONG, ids=lambda text: ascii(text[:5]))
def test_long_texts_are_quick(text: str) -> None:
    """Nothing is looked at again and again; what does so takes a minute for these."""
    started = time.monotonic()
    assert commands.refusal(f"rm -r {text}") is None
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("command", ["echo x >/dev/vdb", "dd if=/dev/zero of=/dev/sda", ["mke2fs", "-q", "/dev/vdc1"]])
def test_disks_of_its_own_may_be_written_to(command: str | list[str]) -> None:
    assert commands.refusal(command)
    assert commands.refusal(command, own_disks=True) is None


@pytest.mark.parametrize("command", ["echo x >/dev/vda", "sh -c 'dd if=/dev/zero of=/dev/vda1'", "mkfs.ext4 /dev/dm-0"])
def test_the_disk_with_its_files_may_not(command: str) -> None:
    assert commands.refusal(command, own_disks=True)
