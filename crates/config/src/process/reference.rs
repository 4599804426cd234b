//! The reference of keys.
