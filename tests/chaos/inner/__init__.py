"""What the runs that get killed consist of."""
