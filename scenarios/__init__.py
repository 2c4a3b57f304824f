"""Acceptance scenarios: what a REXX build does in a real machine, written as a user of the plugin would.

Run them with `pytest scenarios --rexx-target=docker,local --rexx-build=PATH` for a RexxJS, or with
``--rexx-build=regina`` for the reference. Where the two differ a scenario says what it expects of which.
"""
