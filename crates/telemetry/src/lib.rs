//! minichat-telemetry
