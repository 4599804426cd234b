//! The pure domain of minichat: identifiers, time, turn transitions, quota
//! arithmetic, context assembly and the SSE grammar. No I/O and no async, so
//! that every rule here can be tested by calling a function.

pub mod attachment;
pub mod context;
pub mod error_code;
pub mod ids;
mod namespaced_name;
pub mod quota;
pub mod redact;
pub mod scrub;
pub mod stream;
pub mod summary;
pub mod time;
mod tool;
pub mod turn;

pub use attachment::AttachmentKind;
pub use error_code::ErrorCode;
pub use ids::{AttachmentId, ChatId, MessageId, ProcessId, RequestId, TenantId, TurnId, UserId};
pub use namespaced_name::{NamespacedName, NotANamespacedName};
pub use time::{Clock, Date, SystemClock, Timestamp};
pub use tool::HostedTool;
