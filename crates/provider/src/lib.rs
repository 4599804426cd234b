//! minichat-provider
