//! Protocols.
/// Translates.
#[derive(Debug)]
pub struct Translator;
