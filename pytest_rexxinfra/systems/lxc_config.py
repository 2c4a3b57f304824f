"""The configuration of one LXC container, see lxc.container.conf(5)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ..idmap import IdMap
from . import bridge
from .launch import PATH, Bind, Launch
from .layers import outside
from .rooted import account
from .sandbox import escape_field

PLACE = "/run/lxc"
"""Where LXC finds what it mounts: the container's root must be able to go there, unlike to the machine's folder."""

SYS = f"{PLACE}/sys"
"""The /sys of the holder's network namespace."""

_DEFAULTS = Path("/usr/share/lxc/config/common.conf")
_MADE = "X-mount.mkdir"
_CLEARED = ("lxc.hook.mount", "lxc.hook.post-stop", "lxc.mount.auto", "lxc.tty.dir")
"""Defaults that are not wanted: LXCFS takes half a second to leave a container."""


def settings(what: Launch, idmap: IdMap | None) -> str:
    """The content of the configuration file of a machine."""
    return "".join(f"{line}\n" for line in _lines(what, idmap))


def _lines(what: Launch, idmap: IdMap | None) -> Iterator[str]:
    spec = what.spec
    if _DEFAULTS.exists():
        yield f"lxc.include = {_DEFAULTS}"
        yield from (f"{name} =" for name in _CLEARED)
    yield f"lxc.rootfs.path = dir:{PLACE}/root"
    yield f"lxc.uts.name = {what.hostname}"
    yield "lxc.apparmor.profile = unconfined"
    yield "lxc.cgroup.relative = 1"
    yield "lxc.tty.max = 0"
    if idmap:
        yield from (f"lxc.idmap = {kind} {first} {outer} {count}" for kind, first, outer, count in idmap.ranges)
    yield "lxc.mount.entry = tmpfs dev/shm tmpfs nosuid,nodev,mode=1777,create=dir 0 0"
    yield from _network(what, idmap)
    if not what.spec.boot:
        yield from _groups(what)
    for number, bind in enumerate(what.binds):
        yield f"lxc.mount.entry = {PLACE}/{number} {_options(what, bind, idmap)}"
    user = account(outside(what.holder, what.root), spec.user) if spec.user and spec.command else None
    yield f"lxc.environment = PATH={spec.env.get('PATH', PATH)}"
    yield f"lxc.environment = HOME={user.home if user else '/root'}"
    # Without a value they are those of LXC's own environment, and so in no file.
    yield from (f"lxc.environment = {name}" for name in spec.env if name != "PATH")
    if spec.boot:
        yield "lxc.init.cmd = /sbin/init"
    elif user:
        yield f"lxc.init.uid = {user.uid}"
        yield f"lxc.init.gid = {user.gid}"


def _network(what: Launch, idmap: IdMap | None) -> Iterator[str]:
    """The network namespace of the holder, or the interface in it.

    Only a namespace of their own do users of a container rule: open low ports, mount its /sys, take away what limits
    its egress.
    """
    mounts = "proc:mixed cgroup:mixed" if what.spec.boot else "proc:mixed"
    own = not (what.spec.network == "host" or what.spec.egress is not None)
    if idmap and not own:
        yield f"lxc.mount.entry = {'/sys' if what.spec.network == 'host' else SYS} sys none rbind,ro 0 0"
    else:
        mounts += " sys:mixed"
    yield f"lxc.mount.auto = {mounts}"
    if not idmap or not own:
        yield "lxc.net.0.type = none"
    elif not what.address:
        yield "lxc.net.0.type = empty"
    else:
        length = 24 if what.spec.network else bridge.subnet().prefixlen
        yield "lxc.net.0.type = phys"
        yield "lxc.net.0.link = eth0"
        yield "lxc.net.0.name = eth0"
        yield "lxc.net.0.flags = up"
        yield f"lxc.net.0.ipv4.address = {what.address}/{length}"


def _groups(what: Launch) -> Iterator[str]:
    """The machine's control group where programs look for their limits, see cgroups(7)."""
    folders = what.cgroup.folders
    if folders.keys() == {"unified"}:
        yield f"lxc.mount.entry = {escape_field(folders['unified'])} sys/fs/cgroup none bind,ro 0 0"
        return
    yield "lxc.mount.entry = tmpfs sys/fs/cgroup tmpfs nosuid,nodev,noexec,mode=755,size=64k 0 0"
    for name, folder in folders.items():
        target = f"sys/fs/cgroup/{name.removeprefix('name=')}"
        yield f"lxc.mount.entry = {escape_field(folder)} {target} none bind,ro,create=dir 0 0"


def _options(what: Launch, bind: Bind, idmap: IdMap | None) -> str:
    """The rest of a mount entry. A volume belongs to the container's users; a build may be on any file system."""
    options = ["bind", f"create={'dir' if Path(bind.source).is_dir() else 'file'}"]
    if bind.read_only:
        options.append("ro")
    if idmap and not (what.spec.build and bind.source == str(what.spec.build.root)):
        options.append("idmap=container")
    return f"{escape_field(bind.target.lstrip('/'))} none {','.join(options)} 0 0"


def gathering(what: Launch) -> str:
    """The shell lines that bring what the configuration names to `PLACE`."""
    lines = [
        f"mount -t tmpfs -o mode=755,{_MADE} rexxinfra {PLACE}",
        f"mount --rbind -o {_MADE} {shlex.quote(what.root)} {PLACE}/root",
    ]
    if what.spec.egress is not None:
        lines.append(f"mount -t sysfs -o {_MADE} rexxinfra {SYS}")
    for number, bind in enumerate(what.binds):
        make = _MADE if Path(bind.source).is_dir() else "rw"
        lines += [] if make == _MADE else [f": >{PLACE}/{number}"]
        lines.append(f"mount --bind -o {make} {shlex.quote(bind.source)} {PLACE}/{number}")
    return "\n".join(lines)
