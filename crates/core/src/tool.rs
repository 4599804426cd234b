//! The tools that a provider runs for a model (CONT-100).

use std::fmt;

use serde::{Serialize, Serializer};

/// A tool that the provider runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum HostedTool {
    /// Searches the documents of the chat.
    FileSearch,
    WebSearch,
    /// Runs code on files of the chat.
    CodeInterpreter,
}

impl HostedTool {
    /// In the order in which requests and metadata name them (CONT-32, CONT-33).
    pub const ALL: [Self; 3] = [Self::FileSearch, Self::WebSearch, Self::CodeInterpreter];

    /// The name in requests and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FileSearch => "file_search",
            Self::WebSearch => "web_search",
            Self::CodeInterpreter => "code_interpreter",
        }
    }
}

impl fmt::Display for HostedTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for HostedTool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
