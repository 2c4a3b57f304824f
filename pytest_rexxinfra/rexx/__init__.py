"""The REXX side: which interpreter is tested, how scripts run in a machine, and what they report."""
