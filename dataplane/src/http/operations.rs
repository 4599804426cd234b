//! All operations of the API (API-6), below `{root_prefix}{url_prefix}/v1`
//! (API-1). The routes and the OpenAPI document are made from this table.

use minichat_core::ErrorCode;
use minichat_core::quota::QuotaStatus;

use super::attachments::{self, AttachmentView};
use super::chats::{self, ChatView};
use super::cursor::List;
use super::export::{self, ExportLine};
use super::list::PageView;
use super::me;
use super::messages::{self, MessageView};
use super::models::{self, ModelList, ModelView};
use super::operation::Operation;
use super::quota;
use super::reactions::{self, ReactionView};
use super::turns::{self, TurnView};
use crate::caller::ERASE_SCOPE;
use crate::erasure::ErasureReport;

pub(super) fn all() -> Vec<Operation> {
    [
        chats(),
        messages(),
        turns(),
        attachments(),
        catalog(),
        person(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn chats() -> Vec<Operation> {
    vec![
        Operation::post("/chats", "mini_chat.create_chat", chats::create)
            .summary("Create a chat.")
            .body::<chats::CreateBody>()
            .answers::<ChatView>(201, "The new chat; `Location` is its path."),
        Operation::get("/chats", "mini_chat.list_chats", chats::list)
            .summary("List the caller's chats, the most recently used first.")
            .list(List::Chats)
            .answers::<PageView<'_, ChatView>>(200, "One page of chats."),
        Operation::get("/chats/{id}", "mini_chat.get_chat", chats::show)
            .summary("Read a chat.")
            .answers::<ChatView>(200, "The chat."),
        Operation::patch("/chats/{id}", "mini_chat.update_chat", chats::update)
            .summary("Change the title of a chat.")
            .body::<chats::UpdateBody>()
            .answers::<ChatView>(200, "The chat with its new title."),
        Operation::delete("/chats/{id}", "mini_chat.delete_chat", chats::delete)
            .summary("Delete a chat with everything in it. A running turn continues to its end.")
            .answers_nothing("The chat was deleted."),
    ]
}

fn messages() -> Vec<Operation> {
    const REACTION: &str = "/chats/{id}/messages/{msg_id}/reaction";
    vec![
        Operation::get("/chats/{id}/messages", "mini_chat.list_messages", messages::list)
            .summary("List the messages of a chat, oldest first.")
            .list(List::Messages)
            .answers::<PageView<'_, MessageView>>(200, "One page of messages."),
        Operation::post("/chats/{id}/messages:stream", "mini_chat.stream_message", messages::send)
            .summary("Send a message and stream the answer. With the `request_id` of a completed turn, its answer is replayed.")
            .body::<messages::SendBody>()
            .streams()
            .refused_with(&[
                ErrorCode::InvalidAttachment,
                ErrorCode::TooManyImages,
                ErrorCode::RequestIdConflict,
            ]),
        Operation::put(REACTION, "mini_chat.put_reaction", reactions::put)
            .summary("React to an answer, or change the reaction.")
            .body::<reactions::ReactionBody>()
            .answers::<ReactionView>(200, "The reaction.")
            .refused_with(&[ErrorCode::InvalidReactionTarget]),
        Operation::delete(REACTION, "mini_chat.delete_reaction", reactions::delete)
            .summary("Remove the reaction, if there is one.")
            .answers_nothing("There is no reaction any more."),
    ]
}

fn turns() -> Vec<Operation> {
    const TURN: &str = "/chats/{id}/turns/{request_id}";
    const RETRY: &str = "/chats/{id}/turns/{request_id}/retry";
    const CANCEL: &str = "/chats/{id}/turns/{request_id}/cancel";
    /// Codes for a turn that cannot be changed (API-71).
    const CHANGE: &[ErrorCode] = &[ErrorCode::InvalidTurnState, ErrorCode::NotLatestTurn];
    /// Codes for a turn that cannot be replaced (API-73).
    const REPLACE: &[ErrorCode] = &[
        ErrorCode::InvalidTurnState,
        ErrorCode::NotLatestTurn,
        ErrorCode::TooManyImages,
    ];
    vec![
        Operation::get(TURN, "mini_chat.get_turn", turns::show)
            .summary("Read the state of a turn, for example after a lost connection.")
            .answers::<TurnView>(200, "The turn."),
        Operation::post(RETRY, "mini_chat.retry_turn", turns::retry)
            .summary("Answer the message of the newest turn again. A body is ignored.")
            .streams()
            .refused_with(REPLACE),
        Operation::patch(TURN, "mini_chat.edit_turn", turns::edit)
            .summary("Change the message of the newest turn and answer it again.")
            .body::<turns::EditBody>()
            .streams()
            .refused_with(REPLACE),
        Operation::delete(TURN, "mini_chat.delete_turn", turns::delete)
            .summary("Delete the newest turn with its messages.")
            .answers_nothing("The turn was deleted.")
            .refused_with(CHANGE),
        Operation::post(CANCEL, "mini_chat.cancel_turn", turns::cancel)
            .summary("Stop a running turn. The text so far is kept.")
            .answers::<TurnView>(202, "The turn was running and will end soon.")
            .answers::<TurnView>(200, "The turn had ended already."),
    ]
}

fn attachments() -> Vec<Operation> {
    const ATTACHMENTS: &str = "/chats/{id}/attachments";
    const ATTACHMENT: &str = "/chats/{id}/attachments/{attachment_id}";
    vec![
        Operation::post(
            ATTACHMENTS,
            "mini_chat.upload_attachment",
            attachments::upload,
        )
        .summary("Upload a file to a chat.")
        .uploads()
        .answers::<AttachmentView>(201, "The file; `Location` is its path."),
        Operation::get(ATTACHMENT, "mini_chat.get_attachment", attachments::show)
            .summary("Read the state of a file of a chat.")
            .answers::<AttachmentView>(200, "The file."),
        Operation::delete(
            ATTACHMENT,
            "mini_chat.delete_attachment",
            attachments::delete,
        )
        .summary("Delete a file that no message was sent with.")
        .answers_nothing("The file is deleted.")
        .refused_with(&[ErrorCode::AttachmentLocked]),
    ]
}

fn catalog() -> Vec<Operation> {
    vec![
        Operation::get("/models", "mini_chat.list_models", models::list)
            .summary("List the models that a chat can be created with.")
            .answers::<ModelList<'_>>(200, "The models."),
        Operation::get("/models/{model_id}", "mini_chat.get_model", models::show)
            .summary("Read one of these models.")
            .answers::<ModelView<'_>>(200, "The model."),
        Operation::get("/quota/status", "mini_chat.get_quota_status", quota::status)
            .summary("Read how much of the caller's credits is left.")
            .answers::<QuotaStatus>(200, "The credits, by tier and period."),
    ]
}

fn person() -> Vec<Operation> {
    vec![
        Operation::get("/me/export", "mini_chat.export_me", export::export)
            .summary("Read everything that is kept about the caller, deleted or not. Complete if its last line has the type `end`.")
            .answers_lines::<ExportLine>("One object per line."),
        Operation::delete("/me", "mini_chat.erase_me", me::erase)
            .scope(ERASE_SCOPE)
            .summary("Erase the caller: chats, messages, files. Nothing brings them back. What was spent is kept without the person. Repeat the request to see how far it is.")
            .answers::<ErasureReport>(200, "Nothing is left of the caller.")
            .answers::<ErasureReport>(202, "It goes on; files are being deleted at the provider, or an answer is still being written."),
    ]
}
