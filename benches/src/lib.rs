//! minichat-benches
