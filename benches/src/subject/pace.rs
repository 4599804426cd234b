//! The models of the scripted provider that the benchmark uses. Each answers at its own pace.

use bytes::Bytes;

/// The pace of an answer. The scripted provider gets it from the model's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Model id in the catalog of the data plane.
    pub id: &'static str,
    /// Model name that the provider sees.
    pub provider_model: &'static str,
    /// Chunks of one answer.
    pub chunks: u32,
}

impl Pace {
    /// One token, at once: to measure the cost of a turn and the time to the first token.
    pub const INSTANT: Self = Self {
        id: "instant",
        provider_model: "stamped-paced-ttft0-chunks1-interval0",
        chunks: 1,
    };
    /// Fifty tokens per second for two seconds, like a typical answer.
    pub const STEADY: Self = Self {
        id: "steady",
        provider_model: "stamped-paced-ttft20-chunks100-interval20",
        chunks: 100,
    };
    /// As fast as the provider can write.
    pub const BURST: Self = Self {
        id: "burst",
        provider_model: "stamped-paced-ttft0-chunks2000-interval0",
        chunks: 2_000,
    };
    /// Every pace, in the order of the catalog.
    pub const ALL: [Self; 3] = [Self::INSTANT, Self::STEADY, Self::BURST];

    /// The request that the data plane would send to the provider, for the subjects that only relay.
    pub fn provider_request(&self, target: &str) -> Bytes {
        let body = format!(
            r#"{{"model":"{}","input":[{{"role":"user","content":[{{"type":"input_text","text":"Tell me more."}}]}}],"stream":true,"store":false,"max_output_tokens":4096}}"#,
            self.provider_model
        );
        post(
            target,
            "/v1/responses",
            "authorization: Bearer benchmark\r\n",
            &body,
        )
    }
}

/// A whole HTTP/1.1 request; `headers` are complete lines.
pub(super) fn post(host: &str, path: &str, headers: &str, body: &str) -> Bytes {
    Bytes::from(format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-type: application/json\r\n\
         accept: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}
