//! Boots the image in QEMU: harness, scenarios, demo.
