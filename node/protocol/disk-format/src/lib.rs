//! Every byte on shared storage.
