//! A provider without a network. The history releases each of its steps.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use minichat_provider::testing::Dial;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use crate::facts::Calls;

/// Large enough for all data of a history, so that the provider never waits for
/// its reader.
const CAPACITY: usize = 1 << 20;

/// Cheap to clone; all clones are one provider.
#[derive(Clone, Default)]
pub(crate) struct Provider(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    refuses_connections: bool,
    refusals: u32,
    calls: Vec<Call>,
}

struct Call {
    caller: String,
    prompt: String,
    phase: Phase,
    /// The connection is closed when this is dropped.
    bytes: Option<mpsc::UnboundedSender<Bytes>>,
    /// The client has closed the connection.
    is_abandoned: bool,
}

/// How far the answer has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// The request was read.
    Received,
    /// The head of a stream was written.
    Streaming,
    /// The answer is complete.
    Ended,
}

/// The public view of a call.
#[derive(Clone, Debug)]
pub(crate) struct CallView {
    pub(crate) index: usize,
    /// The request's `x-client-request-id`.
    pub(crate) caller: String,
    /// The body of the request.
    pub(crate) prompt: String,
    pub(crate) phase: Phase,
    pub(crate) is_abandoned: bool,
}

impl CallView {
    pub(crate) fn is_open(&self) -> bool {
        !self.is_abandoned && self.phase != Phase::Ended
    }
}

/// A tool whose calls are limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tool {
    WebSearch,
    CodeInterpreter,
}

impl Tool {
    pub(crate) const ALL: [Self; 2] = [Self::WebSearch, Self::CodeInterpreter];

    pub(crate) const fn of(self, calls: &mut Calls) -> &mut i64 {
        match self {
            Self::WebSearch => &mut calls.web_search,
            Self::CodeInterpreter => &mut calls.code_interpreter,
        }
    }

    /// The error of a turn that calls it too often.
    pub(crate) const fn exceeded(self) -> &'static str {
        match self {
            Self::WebSearch => "web_search_calls_exceeded",
            Self::CodeInterpreter => "code_interpreter_calls_exceeded",
        }
    }

    const fn event(self, is_end: bool) -> &'static str {
        match (self, is_end) {
            (Self::WebSearch, false) => "response.web_search_call.searching",
            (Self::WebSearch, true) => "response.web_search_call.completed",
            (Self::CodeInterpreter, false) => "response.code_interpreter_call.in_progress",
            (Self::CodeInterpreter, true) => "response.code_interpreter_call.completed",
        }
    }
}

/// The usage that an answer reports.
pub(crate) type Usage = Option<(u64, u64)>;

impl Provider {
    pub(crate) fn dial(&self) -> Dial {
        let provider = self.clone();
        Arc::new(move || {
            let provider = provider.clone();
            Box::pin(async move { provider.connect() })
        })
    }

    pub(crate) fn refuse_connections(&self, refuse: bool) {
        self.lock().refuses_connections = refuse;
    }

    /// Number of refused connections.
    pub(crate) fn refusals(&self) -> u32 {
        self.lock().refusals
    }

    pub(crate) fn calls(&self) -> Vec<CallView> {
        let state = self.lock();
        let calls = state.calls.iter().enumerate();
        calls
            .map(|(index, call)| CallView {
                index,
                caller: call.caller.clone(),
                prompt: call.prompt.clone(),
                phase: call.phase,
                is_abandoned: call.is_abandoned,
            })
            .collect()
    }

    /// Begins to stream.
    pub(crate) fn stream(&self, call: usize) {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
            transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        self.write(call, Bytes::from_static(head.as_bytes()), Phase::Streaming);
    }

    /// Answers with a status instead of a stream.
    pub(crate) fn refuse(&self, call: usize, status: u16) {
        let head = format!(
            "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\n\
             content-length: 2\r\nconnection: close\r\n\r\n{{}}"
        );
        self.write(call, head.into(), Phase::Ended);
    }

    /// Closes the connection without an answer.
    pub(crate) fn hang_up(&self, call: usize) {
        let mut state = self.lock();
        state.calls[call].phase = Phase::Ended;
        state.calls[call].bytes = None;
    }

    /// Writes an event without text.
    pub(crate) fn show_life(&self, call: usize) {
        let event = event("response.in_progress", &json!({}));
        self.write(call, event, Phase::Streaming);
    }

    /// Writes that a call of `tool` begins or ends.
    pub(crate) fn call(&self, call: usize, tool: Tool, is_end: bool) {
        let event = event(tool.event(is_end), &json!({}));
        self.write(call, event, Phase::Streaming);
    }

    pub(crate) fn delta(&self, call: usize, text: &str) {
        let event = event("response.output_text.delta", &json!({"delta": text}));
        self.write(call, event, Phase::Streaming);
    }

    /// `incomplete` is a reason for ending early.
    pub(crate) fn complete(&self, call: usize, usage: Usage, incomplete: Option<&str>) {
        let (name, mut response) = match incomplete {
            None => ("response.completed", json!({"status": "completed"})),
            Some(reason) => (
                "response.incomplete",
                json!({"status": "incomplete", "incomplete_details": {"reason": reason}}),
            ),
        };
        response["id"] = format!("resp_{call}").into();
        response["usage"] = tokens(usage);
        self.end(call, &event(name, &json!({"response": response})));
    }

    pub(crate) fn fail(&self, call: usize, usage: Usage) {
        let response = json!({
            "status": "failed",
            "error": {"code": "server_error", "message": "no"},
            "usage": tokens(usage),
        });
        self.end(
            call,
            &event("response.failed", &json!({"response": response})),
        );
    }

    fn end(&self, call: usize, last: &Bytes) {
        let bytes = [&last[..], b"0\r\n\r\n"].concat();
        self.write(call, bytes.into(), Phase::Ended);
    }

    fn write(&self, call: usize, bytes: Bytes, phase: Phase) {
        let mut state = self.lock();
        let call = &mut state.calls[call];
        call.phase = phase;
        if let Some(sender) = &call.bytes {
            // The connection may be gone.
            let _ = sender.send(bytes);
        }
        if phase == Phase::Ended {
            call.bytes = None;
        }
    }

    fn connect(&self) -> io::Result<DuplexStream> {
        let mut state = self.lock();
        if state.refuses_connections {
            state.refusals += 1;
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        drop(state);
        let (ours, theirs) = tokio::io::duplex(CAPACITY);
        tokio::spawn(serve(self.clone(), ours));
        Ok(theirs)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one request on a connection.
async fn serve(provider: Provider, mut stream: DuplexStream) {
    let Some((caller, prompt)) = read_request(&mut stream).await else {
        return;
    };
    let (bytes, mut to_write) = mpsc::unbounded_channel();
    let index = {
        let mut state = provider.lock();
        state.calls.push(Call {
            caller,
            prompt,
            phase: Phase::Received,
            bytes: Some(bytes),
            is_abandoned: false,
        });
        state.calls.len() - 1
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut rest = [0; 64];
    loop {
        tokio::select! {
            biased;
            bytes = to_write.recv() => {
                let Some(bytes) = bytes else { return };
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            read = reader.read(&mut rest) => {
                if !matches!(read, Ok(1..)) {
                    break;
                }
            }
        }
    }
    provider.lock().calls[index].is_abandoned = true;
}

/// Reads a request and returns its `x-client-request-id` and its body. `None`
/// if the connection was closed before.
async fn read_request(stream: &mut DuplexStream) -> Option<(String, String)> {
    let mut request = Vec::new();
    loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let header = |name: &str| {
                head.lines()
                    .find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
            };
            let length: usize = header("content-length:")?.parse().ok()?;
            if request.len() >= end + 4 + length {
                let body = String::from_utf8_lossy(&request[end + 4..]).into_owned();
                return Some((header("x-client-request-id:")?, body));
            }
        }
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
}

/// One event as one chunk.
fn event(name: &str, payload: &Value) -> Bytes {
    let event = format!("event: {name}\ndata: {payload}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len()).into()
}

fn tokens(usage: Usage) -> Value {
    usage.map_or(
        Value::Null,
        |(input, output)| json!({"input_tokens": input, "output_tokens": output}),
    )
}
