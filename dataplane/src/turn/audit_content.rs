//! The user's message and the model's answer in the audit event of a turn, for
//! tenants that ask for them (PLAT-85). They are redacted and cut here, before the
//! event is stored (PLAT-87), and outside the transaction: this takes time that no
//! other writer may wait for.

use std::panic::catch_unwind;
use std::sync::Arc;

use minichat_config::tenant::document::AuditSinkDocument;
use minichat_config::tenant::sink::SinkKind;
use minichat_core::redact::{MAX_FIELD_BYTES, field};

use super::account::Account;
use super::finalize::Ending;

/// The texts as the event contains them; nothing unless the tenant asked.
#[derive(Clone, Debug, Default)]
pub(super) struct AuditContent {
    pub(super) prompt: Option<Arc<str>>,
    pub(super) response: Option<Arc<str>>,
}

impl AuditContent {
    pub(super) fn new(account: &Account, ending: &Ending) -> Self {
        let Some(prompt) = &account.audited_prompt else {
            return Self::default();
        };
        let answer = ending.answer.as_ref().map(|(_, text)| text);
        let answer = answer.filter(|text| !text.is_empty());
        Self {
            prompt: redacted(prompt),
            response: answer.and_then(|text| redacted(text)),
        }
    }
}

/// A text that cannot be redacted is left out. The turn must end in any case.
fn redacted(text: &str) -> Option<Arc<str>> {
    let redacted = catch_unwind(|| field(text, MAX_FIELD_BYTES));
    redacted.map(Into::into).ok()
}

/// Whether events of a tenant with this sink contain texts. Only a webhook gets
/// them, so that they are stored for no other sink.
pub(super) fn is_included(sink: Option<&AuditSinkDocument>) -> bool {
    sink.is_some_and(|sink| sink.include_content && sink.kind == SinkKind::Webhook)
}
