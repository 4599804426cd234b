//! The caller of a request (API-10). `http/auth.rs` identifies it once per request,
//! before any handler runs.

use std::sync::Arc;

use minichat_core::{TenantId, UserId};

use crate::config_source::TenantRuntime;

/// The identity of a request. It pins the tenant's configuration for the
/// request and for the turn that it opens.
#[derive(Clone)]
pub struct Caller {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    pub requester_type: RequesterType,
    pub scopes: Scopes,
    pub tenant: Arc<TenantRuntime>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequesterType {
    User,
    System,
}

impl RequesterType {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::System => "system",
        }
    }
}

/// What the caller may do (API-13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scopes {
    pub read: bool,
    pub write: bool,
}

impl Scopes {
    pub const ALL: Self = Self {
        read: true,
        write: true,
    };

    /// An empty list, and a list with `*`, grants everything (API-10).
    pub fn parse<'a>(scopes: impl Iterator<Item = &'a str>) -> Self {
        let mut granted = Self {
            read: false,
            write: false,
        };
        let mut empty = true;
        for scope in scopes.filter(|scope| !scope.is_empty()) {
            empty = false;
            match scope {
                "*" | "ai:mini_chat" => return Self::ALL,
                "ai:mini_chat:read" => granted.read = true,
                "ai:mini_chat:write" => granted.write = true,
                _ => {}
            }
        }
        if empty { Self::ALL } else { granted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-10, API-13
    #[test]
    fn scopes_grant_what_they_name() {
        let parse = |text: &str| Scopes::parse(text.split([' ', ',']));
        assert_eq!(parse(""), Scopes::ALL);
        assert_eq!(parse("openid *"), Scopes::ALL);
        assert_eq!(parse("ai:mini_chat"), Scopes::ALL);
        let read = parse("openid,ai:mini_chat:read");
        assert!(read.read && !read.write);
        let none = parse("openid");
        assert!(!none.read && !none.write);
    }
}
