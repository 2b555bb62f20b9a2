//! Loop devices over regular files.
