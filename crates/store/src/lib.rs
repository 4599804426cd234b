//! minichat-store
