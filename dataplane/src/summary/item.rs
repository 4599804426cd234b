//! What asks for a summary: a message of the outbox (CONT-133).

use minichat_core::{ChatId, TenantId, Timestamp};
use minichat_store::{Key, SummaryRange};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The kind of task in items, usage events and dedupe keys.
pub(crate) const TASK: &str = "thread_summary_update";

/// A message of the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) tenant_id: TenantId,
    pub(crate) chat_id: ChatId,
    /// The same in all attempts.
    pub(crate) system_request_id: Uuid,
    range: SummaryRange,
}

/// The part of the payload that is known before the end of the turn.
#[derive(Serialize, Deserialize)]
struct Head {
    tenant_id: TenantId,
    chat_id: ChatId,
    system_request_id: Uuid,
    system_task_type: String,
}

/// The range, as the payload has it.
#[derive(Serialize, Deserialize)]
struct Range {
    #[serde(skip_serializing_if = "Option::is_none")]
    base_frontier_created_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_frontier_message_id: Option<Uuid>,
    frozen_target_created_at: Timestamp,
    frozen_target_message_id: Uuid,
}

impl Item {
    /// `None`: it is no item, or has half a base.
    pub(super) fn read(payload: &str) -> Option<Self> {
        let head: Head = serde_json::from_str(payload).ok()?;
        let range: Range = serde_json::from_str(payload).ok()?;
        let base = match (
            range.base_frontier_created_at,
            range.base_frontier_message_id,
        ) {
            (Some(at), Some(id)) => Some(Key { at, id }),
            (None, None) => None,
            _ => return None,
        };
        (head.system_task_type == TASK).then_some(Self {
            tenant_id: head.tenant_id,
            chat_id: head.chat_id,
            system_request_id: head.system_request_id,
            range: SummaryRange {
                base,
                target: Key {
                    at: range.frozen_target_created_at,
                    id: range.frozen_target_message_id,
                },
            },
        })
    }

    pub(super) const fn range(&self) -> SummaryRange {
        self.range
    }

    /// The payload without its range and its closing brace.
    pub(crate) fn head(
        tenant_id: TenantId,
        chat_id: ChatId,
        system_request_id: Uuid,
    ) -> Result<String, serde_json::Error> {
        let mut json = serde_json::to_string(&Head {
            tenant_id,
            chat_id,
            system_request_id,
            system_task_type: TASK.to_owned(),
        })?;
        json.pop();
        Ok(json)
    }

    /// The payload of a `head` and its range.
    pub(crate) fn payload(head: &str, range: &SummaryRange) -> Result<String, serde_json::Error> {
        let range = serde_json::to_string(&Range {
            base_frontier_created_at: range.base.map(|base| base.at),
            base_frontier_message_id: range.base.map(|base| base.id),
            frozen_target_created_at: range.target.at,
            frozen_target_message_id: range.target.id,
        })?;
        Ok(format!("{head},{}", range.trim_start_matches('{')))
    }
}

/// By what the item and the usage event of a task are recognized (QUOTA-96).
pub(crate) fn dedupe_key(tenant: TenantId, system_request_id: Uuid) -> String {
    let (tenant, request) = (tenant.0.as_simple(), system_request_id.as_simple());
    format!("{tenant}/{TASK}/{request}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CONT-133, CONT-134
    #[test]
    fn an_item_is_read_as_it_was_written_and_half_a_base_is_refused() {
        let (tenant, chat, id) = (TenantId::random(), ChatId::random(), Uuid::new_v4());
        let key = |micros| Key {
            at: Timestamp::from_micros(micros),
            id: Uuid::new_v4(),
        };
        let head = Item::head(tenant, chat, id).unwrap();
        for base in [None, Some(key(7))] {
            let range = SummaryRange {
                base,
                target: key(1_000_001),
            };
            let payload = Item::payload(&head, &range).unwrap();
            let item = Item::read(&payload).unwrap();
            assert_eq!(item.range(), range);
            assert_eq!((item.tenant_id, item.chat_id), (tenant, chat));
            assert_eq!(item.system_request_id, id);
            let half = payload.replace("base_frontier_message_id", "other");
            assert_eq!(Item::read(&half).is_none(), base.is_some(), "{half}");
        }
        for payload in ["", "{}", "[]", "null"] {
            assert!(Item::read(payload).is_none());
        }
    }
}
