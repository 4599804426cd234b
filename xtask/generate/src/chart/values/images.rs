//! Where images come from.

use super::{ChartValue, DIGEST_OR_EMPTY, DNS_LABEL, Kind, NOT_EMPTY, value};

pub(super) fn common() -> Vec<ChartValue> {
    vec![
        value(
            "image.registry",
            Kind::Text(""),
            "\"\"",
            "Registry of the images, such as `registry.example.com/minichat`; empty = the node's default.",
        ),
        value(
            "image.tag",
            Kind::Text(""),
            "\"\"",
            "Tag of both images; empty = the chart's `appVersion`.",
        ),
        value(
            "image.pullPolicy",
            Kind::Choice(&["IfNotPresent", "Always", "Never"]),
            "\"IfNotPresent\"",
            "When images are pulled.",
        ),
        value(
            "image.pullSecrets",
            Kind::Texts(DNS_LABEL),
            "[]",
            "Names of Secrets with the registry's credentials.",
        ),
    ]
}

/// The image of `component`, called `repository` (JSON) by default.
pub(super) fn of(component: &str, repository: &'static str) -> Vec<ChartValue> {
    let path = |name| format!("{component}.image.{name}");
    vec![
        value(
            path("repository"),
            Kind::Text(NOT_EMPTY),
            repository,
            "Image, without the registry.",
        ),
        value(
            path("tag"),
            Kind::Text(""),
            "\"\"",
            "Tag of this image; empty = `image.tag`.",
        ),
        value(
            path("digest"),
            Kind::Text(DIGEST_OR_EMPTY),
            "\"\"",
            "Digest of this image, `sha256:…`. It takes the place of the tag.",
        ),
    ]
}
