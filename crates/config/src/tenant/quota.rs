//! One user's spending limits in a document.

use minichat_core::HostedTool;
use minichat_core::quota::{Limits, TierLimits, ToolQuotas};
use serde::{Deserialize, Serialize};

/// Calls of the web search that one message may begin, unless a quota says otherwise.
pub const WEB_SEARCHES: u32 = 2;

/// Calls of the code interpreter that one message may begin, unless a quota says
/// otherwise.
pub const CODE_INTERPRETER_CALLS: u32 = 10;

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
    /// Web searches that one message may begin; absent = 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_search_max_calls_per_message: Option<u32>,
    /// Web searches per UTC day; absent = 75.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_search_daily_quota: Option<u32>,
    /// Calls of the code interpreter that one message may begin; absent = 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_interpreter_max_calls_per_message: Option<u32>,
    /// Calls of the code interpreter per UTC day; absent = 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_interpreter_daily_quota: Option<u32>,
}

impl Default for UserLimits {
    fn default() -> Self {
        let Limits { standard, premium } = Limits::default();
        Self {
            standard,
            premium,
            overshoot_tolerance_pct: 10,
            warning_threshold_pct: 80,
            web_search_max_calls_per_message: None,
            web_search_daily_quota: None,
            code_interpreter_max_calls_per_message: None,
            code_interpreter_daily_quota: None,
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

    /// Calls of tools per UTC day (QUOTA-50).
    pub fn tool_quotas(&self) -> ToolQuotas {
        let default = ToolQuotas::default();
        ToolQuotas {
            web_search_daily: self
                .web_search_daily_quota
                .unwrap_or(default.web_search_daily),
            code_interpreter_daily: self
                .code_interpreter_daily_quota
                .unwrap_or(default.code_interpreter_daily),
        }
    }

    /// Calls of `tool` that one message may begin (CONT-103); `None` = no limit but
    /// the provider's.
    pub fn max_calls_per_message(&self, tool: HostedTool) -> Option<u32> {
        match tool {
            HostedTool::FileSearch => None,
            HostedTool::WebSearch => Some(
                self.web_search_max_calls_per_message
                    .unwrap_or(WEB_SEARCHES),
            ),
            HostedTool::CodeInterpreter => Some(
                self.code_interpreter_max_calls_per_message
                    .unwrap_or(CODE_INTERPRETER_CALLS),
            ),
        }
    }
}
