//! The events of the tools that the provider runs (CONT-105).

use minichat_core::HostedTool;
use minichat_core::stream::{ToolDetails, ToolEvent, ToolPhase};

use crate::adapter::json::{elements, members, members_of, text};
use crate::adapter::output::Output;
use crate::adapter::text::whole;

/// Characters of a code interpreter's output that clients see.
const MAX_OUTPUT_CHARS: usize = 8192;

/// What follows an output that was cut.
const CUT: &str = "...[truncated]";

/// The tool and the end of its call that an event with this name is about.
pub(super) fn of_name(name: &[u8]) -> Option<(HostedTool, ToolPhase)> {
    let (tool, phase) = match name {
        b"response.file_search_call.searching" => (HostedTool::FileSearch, ToolPhase::Start),
        b"response.file_search_call.completed" => (HostedTool::FileSearch, ToolPhase::Done),
        b"response.web_search_call.searching" => (HostedTool::WebSearch, ToolPhase::Start),
        b"response.web_search_call.completed" => (HostedTool::WebSearch, ToolPhase::Done),
        b"response.code_interpreter_call.in_progress" => {
            (HostedTool::CodeInterpreter, ToolPhase::Start)
        }
        b"response.code_interpreter_call.completed" => {
            (HostedTool::CodeInterpreter, ToolPhase::Done)
        }
        _ => return None,
    };
    Some((tool, phase))
}

/// The event for clients. Whatever an object says, it counts.
pub(super) fn event(
    tool: HostedTool,
    phase: ToolPhase,
    json: &str,
    output: &Output,
) -> Result<ToolEvent, serde_json::Error> {
    let [] = members(json, [])?;
    let details = match (tool, phase) {
        (_, ToolPhase::Start) | (HostedTool::WebSearch, _) => ToolDetails::default(),
        (HostedTool::FileSearch, ToolPhase::Done) => ToolDetails {
            files_searched: Some(member(json, "results").map_or(0, |all| elements(all).len())),
            ..ToolDetails::default()
        },
        (HostedTool::CodeInterpreter, ToolPhase::Done) => {
            let printed = member(json, "outputs").map(logs).unwrap_or_default();
            ToolDetails {
                output: Some(shown(&printed, output)),
                ..ToolDetails::default()
            }
        }
    };
    Ok(ToolEvent {
        phase,
        name: tool,
        details,
    })
}

/// The member `name`, beside the type of the event or in its item.
fn member<'a>(json: &'a str, name: &'static str) -> Option<&'a str> {
    let [found, item] = members_of(Some(json), [name, "item"]);
    let [nested] = members_of(item, [name]);
    found.or(nested)
}

/// The outputs of the type `logs`, a line each.
fn logs(outputs: &str) -> String {
    let logs: Vec<String> = elements(outputs)
        .into_iter()
        .filter_map(|output| {
            let [kind, logs] = members_of(Some(output), ["type", "logs"]);
            let logs = logs.filter(|_| kind == Some("\"logs\""))?;
            text(logs).map(whole)
        })
        .collect();
    logs.join("\n")
}

fn shown(printed: &str, output: &Output) -> String {
    let (mut kept, is_cut) = output.masked(printed, MAX_OUTPUT_CHARS);
    if is_cut {
        kept.push_str(CUT);
    }
    kept
}
