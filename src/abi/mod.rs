//! The kernel's structs and ioctls, one file a header.
