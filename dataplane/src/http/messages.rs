//! Messages of a chat. Listing them (API-60, API-61) is here, sending one is in
//! [`mod@send`].

mod send;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use minichat_core::{AttachmentId, ChatId, MessageId, RequestId, Timestamp};
use minichat_store::{
    AttachmentSummary, ListedThumbnail, Message, Page, PageRequest, Reaction, Role,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::attachments::ThumbnailView;
use super::cursor::List;
use super::list::ListQuery;
use super::path::{ChatPath, Params};
use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;

pub(super) use self::send::{SendBody, send};

/// A message as its chat's owner sees it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Message")]
pub(super) struct MessageView {
    id: MessageId,
    /// The turn that the message belongs to.
    request_id: RequestId,
    #[schemars(extend("enum" = Role::ALL.map(Role::as_str)))]
    role: &'static str,
    content: String,
    attachments: Vec<AttachmentView>,
    /// The caller's reaction to an answer.
    #[schemars(extend("enum" = reactions()))]
    my_reaction: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The model that wrote the answer.
    model: Option<String>,
    #[serde(skip_serializing_if = "is_unknown")]
    input_tokens: u64,
    #[serde(skip_serializing_if = "is_unknown")]
    output_tokens: u64,
    created_at: Timestamp,
}

/// A file of a message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessageAttachment")]
struct AttachmentView {
    attachment_id: AttachmentId,
    kind: String,
    filename: String,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    img_thumbnail: Option<ThumbnailView>,
    /// `true` if the file has a thumbnail for which the page has no room. `GET` of the
    /// attachment shows it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    img_thumbnail_omitted: bool,
}

/// The values of `my_reaction`.
fn reactions() -> Vec<Option<&'static str>> {
    let reactions = Reaction::ALL.map(|reaction| Some(reaction.as_str()));
    reactions.into_iter().chain([None]).collect()
}

/// 0 stands for a count that was not reported (D26).
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_unknown(tokens: &u64) -> bool {
    *tokens == 0
}

impl From<Message> for MessageView {
    fn from(message: Message) -> Self {
        let Message {
            id,
            request_id,
            role,
            content,
            attachments,
            my_reaction,
            model,
            input_tokens,
            output_tokens,
            created_at,
        } = message;
        Self {
            id,
            request_id,
            role: role.as_str(),
            content,
            attachments: attachments.into_iter().map(AttachmentView::from).collect(),
            my_reaction: my_reaction.map(Reaction::as_str),
            model,
            input_tokens,
            output_tokens,
            created_at,
        }
    }
}

impl From<AttachmentSummary> for AttachmentView {
    fn from(summary: AttachmentSummary) -> Self {
        let AttachmentSummary {
            attachment_id,
            kind,
            filename,
            status,
            thumbnail,
        } = summary;
        let img_thumbnail_omitted = thumbnail == ListedThumbnail::Omitted;
        let img_thumbnail = match thumbnail {
            ListedThumbnail::Shown(thumbnail) => Some(thumbnail.into()),
            ListedThumbnail::None | ListedThumbnail::Omitted => None,
        };
        Self {
            attachment_id,
            kind,
            filename,
            status,
            img_thumbnail,
            img_thumbnail_omitted,
        }
    }
}

/// `GET /chats/{id}/messages`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<ChatPath>,
    query: ListQuery,
) -> Result<Response, Problem> {
    let request = query.read(List::Messages)?;
    let page = read_page(&app, &caller, path.id, request.page.clone()).await?;
    let view = request.view(page, MessageView::from);
    Ok(Json(view).into_response())
}

/// If the page is empty, it is checked whether the caller has the chat.
async fn read_page(
    app: &App,
    caller: &Caller,
    chat: ChatId,
    request: PageRequest,
) -> Result<Page<Message>, Problem> {
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    app.store
        .read(move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let page = tx.message_list(tenant, user, chat, &request).await?;
                if page.items.is_empty() && tx.chat_get(tenant, user, chat).await?.is_none() {
                    return Err(Problem::chat_not_found());
                }
                Ok(page)
            })
        })
        .await
}
