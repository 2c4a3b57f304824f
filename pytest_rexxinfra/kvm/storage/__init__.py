"""Storage pools of `kvm`, and the disks in them: one kind of pool a file, found by its name."""
