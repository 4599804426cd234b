//! Identifiers. Each is a UUID on every wire and in every table; the types keep
//! one kind from being passed for another.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
    /// The idempotency key of a turn, unique within its chat (API-63).
    RequestId
}
id! {
    /// A file or an image uploaded into a chat.
    AttachmentId
}

/// `{tenant}/{turn}/{request}`, each as 32 lower-case hex digits: the key by
/// which consumers recognise one usage event (QUOTA-93).
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
    fn any_textual_form_is_read_and_the_hyphenated_one_written() {
        let id: ChatId = "018F6D0E7C1A7B119D000A54B1D2C3E4".parse().unwrap();
        assert_eq!(id.to_string(), "018f6d0e-7c1a-7b11-9d00-0a54b1d2c3e4");
    }
}
