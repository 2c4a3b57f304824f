"""What a cloud image is told at its first boot: a disk for the data source NoCloud of cloud-init.

https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html. The user's part stays as it is, byte for byte;
ours comes beside it as a boothook, which no setting of the user's replaces. It brings the guest agent along, so that an
image needs neither an agent of its own nor a network.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from email.encoders import encode_base64
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from pathlib import Path
from typing import Any

from ..errors import ProvisionError, UsageError
from .iso import Content, iso_image

LABEL = "cidata"
"""By which cloud-init finds the disk."""

ENDED = "/run/rexxinfra/ended"
"""A file in the guest, there once cloud-init has done everything and the keys are in place; ``ready`` or ``failed``."""

RESULT = "/run/cloud-init/result.json"
STATUS = "/run/cloud-init/status.json"
OUTPUT = "/var/log/cloud-init-output.log"
"""What the commands of the user printed, in the guest."""

OUTPUT_LINES = 40
"""As many last lines of `OUTPUT` are in an error."""

_OURS = Path(__file__).with_name("cloud")
_KIT = "rexxinfra"
_TEMPLATE = "## template: jinja"
_CONFIG = "#cloud-config"
_HINT = "it begins with #cloud-config, or with #! if it is a script"


@dataclass(frozen=True)
class Seed:
    """One machine's seed. ``instance_id`` is new for each machine: cloud-init does its work once for each.

    ``public_key``, a line of authorized_keys, opens the machine for root and for ``user``, who is made if the image and
    the user's data know nobody of that name. A hostname in ``user_data`` counts more than ``hostname``.
    """

    instance_id: str
    hostname: str
    user_data: str | None = None
    public_key: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        """Raises `UsageError` for user data that cloud-init could not read."""
        if self.user_data is not None:
            check_user_data(self.user_data)

    @property
    def meta_data(self) -> bytes:
        # JSON is YAML.
        return json.dumps({"instance-id": self.instance_id, "local-hostname": self.hostname}).encode()

    @property
    def combined_data(self) -> bytes:
        """Our part and the user's, as cloud-init takes several: MIME (RFC 2046)."""
        parts = MIMEMultipart()
        parts.attach(_part("text/cloud-boothook", "rexxinfra", (_OURS / "boot").read_bytes()))
        if self.user_data is not None:
            parts.attach(_part(_media_type(self.user_data), "user-data", self.user_data.encode()))
        return parts.as_bytes()

    @property
    def settings(self) -> bytes:
        """What our part in the guest has to know, for a shell to read."""
        values = {"lease": self.instance_id, "key": (self.public_key or "").strip(), "user": self.user or ""}
        return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()).encode()

    def image(self, kit: Path) -> bytes:
        """The disk, ISO 9660. ``kit`` is a directory with the guest agent: ``agent`` starts it, ``busybox`` helps.

        Raises `SystemUnavailable` without pycdlib.
        """
        files: dict[str, Content] = {
            f"{_KIT}/{path.relative_to(kit)}": path for path in sorted(kit.rglob("*")) if path.is_file()
        }
        files |= {
            "meta-data": self.meta_data,
            "user-data": self.combined_data,
            f"{_KIT}/finish": _OURS / "finish",
            f"{_KIT}/settings": self.settings,
        }
        return iso_image(LABEL, files)


def check_user_data(text: str) -> None:
    """Raise `UsageError` for what cloud-init would pass over with a warning in its log: that is no way to be told."""
    if not text.strip():
        raise UsageError("user_data is empty", hint=_HINT)
    if text.startswith(("#!", _TEMPLATE)):
        return
    try:
        import yaml
    except ImportError:
        if text.startswith(_CONFIG):
            return
        raise UsageError("user_data is neither a cloud-config nor a script", hint=_HINT) from None
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"user_data is no YAML: {error}", hint=_HINT) from error
    if not isinstance(config, Mapping) and not (config is None and text.startswith(_CONFIG)):
        raise UsageError(f"user_data is neither a cloud-config nor a script, but {_kind(config)}", hint=_HINT)


def _kind(config: object) -> str:
    names = {str: "plain text", list: "a list", type(None): "nothing but comments"}
    return names.get(type(config), "a single value")


def _media_type(text: str) -> str:
    if text.startswith("#!"):
        return "text/x-shellscript"
    return "text/jinja2" if text.startswith(_TEMPLATE) else "text/cloud-config"


def _part(media_type: str, name: str, content: bytes) -> MIMEBase:
    part = MIMEBase(*media_type.split("/"), charset="utf-8")
    part.add_header("Content-Disposition", "attachment", filename=name)
    part.set_payload(content)
    encode_base64(part)
    return part


@dataclass(frozen=True)
class Outcome:
    """How cloud-init went: what failed, and what it could put up with."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def check(self, output: str, where: str) -> None:
        """Raise `ProvisionError` if anything failed; ``output`` is the end of `OUTPUT`."""
        if self.errors:
            raise ProvisionError(
                f"cloud-init failed: {'; '.join(self.errors)}",
                output=output,
                where=where,
                hint=f"the machine's {OUTPUT} and /var/log/cloud-init.log tell more",
            )


def cloud_init_outcome(result: bytes, status: bytes = b"") -> Outcome:
    """Read `RESULT`, and `STATUS` for the warnings that cloud-init has from 23.4 on ("recoverable errors").

    https://docs.cloud-init.io/en/latest/explanation/failure_states.html
    """
    try:
        told = json.loads(result)["v1"]
        errors = [str(error) for error in told["errors"]]
        source = str(told["datasource"])
    except (ValueError, KeyError, TypeError) as error:
        return Outcome((f"it left no readable result ({error!r})",))
    if source.startswith("DataSourceNone"):
        errors.append("it did not find its seed")
    return Outcome(tuple(errors), tuple(dict.fromkeys(_warnings(status))))


def _warnings(status: bytes) -> list[str]:
    try:
        told: dict[str, Any] = json.loads(status)["v1"]
        places = [told, *(stage for stage in told.values() if isinstance(stage, Mapping))]
        found = [place.get("recoverable_errors") or {} for place in places]
        return [f"{level}: {text}" for each in found for level, texts in each.items() for text in texts]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
