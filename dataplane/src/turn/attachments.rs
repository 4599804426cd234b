//! The files of a turn's message (CONT-70, CONT-71): those that a client named, or
//! those of the message that this one replaces. They are read and locked inside the
//! reserve transaction, which writes the links to them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use minichat_config::{Model, TenantConfig};
use minichat_core::{AttachmentId, ChatId, ErrorCode, Timestamp};
use minichat_store::{MessageKey, MutationQuery, StoreError, Tx, UsableAttachment};
use serde::Serialize;

use crate::caller::Caller;
use crate::problem::{FieldError, Problem};

/// The files of one message. The default is a message without any.
#[derive(Default)]
pub(super) struct Attachments {
    /// In the order of the message.
    linked: Vec<AttachedFile>,
    /// The ids of its images at the provider, in the same order.
    image_file_ids: Vec<String>,
    /// Where the images are stored.
    storage_backends: HashSet<String>,
    /// Whether the client named them in `attachment_ids`.
    is_named: bool,
    /// Why the message is refused if nothing else is wrong with it.
    invalid: Option<Invalid>,
}

/// A file of a message, as the audit event of the turn has it (PLAT-83).
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AttachedFile {
    attachment_id: AttachmentId,
    attachment_kind: String,
    content_type: String,
    size_bytes: u64,
    /// Whether the image is input of the turn; absent for documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_used_in_turn: Option<bool>,
}

/// A file that the client named and that cannot be sent.
#[derive(Clone, Copy)]
struct Invalid {
    id: AttachmentId,
    /// Its place in `attachment_ids`.
    index: usize,
    fault: Fault,
}

#[derive(Clone, Copy)]
enum Fault {
    /// It was named twice.
    Repeated,
    /// It is unknown, deleted, not ready, of another chat or of another user.
    Unusable,
}

/// Reads and locks the files that a client named.
pub(super) async fn named(
    tx: &mut Tx,
    caller: &Caller,
    chat: ChatId,
    ids: &[AttachmentId],
) -> Result<Attachments, StoreError> {
    let usable = tx.attachments_usable(caller.tenant_id, caller.user_id, chat, ids);
    Ok(Attachments::named(ids, usable.await?))
}

/// Reads and locks the files of the message that is replaced (CONT-12).
pub(super) async fn copied(tx: &mut Tx, turn: &MutationQuery) -> Result<Attachments, StoreError> {
    let mut attachments = Attachments::default();
    for file in tx.attachments_of_turn(turn).await? {
        attachments.push(file);
    }
    Ok(attachments)
}

impl Attachments {
    /// `usable` are those of `ids` that can be used, in any order.
    fn named(ids: &[AttachmentId], usable: Vec<UsableAttachment>) -> Self {
        let mut attachments = Self {
            is_named: true,
            ..Self::default()
        };
        let mut usable: HashMap<_, _> = usable.into_iter().map(|file| (file.id, file)).collect();
        let mut seen = HashSet::new();
        for (index, &id) in ids.iter().enumerate() {
            let fault = match usable.remove(&id) {
                Some(file) => {
                    attachments.push(file);
                    None
                }
                None if seen.contains(&id) => Some(Fault::Repeated),
                None => Some(Fault::Unusable),
            };
            seen.insert(id);
            let invalid = fault.map(|fault| Invalid { id, index, fault });
            attachments.invalid = attachments.invalid.or(invalid);
        }
        attachments
    }

    fn push(&mut self, file: UsableAttachment) {
        let UsableAttachment {
            id,
            kind,
            content_type,
            size_bytes,
            image_file_id,
            storage_backend,
        } = file;
        self.linked.push(AttachedFile {
            attachment_id: id,
            image_used_in_turn: (kind == "image").then_some(image_file_id.is_some()),
            attachment_kind: kind,
            content_type,
            size_bytes,
        });
        if let Some(file_id) = image_file_id {
            self.image_file_ids.push(file_id);
            self.storage_backends.insert(storage_backend);
        }
    }

    /// The files for the audit event of the turn.
    pub(super) fn audited(&self) -> Arc<[AttachedFile]> {
        self.linked.clone().into()
    }

    /// The ids of the images at the provider, in the order of the message.
    pub(super) fn image_file_ids(&self) -> &[String] {
        &self.image_file_ids
    }

    /// Number of images (QUOTA-39).
    pub(super) fn images(&self) -> u32 {
        u32::try_from(self.image_file_ids.len()).unwrap_or(u32::MAX)
    }

    /// Step 6 of TURN-9.
    pub(super) fn check_number(&self, config: &TenantConfig) -> Result<(), Problem> {
        let most = config.images.max_per_message;
        if self.images() <= most {
            return Ok(());
        }
        let message = format!(
            "The message has {} images, at most {most} are allowed.",
            self.images()
        );
        Err(self.refused(ErrorCode::TooManyImages, message))
    }

    /// Step 10 of TURN-9, for the effective model.
    pub(super) fn check_images(&self, config: &TenantConfig, model: &Model) -> Result<(), Problem> {
        if self.image_file_ids.is_empty() {
            return Ok(());
        }
        if config.kill_switches.disable_images {
            let message = "Images are switched off. Send the message without them.";
            return Err(self.refused(ErrorCode::ImagesDisabled, message.to_owned()));
        }
        if !model.takes_images() {
            let message = format!("The model {} takes no images.", model.id);
            return Err(self.refused(ErrorCode::UnsupportedMedia, message));
        }
        // Ids of files mean nothing to another provider (CONT-38).
        let is_foreign = |backend: &String| {
            let holder = config.provider_of_storage(backend);
            holder.is_none_or(|holder| holder.id != model.provider_id)
        };
        if self.storage_backends.iter().any(is_foreign) {
            let message = format!(
                "The images are stored where the model {} cannot see them.",
                model.id
            );
            return Err(self.refused(ErrorCode::UnsupportedMedia, message));
        }
        Ok(())
    }

    /// Names the field, unless the files are those of an earlier message.
    fn refused(&self, code: ErrorCode, message: String) -> Problem {
        let mut problem = Problem::new(code, message.clone());
        if self.is_named {
            let field = "attachment_ids".to_owned();
            problem.errors.push(FieldError { field, message });
        }
        problem
    }

    /// Step 12 of TURN-9: the message is refused for a file only if nothing else is
    /// wrong with it.
    pub(super) fn check_valid(&self) -> Result<(), Problem> {
        let Some(Invalid { id, index, fault }) = self.invalid else {
            return Ok(());
        };
        let message = match fault {
            Fault::Repeated => format!("The attachment {id} is named twice."),
            Fault::Unusable => format!("This chat has no attachment {id} that can be sent."),
        };
        let field = format!("attachment_ids[{index}]");
        let mut problem = Problem::new(ErrorCode::InvalidAttachment, message.clone());
        problem.errors.push(FieldError { field, message });
        Err(problem)
    }

    /// Posts the links of `message`.
    pub(super) fn link(
        &self,
        tx: &mut Tx,
        message: MessageKey,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let ids = self.linked.iter().map(|file| file.attachment_id);
        tx.message_attach(message, &ids.collect::<Vec<_>>(), at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: AttachmentId, file_id: &str) -> UsableAttachment {
        UsableAttachment {
            id,
            kind: "image".to_owned(),
            content_type: "image/png".to_owned(),
            size_bytes: 1,
            image_file_id: Some(file_id.to_owned()),
            storage_backend: "main".to_owned(),
        }
    }

    /// CONT-2, CONT-6: the order is the client's, whatever the database's is.
    #[test]
    fn images_are_in_the_order_in_which_they_were_named() {
        let ids = [3, 1, 2].map(|n| AttachmentId(uuid::Uuid::from_u128(n)));
        let [first, document, last] = ids;
        let usable = vec![
            UsableAttachment {
                image_file_id: None,
                ..image(document, "")
            },
            image(last, "file-2"),
            image(first, "file-3"),
        ];
        let attachments = Attachments::named(&ids, usable);
        let linked = attachments.linked.iter().map(|file| file.attachment_id);
        assert!(linked.eq(ids));
        assert_eq!(attachments.image_file_ids(), ["file-3", "file-2"]);
        assert!(attachments.check_valid().is_ok());
    }

    /// API-30, CONT-70: the first fault is answered, with the place of its file.
    #[test]
    fn a_file_that_is_missing_or_named_twice_is_told() {
        let [known, unknown] = [1, 2].map(|n| AttachmentId(uuid::Uuid::from_u128(n)));
        let refusal = |ids: &[AttachmentId]| {
            let attachments = Attachments::named(ids, vec![image(known, "file-1")]);
            let problem = attachments.check_valid().unwrap_err();
            assert_eq!(problem.code, ErrorCode::InvalidAttachment);
            let [error] = &problem.errors[..] else {
                panic!("{problem:?}");
            };
            assert_eq!(error.message, problem.detail);
            format!("{}: {}", error.field, error.message)
        };
        let of = |index: usize, id, text: &str| {
            format!("attachment_ids[{index}]: {text}").replace("ID", &AttachmentId::to_string(&id))
        };
        let twice = "The attachment ID is named twice.";
        let unusable = "This chat has no attachment ID that can be sent.";
        assert_eq!(refusal(&[known, known, unknown]), of(1, known, twice));
        assert_eq!(refusal(&[known, unknown, known]), of(1, unknown, unusable));
        assert_eq!(refusal(&[unknown, unknown]), of(0, unknown, unusable));
    }
}
