//! minichat-tests
