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

/// The scope of those who may erase themselves (API-113).
pub const ERASE_SCOPE: &str = "ai:mini_chat:erase";

/// What the caller may do (API-13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scopes {
    pub read: bool,
    pub write: bool,
    /// Whether the caller may erase himself. Only `ai:mini_chat:erase` and `*`
    /// grant it, because nothing brings the data back (API-113).
    pub erase: bool,
}

impl Scopes {
    /// What needs no scope by its name.
    pub const ORDINARY: Self = Self {
        read: true,
        write: true,
        erase: false,
    };

    const NONE: Self = Self {
        read: false,
        write: false,
        erase: false,
    };

    /// An empty list grants [`Scopes::ORDINARY`] (API-10).
    pub fn parse<'a>(scopes: impl Iterator<Item = &'a str>) -> Self {
        let mut granted = Self::NONE;
        let mut empty = true;
        for scope in scopes.filter(|scope| !scope.is_empty()) {
            empty = false;
            granted = granted.with(scope);
        }
        if empty { Self::ORDINARY } else { granted }
    }

    /// Whether they contain a scope that must be named.
    pub fn has_named(self, scope: &str) -> bool {
        scope == ERASE_SCOPE && self.erase
    }

    fn with(self, scope: &str) -> Self {
        let Self { read, write, erase } = self;
        let is_all = matches!(scope, "*" | "ai:mini_chat");
        Self {
            read: read || is_all || scope == "ai:mini_chat:read",
            write: write || is_all || scope == "ai:mini_chat:write",
            erase: erase || matches!(scope, "*" | ERASE_SCOPE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-10, API-13
    #[test]
    fn scopes_grant_what_they_name() {
        let parse = |text: &str| Scopes::parse(text.split([' ', ',']));
        assert_eq!(parse(""), Scopes::ORDINARY);
        assert_eq!(parse("ai:mini_chat"), Scopes::ORDINARY);
        assert!(parse("openid *").erase && parse("openid *").read);
        assert!(parse("ai:mini_chat ai:mini_chat:erase").erase);
        assert!(!parse("ai:mini_chat:erase").write);
        let read = parse("openid,ai:mini_chat:read");
        assert!(read.read && !read.write);
        let none = parse("openid");
        assert!(!none.read && !none.write);
    }
}
