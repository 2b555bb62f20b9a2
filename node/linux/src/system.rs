//! Host name, entropy, kernel command line.
