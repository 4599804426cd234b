//! Cases of sinks. Both sinks have the same rules.

use serde_json::{Value, json};

use super::{Case, on_tenant};

const WEBHOOK: [&str; 2] = ["spec.usageSink.webhook", "spec.auditSink.webhook"];
const URL: [&str; 2] = ["spec.usageSink.webhook.url", "spec.auditSink.webhook.url"];
const SECRET: [&str; 2] = [
    "spec.usageSink.webhook.secretRef",
    "spec.auditSink.webhook.secretRef",
];
const HEADER: [&str; 2] = [
    "spec.usageSink.webhook.authHeader",
    "spec.auditSink.webhook.authHeader",
];

struct Rule {
    message: &'static str,
    /// Path of the field in both sinks.
    paths: [&'static str; 2],
    accepted: Value,
    refused: Value,
}

fn webhook(members: &Value) -> Value {
    let mut webhook = json!({"url": "https://billing.example.com/minichat"});
    if let (Value::Object(webhook), Value::Object(members)) = (&mut webhook, members) {
        webhook.extend(members.clone());
    }
    json!({"type": "Webhook", "webhook": webhook})
}

fn rules() -> [Rule; 8] {
    let secret = || json!({"name": "billing", "key": "token"});
    let signed = webhook(&json!({"signingSecretRef": secret()}));
    let header = |name: &str| webhook(&json!({"secretRef": secret(), "authHeader": name}));
    let url = |url: &str| webhook(&json!({"url": url}));
    [
        Rule {
            message: "a sink of type Webhook needs webhook; add it with the url of the receiver",
            paths: WEBHOOK,
            accepted: signed.clone(),
            refused: json!({"type": "Webhook"}),
        },
        Rule {
            message: "webhook is only for a sink of type Webhook; write type: Webhook or remove it",
            paths: WEBHOOK,
            accepted: json!({"type": "Log"}),
            refused: json!({"type": "None", "webhook": {"url": "https://billing.example.com"}}),
        },
        Rule {
            message: "requests are signed (signingSecretRef) or carry a credential (secretRef), not both; remove one of the two",
            paths: SECRET,
            accepted: webhook(&json!({"secretRef": secret()})),
            refused: webhook(&json!({"secretRef": secret(), "signingSecretRef": secret()})),
        },
        Rule {
            message: "authHeader names the header of the credential in secretRef; add secretRef or remove authHeader",
            paths: HEADER,
            accepted: header("X-Api-Key"),
            refused: webhook(&json!({"authHeader": "X-Api-Key"})),
        },
        Rule {
            message: "must be a URL such as https://billing.example.com/minichat, with neither a user name nor a fragment; write other characters as %20",
            paths: URL,
            accepted: url("http://[::1]:8080/a/b?c=d%20e"),
            refused: url("https://user@billing.example.com/"),
        },
        Rule {
            message: "must be a URL such as https://billing.example.com/minichat, with neither a user name nor a fragment; write other characters as %20",
            paths: URL,
            accepted: url("https://billing.example.com?key=v"),
            refused: url("https://billing.example.com//b"),
        },
        Rule {
            message: "must be a header name such as Authorization or X-Api-Key",
            paths: HEADER,
            accepted: header("Authorization"),
            refused: header("api key"),
        },
        Rule {
            message: "is a header of the connection, of framing, of routing or of webhooks, which carries no credential; write one such as Authorization or X-Api-Key",
            paths: HEADER,
            accepted: header("X-Webhook-Token"),
            refused: header("Webhook-Signature"),
        },
    ]
}

pub(super) fn sink_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, sink) in ["/spec/usageSink", "/spec/auditSink"]
        .into_iter()
        .enumerate()
    {
        let rules = rules().into_iter();
        cases.extend(rules.map(|rule| {
            on_tenant(
                rule.message,
                rule.paths[i],
                sink,
                rule.accepted,
                rule.refused,
            )
        }));
    }
    cases
}
