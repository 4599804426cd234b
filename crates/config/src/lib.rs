//! minichat-config
