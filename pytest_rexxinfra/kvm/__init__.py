"""Virtual machines of QEMU, through libvirt."""
