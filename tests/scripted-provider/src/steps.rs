//! The steps of an answer: what a script says, in the bytes of a writer.

use std::time::Duration;

use http::StatusCode;

use super::answer::Step;
use super::errors;
use super::scenario::{Ending, Scenario};
use super::script::{Piece, Script};
use super::writer::{End, Outcome, Writer};

/// The steps of an answer that the scenario has byte for byte.
pub(super) fn raw(scenario: &Scenario) -> Option<Vec<Step>> {
    let raw = scenario.raw.clone()?;
    let mut steps = vec![Step::Bytes(raw.into())];
    if scenario.hold_before_end {
        steps.push(Step::Hold);
    }
    match scenario.ending {
        Ending::Cut => steps.extend([Step::Flush, Step::Cut]),
        Ending::Hang => steps.push(Step::Hang),
        _ => {}
    }
    Some(steps)
}

/// The steps of a stream.
pub(super) fn stream(writer: &mut dyn Writer, script: &Script, is_held: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    writer.open(&mut steps);
    say(writer, script, &mut steps);
    if is_held {
        steps.push(Step::Hold);
    }
    match end(script) {
        Ok(end) => writer.finish(&end, &mut steps),
        Err(broken) => steps.extend(broken),
    }
    steps
}

/// Status and steps of an answer that is not streamed. A failed one is an error
/// under a status of its own.
pub(super) fn document(
    writer: &mut dyn Writer,
    script: &Script,
    is_held: bool,
) -> (StatusCode, Vec<Step>) {
    say(writer, script, &mut Vec::new());
    let mut steps = Vec::new();
    if is_held {
        steps.push(Step::Hold);
    }
    let (status, document) = match end(script) {
        Ok(end) => match end.outcome {
            Outcome::Failed { code, message } | Outcome::Error { code, message } => {
                let error = errors::failure(message, code);
                (StatusCode::INTERNAL_SERVER_ERROR, error)
            }
            _ => (StatusCode::OK, writer.document(&end)),
        },
        Err(broken) => {
            steps.extend(broken);
            return (StatusCode::OK, steps);
        }
    };
    steps.push(Step::Bytes(document.to_string().into()));
    (status, steps)
}

fn say(writer: &mut dyn Writer, script: &Script, steps: &mut Vec<Step>) {
    if !script.reasoning.is_empty() {
        writer.reasoning(&script.reasoning, steps);
    }
    for (index, piece) in script.pieces.iter().enumerate() {
        if index > 0 && !script.pause.is_zero() {
            steps.push(Step::Wait(script.pause));
        }
        match piece {
            Piece::Text(text) => writer.text(text, steps),
            Piece::Begin(call) => writer.begin(call, steps),
            Piece::End => writer.end(steps),
        }
    }
}

/// How the script ends; the steps of an answer that is not ended.
fn end(script: &Script) -> Result<End<'_>, Vec<Step>> {
    let (outcome, is_flat) = match &script.ending {
        Ending::Trigger | Ending::Completed => (Outcome::Completed, false),
        Ending::CompletedFlat => (Outcome::Completed, true),
        Ending::Incomplete { reason } => (Outcome::Incomplete { reason }, false),
        Ending::IncompleteFlat { reason } => (Outcome::Incomplete { reason }, true),
        Ending::Failed { code, message } => (Outcome::Failed { code, message }, false),
        Ending::FailedFlat { code, message } => (Outcome::Failed { code, message }, true),
        Ending::Error { code, message } => (Outcome::Error { code, message }, false),
        Ending::ErrorFlat { code, message } => (Outcome::Error { code, message }, true),
        Ending::Missing => return Err(Vec::new()),
        Ending::Cut => return Err(vec![Step::Flush, Step::Cut]),
        Ending::Hang => return Err(vec![Step::Hang]),
        Ending::Comments { every_ms } => {
            return Err(vec![Step::Comments(Duration::from_millis(*every_ms))]);
        }
    };
    Ok(End {
        outcome,
        is_flat,
        annotations: &script.annotations,
        usage: script.usage,
    })
}
