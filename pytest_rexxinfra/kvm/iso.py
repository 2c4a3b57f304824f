"""CD-ROM images: ISO 9660 with Rock Ridge, which keeps names and modes of files.

Written by pycdlib, so that the controller needs no program of its system for it: genisoimage has been without a
maintainer for years, xorriso is missing on most computers, and both read what they write from a directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..errors import SystemUnavailable

if TYPE_CHECKING:
    from pycdlib import PyCdlib

Content = bytes | Path
"""What a file has in it: these bytes, or those and the mode of a file of the controller."""

_MODE = 0o100444
_INSTALL = "pip install 'pytest-rexxinfra[kvm]'"


def iso_image(label: str, files: Mapping[str, Content]) -> bytes:
    """An image with that volume label and those files, by their paths in it, for example ``lib/libc.so.6``.

    Raises `SystemUnavailable` without pycdlib, `OSError` for a file that cannot be read.
    """
    try:
        from pycdlib import PyCdlib
    except ImportError as missing:
        raise SystemUnavailable(f"images of CD-ROMs need pycdlib: {missing}", where="kvm", hint=_INSTALL) from missing
    image = PyCdlib()
    image.new(interchange_level=3, vol_ident=label, rock_ridge="1.09")
    try:
        places = {PurePosixPath("/"): ""}
        for number, (name, content) in enumerate(sorted(files.items())):
            path = PurePosixPath("/", name)
            _make_folder(image, path.parent, places)
            _add(image, path, f"{places[path.parent]}/{number:08}.;1", content)
        target = BytesIO()
        image.write_fp(target)
        return target.getvalue()
    finally:
        image.close()


def _make_folder(image: PyCdlib, path: PurePosixPath, places: dict[PurePosixPath, str]) -> None:
    """Make a folder and those above it; ``places`` are the names that plain ISO 9660 has for them, short ones."""
    if path in places:
        return
    _make_folder(image, path.parent, places)
    places[path] = f"{places[path.parent]}/{len(places):08}"
    image.add_directory(places[path], rr_name=path.name, file_mode=0o040555)


def _add(image: PyCdlib, path: PurePosixPath, place: str, content: Content) -> None:
    if isinstance(content, Path):
        mode = content.stat().st_mode
        image.add_file(str(content), place, rr_name=path.name, file_mode=mode)
    else:
        data = BytesIO(content)
        image.add_fp(data, len(content), place, rr_name=path.name, file_mode=_MODE)
