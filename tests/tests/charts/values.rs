//! What the schema of the values refuses.

use crate::helm::render;

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
