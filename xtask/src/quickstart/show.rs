//! The quickstart's output on the terminal.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::api::{Api, Stream};
use super::{Options, exposition};

pub(super) fn models(models: &Value) {
    let items = models["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let names: Vec<String> = items
        .iter()
        .map(|model| format!("{} ({})", text(model, "model_id"), text(model, "tier")))
        .collect();
    println!("Models:   {}", names.join(", "));
}

/// Prints the answer as it arrives and returns the request id of the turn.
pub(super) fn answer(stream: Stream) -> anyhow::Result<String> {
    let mut event = String::new();
    let mut request_id = None;
    print!("Answer:   ");
    for line in stream.lines() {
        let line = line.context("the stream was cut")?;
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut event);
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data)?;
            match event.as_str() {
                "stream_started" => request_id = data["request_id"].as_str().map(str::to_owned),
                "delta" => {
                    print!("{}", text(&data, "content"));
                    io::stdout().flush()?;
                }
                "done" => println!(
                    "\n          usage {}, model {}",
                    data["usage"],
                    text(&data, "effective_model")
                ),
                "error" => bail!("the stream ended in an error: {data}"),
                _ => {}
            }
        }
    }
    request_id.context("the stream had no stream_started event")
}

pub(super) fn turn(turn: &Value) {
    println!("\nThe turn as it is stored:");
    for (name, value) in turn.as_object().into_iter().flatten() {
        println!("  {name:<24} {}", plain(value));
    }
}

pub(super) fn quota(quota: &Value) {
    println!("\nQuota (micro-credits):");
    for tier in quota["tiers"].as_array().into_iter().flatten() {
        for period in tier["periods"].as_array().into_iter().flatten() {
            println!(
                "  {:<8} {:<8} used {:>12} of {:>14}, {} % left",
                text(tier, "tier"),
                text(period, "period"),
                period["used_credits_micro"],
                period["limit_credits_micro"],
                period["remaining_percentage"],
            );
        }
    }
}

pub(super) fn moved_metrics(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    println!("\nMetrics that moved:");
    for (series, was, now) in exposition::moved(before, after) {
        println!("  {series} {was} -> {now}");
    }
}

pub(super) fn how_to_go_on(api: &Api, directory: &Path, options: &Options) {
    let Api {
        base, docs, admin, ..
    } = api;
    println!(
        "
Go on with:
  CHAT=$(curl -s -X POST {base}/chats -H 'content-type: application/json' -d '{{}}' | sed 's/.*\"id\":\"\\([^\"]*\\)\".*/\\1/')
  curl -N {base}/chats/$CHAT/messages:stream -H 'content-type: application/json' -d '{{\"content\":\"Hello\"}}'
  curl {base}/chats/$CHAT/messages
  curl {base}/models
  curl {base}/quota/status
  curl {admin}/configz
  curl {admin}/metrics
Every operation with its answers: {docs}
Edit the manifests in {directory}/manifests and watch /configz: a change is live at once.
Logs: {directory}/dataplane.log",
        directory = directory.display(),
    );
    if options.once {
        println!("(with --once the servers end now)");
    }
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_default()
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
