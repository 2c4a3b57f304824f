"""The systems a machine can be made in: one driver a file, found through entry points."""
