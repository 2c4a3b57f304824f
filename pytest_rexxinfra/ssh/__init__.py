"""Hosts over SSH: where they are, how to log in, and the connections to them. Needs paramiko."""
