//! minichat-crds
