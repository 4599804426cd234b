//! One-shot instructions that override the answer to a request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::call::Call;

/// How one request is answered. Fields at their default follow the request's
/// trigger.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an instruction of its own"
)]
pub struct Scenario {
    /// Number of requests to which it applies.
    pub times: u32,
    /// Applies only to requests with this method.
    pub for_method: Option<String>,
    /// Applies only to requests whose path contains this; without it, only to
    /// generations.
    pub for_path: Option<String>,
    /// Milliseconds before the response head.
    pub delay_before_head_ms: u64,
    /// Holds the response head until a release.
    pub hold_before_head: bool,
    /// Closes the connection instead of answering.
    pub drop_connection: bool,
    /// How the body of the request is read. Only for paths other than those of
    /// generations.
    pub reading: Reading,
    /// Status of the answer. With a status other than 200, the answer is JSON.
    pub status: u16,
    /// Headers added to the answer.
    pub headers: BTreeMap<String, String>,
    /// A JSON answer instead of a stream.
    pub body: Option<Value>,
    /// The whole stream, byte for byte; on other paths, the whole document.
    pub raw: Option<String>,
    /// Pieces of a reasoning summary, before everything else.
    pub reasoning: Option<Vec<String>>,
    /// Calls before the text, one after another, instead of the trigger's.
    /// They are made whether or not the request offers the tools.
    pub calls: Option<Vec<Call>>,
    /// Pieces of text instead of the trigger's.
    pub deltas: Option<Vec<String>>,
    /// Annotations of the text instead of the trigger's, as the Responses API
    /// writes them.
    pub annotations: Option<Vec<Value>>,
    /// Milliseconds before each piece except the first.
    pub interval_ms: u64,
    /// Sends only the first event, the text, the events of calls and the last
    /// event, with few members and without `sequence_number`, as some servers
    /// do.
    pub short_order: bool,
    /// Leaves out the first lifecycle event.
    pub without_created: bool,
    /// Leaves out the `event:` lines.
    pub without_event_names: bool,
    /// Holds the stream after the pieces of text until a release.
    pub hold_before_end: bool,
    /// How the stream ends.
    pub ending: Ending,
    /// Reported usage instead of the trigger's.
    pub usage: Option<Tokens>,
    /// What the reported usage says about parts of the tokens.
    pub usage_details: UsageDetails,
    /// Reports no usage.
    pub without_usage: bool,
    /// Closes the connection after the answer.
    pub close: bool,
}

/// How the body of a request is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reading {
    /// At once.
    #[default]
    Whole,
    /// Not before a release.
    Held,
    /// With a pause after every piece of at most 64 KiB.
    Slow {
        /// Milliseconds.
        pause_ms: u64,
    },
    /// The connection is closed after this many bytes.
    Dropped {
        /// Bytes of the body.
        after_bytes: usize,
    },
    /// The answer is sent at once; the body is read afterwards and discarded.
    Late,
}

/// Token counts to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
}

/// Parts of the token counts. They are counted in [`Tokens`] too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageDetails {
    /// Input tokens that a cache had.
    pub cached: u64,
    /// Output tokens of reasoning; `None`: some if reasoning was asked for.
    pub reasoning: Option<u64>,
}

/// The end of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ending {
    /// As the trigger demands.
    #[default]
    Trigger,
    /// `response.completed`.
    Completed,
    /// `response.completed`, with its fields at the top level.
    CompletedFlat,
    /// `response.incomplete` with this reason.
    Incomplete {
        /// The provider's reason.
        reason: String,
    },
    /// `response.incomplete`, with its fields at the top level.
    IncompleteFlat {
        /// The provider's reason.
        reason: String,
    },
    /// `response.failed` with the error in the response object.
    Failed {
        /// Provider's code.
        code: String,
        /// Provider's text.
        message: String,
    },
    /// `response.failed`, with error and usage at the top level.
    FailedFlat {
        /// Provider's code.
        code: String,
        /// Provider's text.
        message: String,
    },
    /// `error` with a nested error object.
    Error {
        /// Provider's code.
        code: String,
        /// Provider's text.
        message: String,
    },
    /// `error`, with its fields at the top level.
    ErrorFlat {
        /// Provider's code.
        code: String,
        /// Provider's text.
        message: String,
    },
    /// The body ends properly, without a terminal event.
    Missing,
    /// The connection breaks inside the body.
    Cut,
    /// Nothing more is sent until the client disconnects.
    Hang,
    /// Only comments are sent, at this interval.
    Comments {
        /// Milliseconds between comments.
        every_ms: u64,
    },
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            times: 1,
            for_method: None,
            for_path: None,
            delay_before_head_ms: 0,
            hold_before_head: false,
            drop_connection: false,
            reading: Reading::Whole,
            status: 200,
            headers: BTreeMap::new(),
            body: None,
            raw: None,
            reasoning: None,
            calls: None,
            deltas: None,
            annotations: None,
            interval_ms: 0,
            short_order: false,
            without_created: false,
            without_event_names: false,
            hold_before_end: false,
            ending: Ending::Trigger,
            usage: None,
            usage_details: UsageDetails::default(),
            without_usage: false,
            close: false,
        }
    }
}

impl Scenario {
    /// An HTTP failure with a JSON body.
    pub fn status(status: u16, body: Value) -> Self {
        Self {
            status,
            body: Some(body),
            ..Self::default()
        }
    }

    /// The pieces `deltas`, then `ending`.
    pub fn deltas(deltas: &[&str], ending: Ending) -> Self {
        Self {
            deltas: Some(deltas.iter().map(|delta| (*delta).to_owned()).collect()),
            ending,
            ..Self::default()
        }
    }

    /// The calls `calls`, then the trigger's text.
    pub fn calls(calls: Vec<Call>) -> Self {
        Self {
            calls: Some(calls),
            ..Self::default()
        }
    }

    /// The stream `text`, byte for byte.
    pub fn raw(text: impl Into<String>) -> Self {
        Self {
            raw: Some(text.into()),
            ..Self::default()
        }
    }

    /// The same for requests whose path contains `path`, with any method.
    #[must_use]
    pub fn for_path(mut self, path: &str) -> Self {
        self.for_path = Some(path.to_owned());
        self
    }

    /// The same with the header `name`.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(super) fn fits(&self, method: &str, path: &str, is_generation: bool) -> bool {
        let method_fits = self
            .for_method
            .as_deref()
            .is_none_or(|wanted| wanted.eq_ignore_ascii_case(method));
        let path_fits = match &self.for_path {
            Some(wanted) => path.contains(wanted.as_str()),
            None => is_generation,
        };
        method_fits && path_fits
    }
}
