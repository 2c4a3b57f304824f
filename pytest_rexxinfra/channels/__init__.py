"""The ways into a machine: byte streams of a process in it, and the persistent shell on top of one."""
