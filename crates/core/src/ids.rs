//! Identifiers. Each is a UUID in the API and in every table. The types prevent
//! passing one kind of id in place of another.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

use crate::Timestamp;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random (version 4) id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// A new id that sorts by `instant`, to the millisecond (version 7).
            /// Rows that are created together are then adjacent in an index.
            pub fn at(instant: Timestamp) -> Self {
                Self(at(instant))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::from_str(s).map(Self)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": "uuid" })
            }
        }
    };
}

id! {
    /// A tenant: the customer whose `ChatTenant` configures models and quotas.
    TenantId
}
id! {
    /// A user inside one tenant.
    UserId
}
id! {
    /// A chat, owned by one user.
    ChatId
}
id! {
    /// A message of a chat, the user's or the assistant's.
    MessageId
}
id! {
    /// One row of `chat_turns`.
    TurnId
}
id! {
    /// A serving process, from its start to its end (TURN-68).
    ProcessId
}
id! {
    /// The idempotency key of a turn, unique within its chat (API-63).
    RequestId
}
id! {
    /// A file or an image uploaded into a chat.
    AttachmentId
}

fn at(instant: Timestamp) -> Uuid {
    let millis = u64::try_from(instant.as_micros() / 1_000).unwrap_or_default();
    // Of a random id, bytes that hold no version and no variant.
    let random = Uuid::new_v4().into_bytes();
    let mut bytes = [0; 10];
    bytes[..6].copy_from_slice(&random[..6]);
    bytes[6..].copy_from_slice(&random[12..]);
    Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
}

/// The namespace in which subjects of tokens are mapped to UUIDs. If it changed,
/// every user would lose access to their chats (PLAT-132).
const SUBJECTS: Uuid = Uuid::from_u128(0x6d69_6e69_6368_5174_8a75_7365_7273_0001);

impl UserId {
    /// The user that tokens of `issuer` call `subject`. A subject that is not a
    /// UUID is mapped to a UUID that is derived from issuer and subject, so it is
    /// always the same (PLAT-132).
    pub fn of_subject(issuer: &str, subject: &str) -> Self {
        subject.parse().unwrap_or_else(|_| {
            let name = format!("{issuer}|{subject}");
            Uuid::new_v5(&SUBJECTS, name.as_bytes()).into()
        })
    }
}

/// `{tenant}/{turn}/{request}`, each as 32 lower-case hex digits: the key by
/// which consumers deduplicate usage events (QUOTA-93).
pub fn usage_dedupe_key(tenant: TenantId, turn: TurnId, request: RequestId) -> String {
    format!(
        "{}/{}/{}",
        tenant.0.as_simple(),
        turn.0.as_simple(),
        request.0.as_simple()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dedupe_key_is_three_times_32_hex_digits() {
        let key = usage_dedupe_key(TenantId::random(), TurnId::random(), RequestId::random());
        assert_eq!(key.len(), 98);
        assert!(key.split('/').all(|part| {
            part.len() == 32
                && part
                    .bytes()
                    .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        }));
    }

    #[test]
    fn ids_of_instants_sort_by_time_and_never_repeat() {
        let first = Timestamp::from_micros(1_773_144_000_000_000);
        let (a, b) = (TurnId::at(first), TurnId::at(first));
        assert_ne!(a, b);
        assert_eq!(a.0.get_version_num(), 7);
        let later = TurnId::at(first.plus_micros(1_000));
        assert!(a.to_string() < later.to_string() && b < later);
    }

    #[test]
    fn any_textual_form_is_read_and_the_hyphenated_one_written() {
        let id: ChatId = "018F6D0E7C1A7B119D000A54B1D2C3E4".parse().unwrap();
        assert_eq!(id.to_string(), "018f6d0e-7c1a-7b11-9d00-0a54b1d2c3e4");
    }
}
