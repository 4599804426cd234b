//! Calls of every route of the data plane.

use bytes::Bytes;
use http::Method;
use minichat_dataplane::http::routes;
use minichat_tests::client::{Answer, Api};
use minichat_tests::form::{BOUNDARY, FormFile};

/// A body that every operation accepts.
const BODY: &[u8] = br#"{"content": "hello", "title": "a", "reaction": "like"}"#;

/// Objects for the path parameters.
pub(crate) struct Things {
    pub(crate) chat: String,
    pub(crate) request_id: String,
    pub(crate) message: String,
    pub(crate) attachment: String,
}

/// One operation as a call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) template: &'static str,
    path: String,
}

impl Things {
    /// Creates a chat of `caller` with one turn.
    pub(crate) async fn create(caller: &Api) -> anyhow::Result<Self> {
        let chat = caller.create_chat(None).await?;
        let events = caller.say(&chat, "hello").await?;
        let started = events.only("stream_started")?;
        let text = |name: &str| started[name].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            request_id: text("request_id"),
            message: text("message_id"),
            attachment: upload(caller, &chat).await?,
            chat,
        })
    }
}

/// Uploads a file and returns its id.
async fn upload(caller: &Api, chat: &str) -> anyhow::Result<String> {
    let file = caller
        .upload(chat, &FormFile::text("a"))
        .await?
        .expect(201)?;
    Ok(file["id"].as_str().unwrap_or_default().to_owned())
}

impl Call {
    /// API-13: GETs read, all others write; API-113.
    pub(crate) fn scope(&self) -> &'static str {
        if self.erases() {
            "ai:mini_chat:write ai:mini_chat:erase"
        } else if self.method == Method::GET {
            "ai:mini_chat:read"
        } else {
            "ai:mini_chat:write"
        }
    }

    fn erases(&self) -> bool {
        self.template == "/me" && self.method == Method::DELETE
    }

    fn is_upload(&self) -> bool {
        self.method == Method::POST && self.template.ends_with("/attachments")
    }

    pub(crate) fn names_a_chat(&self) -> bool {
        self.template.starts_with("/chats/{id}")
    }

    pub(crate) async fn by(&self, caller: &Api) -> anyhow::Result<Answer> {
        let form = format!("multipart/form-data; boundary={BOUNDARY}");
        let (content_type, body) = if self.is_upload() {
            (form.as_str(), FormFile::text("a").body())
        } else {
            ("application/json", Bytes::from_static(BODY))
        };
        let mut headers = vec![("content-type", content_type)];
        if self.erases() {
            headers.push(("x-scopes", self.scope()));
        }
        caller
            .exchange(self.method.clone(), &self.path, &headers, body)
            .await
    }
}

/// Every operation on `things`.
pub(crate) fn calls(things: &Things) -> Vec<Call> {
    let calls = routes().into_iter().map(|(method, template)| Call {
        method,
        template,
        path: template
            .replace("{id}", &things.chat)
            .replace("{request_id}", &things.request_id)
            .replace("{msg_id}", &things.message)
            .replace("{attachment_id}", &things.attachment)
            .replace("{model_id}", "prem"),
    });
    let calls: Vec<_> = calls.collect();
    for call in &calls {
        assert!(
            !call.path.contains('{'),
            "what stands for a parameter of {call:?}?"
        );
    }
    calls
}
