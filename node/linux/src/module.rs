//! Kernel modules, decompressed by the kernel.
