"""What a Raspberry Pi has beyond a host over SSH: pins, buses, camera, services, and what it says of itself."""

from .board import Revision, Throttling
from .camera import Camera
from .gpio import Chip, Edge, Line
from .i2c import Found
from .machine import Pi
from .prerequisites import Prerequisite
from .services import Service

__all__ = ["Camera", "Chip", "Edge", "Found", "Line", "Pi", "Prerequisite", "Revision", "Service", "Throttling"]
