//! The client side of a stream: reads events with their arrival times, and
//! refuses frames that violate the contract (API-131).

use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

/// One event of a stream.
#[derive(Clone, Debug)]
pub struct Event {
    pub name: String,
    pub data: Value,
    /// When its last byte was read.
    pub at: Instant,
}

impl Event {
    /// The text of a member of the data; empty if there is none.
    pub fn text(&self, member: &str) -> &str {
        self.data[member].as_str().unwrap_or_default()
    }
}

/// An open stream. It closes the connection when dropped.
#[derive(Debug)]
pub struct EventStream {
    pub headers: http::HeaderMap,
    body: Incoming,
    frames: Frames,
}

impl EventStream {
    pub(crate) fn new(headers: http::HeaderMap, body: Incoming) -> Self {
        Self {
            headers,
            body,
            frames: Frames::default(),
        }
    }

    /// The next event; `None` at the end of the body.
    pub async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some(event) = self.frames.next()? {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else {
                self.frames.finish()?;
                return Ok(None);
            };
            if let Ok(bytes) = frame.context("the body broke off")?.into_data() {
                self.frames.push(&bytes);
            }
        }
    }

    /// The next event, which must be called `name`.
    pub async fn expect(&mut self, name: &str) -> anyhow::Result<Event> {
        let event = self
            .next()
            .await?
            .with_context(|| format!("the stream ended, expected {name}"))?;
        ensure!(event.name == name, "expected {name}, got {event:?}");
        Ok(event)
    }

    /// All events up to the end of the body.
    pub async fn collect(mut self) -> anyhow::Result<Events> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await? {
            events.push(event);
        }
        Ok(Events(events))
    }
}

/// The events of a whole stream.
#[derive(Clone, Debug)]
pub struct Events(pub Vec<Event>);

impl Events {
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|event| event.name.as_str()).collect()
    }

    /// The concatenated texts of the deltas of kind `text` (API-142).
    pub fn answer(&self) -> String {
        self.0
            .iter()
            .filter(|event| event.name == "delta" && event.text("type") == "text")
            .map(|event| event.text("content"))
            .collect()
    }

    /// The data of the one event called `name`.
    pub fn only(&self, name: &str) -> anyhow::Result<&Value> {
        let mut found = self.0.iter().filter(|event| event.name == name);
        match (found.next(), found.next()) {
            (Some(event), None) => Ok(&event.data),
            _ => bail!("expected one {name}: {:?}", self.names()),
        }
    }

    /// Fails unless the events match the grammar, with exactly one terminal
    /// event at the end (API-133).
    pub fn check_grammar(&self) -> anyhow::Result<()> {
        let names = self.names();
        let mut rest = names.iter().copied().peekable();
        ensure!(rest.next() == Some("stream_started"), "{names:?}");
        while rest.next_if_eq(&"ping").is_some() {}
        while rest
            .next_if(|name| matches!(*name, "delta" | "tool"))
            .is_some()
        {}
        rest.next_if_eq(&"citations");
        ensure!(matches!(rest.next(), Some("done" | "error")), "{names:?}");
        ensure!(rest.next().is_none(), "{names:?}");
        Ok(())
    }
}

/// Splits bytes into frames.
#[derive(Debug, Default)]
struct Frames {
    buffer: Vec<u8>,
    consumed: usize,
}

impl Frames {
    fn push(&mut self, bytes: &Bytes) {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.extend_from_slice(bytes);
    }

    fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            let pending = &self.buffer[self.consumed..];
            let Some(end) = pending.windows(2).position(|pair| pair == b"\n\n") else {
                return Ok(None);
            };
            let frame = std::str::from_utf8(&pending[..end]).context("a frame is not UTF-8")?;
            let event = parse_frame(frame)?;
            self.consumed += end + 2;
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn finish(&self) -> anyhow::Result<()> {
        let rest = &self.buffer[self.consumed..];
        ensure!(rest.is_empty(), "the body ends inside a frame: {rest:?}");
        Ok(())
    }
}

/// `None` for a comment.
fn parse_frame(frame: &str) -> anyhow::Result<Option<Event>> {
    if frame == ":" {
        return Ok(None);
    }
    // JSON escapes it. As white space it would be taken for a line end.
    ensure!(!frame.contains('\r'), "a carriage return: {frame:?}");
    let (event, data) = frame
        .split_once('\n')
        .with_context(|| format!("a frame of one line: {frame:?}"))?;
    let name = event
        .strip_prefix("event: ")
        .with_context(|| format!("not an event line: {event:?}"))?;
    let data = data
        .strip_prefix("data: ")
        .with_context(|| format!("not a data line: {data:?}"))?;
    let data: Value = serde_json::from_str(data).with_context(|| format!("not JSON: {data:?}"))?;
    ensure!(data.is_object(), "not an object: {data}");
    Ok(Some(Event {
        name: name.to_owned(),
        data,
        at: Instant::now(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: &[&'static str]) -> anyhow::Result<Vec<String>> {
        let mut frames = Frames::default();
        let mut names = Vec::new();
        for part in parts {
            frames.push(&Bytes::from_static(part.as_bytes()));
            while let Some(event) = frames.next()? {
                names.push(event.name);
            }
        }
        frames.finish()?;
        Ok(names)
    }

    #[test]
    fn frames_may_be_cut_anywhere() {
        let names = frames(&[
            "event: a\nda",
            "ta: {}\n",
            "\n:\n\nevent: b\ndata: {\"x\":1}\n\n",
        ]);
        assert_eq!(names.unwrap(), ["a", "b"]);
    }

    #[test]
    fn what_is_no_frame_of_the_contract_is_refused() {
        for text in [
            "event: a\n\n",
            "event: a\ndata: {\n\n",
            "event: a\ndata: []\n\n",
            "id: 1\nevent: a\ndata: {}\n\n",
            "event: a\r\ndata: {}\r\n\n",
            "event: a\ndata: {}\n",
        ] {
            assert!(frames(&[text]).is_err(), "{text:?}");
        }
    }
}
