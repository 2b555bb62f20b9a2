//! What is on a block device: partition tables, labels, UUIDs.
