"""Runs that are killed in every way at every moment, and the search for what they left behind."""
