//! Direct, stable block I/O on devices and files.
