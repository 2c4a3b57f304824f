"""Vagrant: its command, the Vagrantfiles it reads, and the providers whose machines it makes."""
