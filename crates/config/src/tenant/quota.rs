//! One user's spending limits in a document.

use minichat_core::quota::{Limits, TierLimits};
use serde::{Deserialize, Serialize};

/// One user's spending limits (QUOTA-24). The default applies if there is no quota
/// object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserLimits {
    /// Limits of all spending.
    pub standard: TierLimits,
    /// Limits of spending on premium models.
    pub premium: TierLimits,
    /// Per cent by which actual use may exceed the reserve, 0 to 50.
    pub overshoot_tolerance_pct: u32,
    /// Per cent of a limit at which the user is warned, 1 to 99.
    pub warning_threshold_pct: u32,
}

impl Default for UserLimits {
    fn default() -> Self {
        let Limits { standard, premium } = Limits::default();
        Self {
            standard,
            premium,
            overshoot_tolerance_pct: 10,
            warning_threshold_pct: 80,
        }
    }
}

impl UserLimits {
    /// The limits of both tiers, for the arithmetic.
    pub const fn limits(&self) -> Limits {
        Limits {
            standard: self.standard,
            premium: self.premium,
        }
    }
}
