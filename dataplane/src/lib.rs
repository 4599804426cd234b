//! minichat-dataplane
