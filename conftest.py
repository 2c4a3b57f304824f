"""Shared by the tests of the plugin and by the scenarios."""

pytest_plugins = ["pytester"]
