//! minichat-metrics
