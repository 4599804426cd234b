//! Sinks of a custom resource, as the rendered document has them.

use minichat_config::Faults;
use minichat_config::tenant::document::{
    AuditSinkDocument, BatchDocument, SinkDocument, WebhookDocument,
};
use minichat_config::tenant::sink::{Format, SinkKind};
use minichat_config::tenant::{HttpUrl, Scheme};

use super::RenderSettings;
use super::document::{PLAIN_HTTP, secret_ref};
use crate::chat_tenant::{AuditSink, Batch, SinkType, UsageSink, Webhook, WebhookFormat};

/// `usage_sink`; `None` for a sink that drops events, as if it were not written.
pub(super) fn usage(
    sink: &UsageSink,
    settings: &RenderSettings,
    faults: &mut Faults,
) -> Option<SinkDocument> {
    let UsageSink { kind, webhook } = sink;
    let path = "spec.usageSink.webhook";
    let webhook = webhook.as_ref().map(|it| one(it, path, settings, faults));
    let is_default = *kind == SinkType::None && webhook.is_none();
    (!is_default).then(|| SinkDocument {
        kind: kind_of(*kind),
        webhook,
    })
}

/// `audit_sink`, likewise.
pub(super) fn audit(
    sink: &AuditSink,
    settings: &RenderSettings,
    faults: &mut Faults,
) -> Option<AuditSinkDocument> {
    let AuditSink {
        kind,
        webhook,
        include_content,
    } = sink;
    let path = "spec.auditSink.webhook";
    let webhook = webhook.as_ref().map(|it| one(it, path, settings, faults));
    let is_default = *kind == SinkType::None && webhook.is_none();
    (!is_default).then(|| AuditSinkDocument {
        kind: kind_of(*kind),
        webhook,
        include_content: *include_content,
    })
}

const fn kind_of(kind: SinkType) -> SinkKind {
    match kind {
        SinkType::None => SinkKind::None,
        SinkType::Log => SinkKind::Log,
        SinkType::Webhook => SinkKind::Webhook,
    }
}

fn one(
    webhook: &Webhook,
    path: &str,
    settings: &RenderSettings,
    faults: &mut Faults,
) -> WebhookDocument {
    let Webhook {
        url,
        format,
        signing_secret_ref,
        auth_header,
        secret_ref: sent,
        timeout_seconds,
        batch,
    } = webhook;
    // One that cannot be read is a fault of the document.
    if let Some(parsed) = HttpUrl::parse(url) {
        faults.require(
            parsed.scheme == Scheme::Https || settings.allow_http,
            format!("{path}.url"),
            PLAIN_HTTP,
        );
        if let Some(message) = settings.refuse_host(&parsed.host) {
            faults.add(format!("{path}.url"), message);
        }
    }
    WebhookDocument {
        url: url.clone(),
        format: match format {
            WebhookFormat::Json => Format::Json,
            WebhookFormat::CloudEvents => Format::CloudEvents,
        },
        signing_secret_ref: signing_secret_ref.as_ref().map(secret_ref),
        auth_header: auth_header.clone(),
        secret_ref: sent.as_ref().map(secret_ref),
        timeout_seconds: Some(*timeout_seconds),
        batch: batch.as_ref().map(|batch| {
            let Batch {
                max_events,
                max_seconds,
            } = *batch;
            BatchDocument {
                max_events,
                max_seconds,
            }
        }),
    }
}

#[cfg(test)]
mod tests;
