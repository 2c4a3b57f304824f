"""What the programs on a Pi print, read: those of gpiod in both versions, of i2c-tools, and of the camera."""

from __future__ import annotations

from pytest_rexxinfra.pi.camera import Camera, parse_cameras
from pytest_rexxinfra.pi.gpio import Chip
from pytest_rexxinfra.pi.gpio_tools import parse_chips, parse_lines
from pytest_rexxinfra.pi.i2c import Found, parse_grid

GPIODETECT = """\
gpiochip0 [pinctrl-bcm2835] (54 lines)
gpiochip1 [raspberrypi-exp-gpio] (8 lines)
"""

GPIOINFO_1 = """\
gpiochip0 - 54 lines:
\tline   0:     "ID_SDA"       unused   input  active-high 
\tline   1:     "ID_SCL"       unused   input  active-high 
\tline   2:       "SDA1"       unused   input  active-high 
\tline  17:     "GPIO17"    "gpioset"  output  active-high [used]
\tline  28:      unnamed       unused   input  active-high 
\tline  29:        "LED"     "output"   input   active-low [used]
"""  # noqa: W291 - so does it print it

GPIOINFO_2 = """\
gpiochip0 - 54 lines:
\tline   0:\t"ID_SDA"        \tinput
\tline   1:\t"ID_SCL"        \tinput
\tline   2:\t"SDA1"          \tinput
\tline  17:\t"GPIO17"        \toutput consumer="gpioset"
\tline  28:\tunnamed         \tinput
\tline  29:\t"LED"           \tinput active-low consumer="output"
"""

LINES = [("ID_SDA", "in"), ("ID_SCL", "in"), ("SDA1", "in"), ("GPIO17", "out"), ("", "in"), ("LED", "in")]

GRID = """\
     0  1  2  3  4  5  6  7  8  9  a  b  c  d  e  f
00:                         -- -- -- -- -- -- -- -- 
10: -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- 
20: 20 -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- 
30: -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- 
40: -- -- -- -- -- -- -- -- 48 -- -- -- -- -- -- -- 
50: -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- 
60: -- -- -- -- -- -- -- -- UU -- -- -- -- -- -- -- 
70: -- -- -- -- -- -- -- 77                         
"""  # noqa: W291 - so does it print it

# From https://www.raspberrypi.com/documentation/computers/camera_software.html.
CAMERAS = """\
Available cameras
-----------------
0 : imx219 [3280x2464] (/base/soc/i2c0mux/i2c@1/imx219@10)
    Modes: 'SRGGB10_CSI2P' : 640x480 [206.65 fps - (1000, 752)/1280x960 crop]
                             1640x1232 [41.85 fps - (0, 0)/3280x2464 crop]
1 : imx477 [4056x3040 12-bit RGGB] (/base/soc/i2c0mux/i2c@1/imx477@1a)
    Modes: 'SRGGB12_CSI2P' : 2028x1520 [40.01 fps - (0, 0)/4056x3040 crop]
"""


def test_chips_of_gpiodetect() -> None:
    assert parse_chips(GPIODETECT) == [
        Chip("gpiochip0", "pinctrl-bcm2835", 54),
        Chip("gpiochip1", "raspberrypi-exp-gpio", 8),
    ]


def test_lines_of_gpioinfo_1() -> None:
    assert parse_lines(GPIOINFO_1) == LINES


def test_lines_of_gpioinfo_2() -> None:
    assert parse_lines(GPIOINFO_2) == LINES


def test_devices_of_i2cdetect() -> None:
    assert parse_grid(GRID) == [Found(0x20), Found(0x48), Found(0x68, claimed=True), Found(0x77)]


def test_a_bus_with_nothing_on_it() -> None:
    assert parse_grid(GRID.replace("20 --", "-- --").replace("48", "--").replace("UU", "--").replace("77", "--")) == []


def test_cameras_and_their_sensors() -> None:
    assert parse_cameras(CAMERAS) == [Camera(0, "imx219", 3280, 2464), Camera(1, "imx477", 4056, 3040)]
    assert parse_cameras("No cameras available!\n") == []
