//! What the schema of the values refuses.

use serde_json::{Map, Value, json};

use crate::helm::{chart, helm, render, render_values};

/// K8S-70
#[test]
fn a_misspelt_value_is_refused_by_its_name() {
    for misspelt in [
        "pools.replicaCount=1",
        "pool.replicacount=1",
        "pool.config.drain.max_seconds=1",
        "pool.config.auth.modus=dev",
        "pool.resources.request.cpu=1",
        "operator.image.repo=x",
        "database.existingsecret=x",
    ] {
        let refused = render(&[misspelt]).unwrap_err().to_string();
        let (path, _) = misspelt.split_once('=').unwrap();
        let name = path
            .split('.')
            .find(|name| refused.contains(&format!("'{name}' not allowed")));
        assert!(name.is_some(), "{misspelt}: {refused}");
    }
}

/// K8S-70
#[test]
fn a_value_out_of_its_range_is_refused() {
    for wrong in [
        "image.pullPolicy=Sometimes",
        "operator.replicaCount=0",
        "operator.namespaces={Not_A_Namespace}",
        "pool.replicaCount=many",
        "pool.config.auth.mode=open",
        "pool.config.drain.max_secs=null",
        "pool.config.server.body_limit_bytes=1",
        "pool.config.server.cors.allowed_origins=https://chat.example.com",
        "pool.persistence.size=big",
        "test.tenantId=acme",
    ] {
        let refused = render(&[wrong]).unwrap_err().to_string();
        assert!(refused.contains("schema"), "{wrong}: {refused}");
    }
}

/// Listen addresses and secrets cannot be set by values.
#[test]
fn secrets_and_addresses_cannot_be_values() {
    for foreign in [
        "pool.config.database.url=postgres://me:secret@host/db",
        "pool.config.auth.shared_secret=secret",
        "pool.config.server.bind_addr=0.0.0.0:1",
    ] {
        let refused = render(&[foreign]).unwrap_err().to_string();
        assert!(refused.contains("not allowed"), "{foreign}: {refused}");
    }
}

/// Calls `visit` with the path and the schema of every section and every value.
fn each(schema: &Value, path: &mut Vec<String>, visit: &mut impl FnMut(&[String], &Value)) {
    visit(path, schema);
    let properties = schema["properties"].as_object();
    for (name, child) in properties.into_iter().flatten() {
        path.push(name.clone());
        each(child, path, visit);
        path.pop();
    }
}

fn schema() -> anyhow::Result<Value> {
    let file = chart("minichat").join("values.schema.json");
    Ok(serde_json::from_str(&std::fs::read_to_string(file)?)?)
}

/// Sets the value at `path`.
fn set(root: &mut Value, path: &[String], value: Value) {
    let mut at = root;
    for name in path {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[name.as_str()];
    }
    *at = value;
}

/// K8S-70: every section refuses a name that it does not have, and every value something of another type, by its path.
#[test]
fn every_unknown_and_every_wrong_value_is_refused_by_its_path() -> anyhow::Result<()> {
    let schema = schema()?;
    let (mut unknown, mut wrong) = (json!({}), json!({}));
    let (mut sections, mut values) = (Vec::new(), Vec::new());
    each(&schema, &mut Vec::new(), &mut |path, schema| {
        let place = format!("/{}", path.join("/"));
        if schema["additionalProperties"] == false {
            set(
                &mut unknown,
                &[path, &["misspelt".to_owned()]].concat(),
                json!(1),
            );
            sections.push(place);
        } else if schema.get("type").is_some() && path != ["global"] {
            let is_list = schema["type"] == "array";
            set(
                &mut wrong,
                path,
                if is_list { json!("text") } else { json!([]) },
            );
            values.push(place);
        }
    });
    assert!(
        sections.len() > 40 && values.len() > 200,
        "{sections:?} {values:?}"
    );
    let refused = render_values(&unknown, &[]).unwrap_err().to_string();
    for section in sections {
        let line = format!(
            "at '{}': additional properties ",
            section.trim_end_matches('/')
        );
        let names = refused.lines().filter(|found| found.contains(&line));
        assert!(names.count() > 0, "{line}\n{refused}");
    }
    let refused = render_values(&wrong, &[]).unwrap_err().to_string();
    for value in values {
        assert!(
            refused.contains(&format!("at '{value}")),
            "{value}\n{refused}"
        );
    }
    Ok(())
}

/// K8S-70: what the API server would refuse, or worse, would not.
#[test]
fn fields_of_kubernetes_have_their_types_too() {
    for (wrong, path) in [
        (
            json!({"pool": {"extraEnv": [{"name": "DEBUG", "value": true}]}}),
            "/pool/extraEnv/0/value",
        ),
        (
            json!({"pool": {"extraEnv": [{"nam": "DEBUG"}]}}),
            "/pool/extraEnv/0",
        ),
        (
            json!({"operator": {"tolerations": [{"key": "a", "tolerationSeconds": "9"}]}}),
            "/operator/tolerations/0/tolerationSeconds",
        ),
        (
            json!({"podSecurityContext": {"runAsUser": "1000"}}),
            "/podSecurityContext/runAsUser",
        ),
        (
            json!({"pool": {"topologySpreadConstraints": [{"topologyKe": "x"}]}}),
            "/pool/topologySpreadConstraints/0",
        ),
        (
            json!({"networkPolicy": {"clients": [{"ports": []}]}}),
            "/networkPolicy/clients/0",
        ),
        (
            json!({"ingress": {"tls": [{"secret": "x"}]}}),
            "/ingress/tls/0",
        ),
        (
            json!({"ingress": {"hosts": ["https://chat.example.com"]}}),
            "/ingress/hosts/0",
        ),
    ] {
        let refused = render_values(&wrong, &[]).unwrap_err().to_string();
        assert!(refused.contains(&format!("at '{path}'")), "{refused}");
    }
}

/// K8S-70: the values, their schema and the defaults are of one table.
#[test]
fn the_defaults_pass_their_own_schema() -> anyhow::Result<()> {
    let chart = chart("minichat").display().to_string();
    let defaults = helm(&["show", "values", &chart])?;
    let defaults = minichat_config::yaml::document(&defaults);
    let defaults = defaults.map_err(|fault| anyhow::anyhow!("{fault}"))?;
    render_values(&defaults, &[])?;
    let mut missing = Vec::new();
    each(&schema()?, &mut Vec::new(), &mut |path, schema| {
        let pointer = format!("/{}", path.join("/"));
        if schema.get("default").is_some() && defaults.pointer(&pointer).is_none() {
            missing.push(pointer);
        }
    });
    assert_eq!(missing, Vec::<String>::new());
    Ok(())
}
