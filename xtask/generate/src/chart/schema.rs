//! `values.schema.json`: strict, so that Helm refuses a misspelt value.

use serde_json::{Map, Value, json};

use super::Node;
use super::values::Kind;

pub(super) fn values(root: &Node) -> anyhow::Result<String> {
    let mut schema = of(root);
    schema["$schema"] = "https://json-schema.org/draft-07/schema#".into();
    // Helm adds it if the chart is a subchart.
    schema["properties"]["global"] = json!({ "type": "object" });
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

fn of(node: &Node) -> Value {
    match node {
        Node::Section(children) => {
            let properties: Map<String, Value> = children
                .iter()
                .map(|(name, child)| ((*name).to_owned(), of(child)))
                .collect();
            object(&properties)
        }
        Node::Leaf(row, default) => {
            let mut schema = of_kind(&row.kind);
            schema["description"] = row.help.into();
            schema["default"] = default.clone();
            schema
        }
    }
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        Kind::Text("") => json!({ "type": "string" }),
        Kind::Text(pattern) => json!({ "type": "string", "pattern": pattern }),
        Kind::Integer(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Choice(words) => json!({ "type": "string", "enum": words }),
        Kind::Texts(pattern) => {
            json!({ "type": "array", "items": { "type": "string", "pattern": pattern } })
        }
        Kind::TextByName => {
            json!({ "type": "object", "additionalProperties": { "type": "string" } })
        }
        Kind::Resources => resources(),
        Kind::Object(fields) => object_of(fields),
        Kind::Objects(fields) => json!({ "type": "array", "items": object_of(fields) }),
        Kind::ProcessConfig => process_config(),
    }
}

/// An object of Kubernetes with some of `fields`; none = any fields.
fn object_of(fields: &[&str]) -> Value {
    if fields.is_empty() {
        return json!({ "type": "object" });
    }
    let properties = fields.iter();
    let properties = properties.map(|name| ((*name).to_owned(), json!({ "type": of_field(name) })));
    object(&properties.collect())
}

/// The type of a field of Kubernetes, which has it in every object that values have.
fn of_field(name: &str) -> Value {
    match name {
        "allowPrivilegeEscalation" | "readOnly" | "readOnlyRootFilesystem" | "runAsNonRoot" => {
            "boolean".into()
        }
        "fsGroup" | "maxSkew" | "minDomains" | "port" | "runAsGroup" | "runAsUser"
        | "tolerationSeconds" => "integer".into(),
        "maxUnavailable" | "minAvailable" => json!(["integer", "string"]),
        "hosts" | "matchLabelKeys" | "nameservers" | "options" | "ports" | "searches"
        | "supplementalGroups" | "sysctls" | "to" => "array".into(),
        "appArmorProfile" | "capabilities" | "ipBlock" | "labelSelector" | "namespaceSelector"
        | "nodeAffinity" | "podAffinity" | "podAntiAffinity" | "podSelector" | "rollingUpdate"
        | "scaleDown" | "scaleUp" | "seLinuxOptions" | "seccompProfile" | "valueFrom" => {
            "object".into()
        }
        _ => "string".into(),
    }
}

fn object(properties: &Map<String, Value>) -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn resources() -> Value {
    let quantities =
        json!({ "type": "object", "additionalProperties": { "type": ["string", "number"] } });
    let properties = ["requests", "limits"].map(|name| (name.to_owned(), quantities.clone()));
    object(&properties.into_iter().collect())
}

/// The chart sets the tenants' source itself, and has its own values for outgoing calls and for TLS. It computes the grace period of
/// a pod from the drain's values, so these are numbers, not null. The default of `max_secs` depends on the database.
fn process_config() -> Value {
    let mut schema = minichat_config::process::schema::json_schema(&["source", "outbound"]);
    if let Some(server) = schema["properties"]["server"]["properties"].as_object_mut() {
        server.remove("tls");
    }
    schema["required"] = json!(["auth", "drain"]);
    schema["properties"]["auth"]["required"] = json!(["mode"]);
    schema["properties"]["drain"]["required"] = json!(["min_secs"]);
    schema
}
