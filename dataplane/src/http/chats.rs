//! Chats (API-50 to API-55).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::LOCATION;
use http::{HeaderValue, StatusCode, Uri};
use minichat_config::TenantConfig;
use minichat_core::{ChatId, Timestamp};
use minichat_store::{Chat, NewChat};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::body::{self, storable};
use super::cursor::List;
use super::list::ListQuery;
use super::path::{ChatPath, Params};
use crate::app::App;
use crate::caller::Caller;
use crate::chat_deletion::ChatDeletion;
use crate::problem::Problem;

/// Maximum length of a title in Unicode characters (API-51).
const MAX_TITLE: usize = 255;

/// A chat as its owner sees it (API-50).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Chat")]
pub(super) struct ChatView {
    id: ChatId,
    /// The selected model, fixed for the chat's life.
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    is_temporary: bool,
    message_count: u64,
    created_at: Timestamp,
    /// The latest activity.
    updated_at: Timestamp,
}

impl From<Chat> for ChatView {
    fn from(chat: Chat) -> Self {
        let Chat {
            id,
            model,
            title,
            is_temporary,
            message_count,
            created_at,
            updated_at,
        } = chat;
        Self {
            id,
            model,
            title,
            is_temporary,
            message_count,
            created_at,
            updated_at,
        }
    }
}

/// The body of a request to create a chat; `{}` is enough.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CreateChat")]
pub(super) struct CreateBody {
    /// 1 to 255 characters besides the space around them.
    #[schemars(pattern(r"^\s*\S([\s\S]{0,253}\S)?\s*$"))]
    title: Option<String>,
    /// The id of a model. If it is absent, the tenant's default.
    model: Option<String>,
}

/// `POST /chats` (API-51).
pub(super) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    uri: Uri,
    body::Json(body): body::Json<CreateBody>,
) -> Result<Response, Problem> {
    let title = body.title.as_deref().map(title).transpose()?;
    let model = model(&caller.tenant.config, body.model.as_deref())?;
    let now = app.clock.now();
    let chat = Chat {
        id: ChatId::at(now),
        model,
        title,
        is_temporary: false,
        message_count: 0,
        created_at: now,
        updated_at: now,
    };
    insert(&app, &caller, chat.clone()).await?;
    let location = HeaderValue::try_from(format!("{}/{}", uri.path(), chat.id))
        .map_err(|_| Problem::internal())?;
    let view = Json(ChatView::from(chat));
    Ok((StatusCode::CREATED, [(LOCATION, location)], view).into_response())
}

async fn insert(app: &App, caller: &Caller, chat: Chat) -> Result<(), Problem> {
    let (tenant_id, user_id) = (caller.tenant_id, caller.user_id);
    app.store
        .write(move |tx| {
            let chat = chat.clone();
            Box::pin(async move {
                tx.chat_insert(&NewChat {
                    id: chat.id,
                    tenant_id,
                    user_id,
                    model: &chat.model,
                    title: chat.title.as_deref(),
                    is_temporary: chat.is_temporary,
                    created_at: chat.created_at,
                })
            })
        })
        .await?;
    Ok(())
}

/// `GET /chats`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: ListQuery,
) -> Result<Response, Problem> {
    let request = query.read(List::Chats)?;
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    let wanted = request.page.clone();
    let page = app
        .store
        .read(move |tx| {
            let wanted = wanted.clone();
            Box::pin(async move { tx.chat_list(tenant, user, &wanted).await })
        })
        .await?;
    let view = request.view(page, ChatView::from);
    Ok(Json(view).into_response())
}

/// `GET /chats/{id}` (API-53).
pub(super) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<ChatPath>,
) -> Result<Response, Problem> {
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    let chat = app
        .store
        .read(move |tx| Box::pin(async move { tx.chat_get(tenant, user, path.id).await }))
        .await?
        .ok_or_else(Problem::chat_not_found)?;
    Ok(Json(ChatView::from(chat)).into_response())
}

/// What can be changed in a chat.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "UpdateChat")]
pub(super) struct UpdateBody {
    /// 1 to 255 characters besides the space around them.
    #[schemars(required, pattern(r"^\s*\S([\s\S]{0,253}\S)?\s*$"))]
    title: Option<String>,
}

/// `PATCH /chats/{id}`: the title and nothing else (API-52).
pub(super) async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<ChatPath>,
    body::Json(body): body::Json<UpdateBody>,
) -> Result<Response, Problem> {
    let title = title(&body::required(body.title, "title")?)?;
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    let now = app.clock.now();
    let chat = app
        .store
        .write(move |tx| {
            let title = title.clone();
            Box::pin(async move { tx.chat_rename(tenant, user, path.id, &title, now).await })
        })
        .await?
        .ok_or_else(Problem::chat_not_found)?;
    Ok(Json(ChatView::from(chat)).into_response())
}

/// `DELETE /chats/{id}` (API-55). A running turn continues to its end.
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(path): Params<ChatPath>,
) -> Result<StatusCode, Problem> {
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    let deletion = ChatDeletion::new(tenant, user, path.id, app.clock.now());
    if !deletion.run(&app.store, &app.outbox).await? {
        return Err(Problem::chat_not_found());
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The title without surrounding space.
fn title(text: &str) -> Result<String, Problem> {
    let title = text.trim();
    if !(1..=MAX_TITLE).contains(&title.chars().count()) {
        return Err(Problem::invalid_field(
            "title",
            format!("must have 1 to {MAX_TITLE} characters besides the space around it"),
        ));
    }
    storable(title, "title")?;
    Ok(title.to_owned())
}

/// The chat's model: the requested one if it is enabled, or the default.
fn model(config: &TenantConfig, requested: Option<&str>) -> Result<String, Problem> {
    let model = match requested {
        Some(id) => config
            .model(id)
            .filter(|model| model.enabled)
            .ok_or("is not an enabled model"),
        None => config
            .default_model()
            .ok_or("is required: no model is enabled"),
    };
    model
        .map(|model| model.id.clone())
        .map_err(|fault| Problem::invalid_field("model", fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-51
    #[test]
    fn a_title_is_trimmed_and_counted_in_characters() {
        assert_eq!(title("  a ").unwrap(), "a");
        let longest = "ä".repeat(255);
        assert_eq!(title(&longest).unwrap(), longest);
        for refused in ["", "   ", "a\0b", &"ä".repeat(256)] {
            let problem = title(refused).unwrap_err();
            assert_eq!(problem.errors[0].field, "title");
        }
    }
}
