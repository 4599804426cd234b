//! Files and environments that are accepted, and every fault.

use proptest::prelude::*;

use super::key::{KEYS, Kind};
use super::*;
use crate::AllowPrivate;

fn load(yaml: &str, env: &[(&str, &str)]) -> Result<ProcessConfig, Faults> {
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    ProcessConfig::from_yaml(yaml, env)
}

fn dev(yaml: &str) -> Result<ProcessConfig, Faults> {
    load(
        yaml,
        &[
            ("MINICHAT_AUTH_MODE", "dev"),
            ("MINICHAT_AUTH_ALLOW_DEV", "true"),
        ],
    )
}

fn fault_keys(result: Result<ProcessConfig, Faults>) -> Vec<String> {
    result
        .unwrap_err()
        .0
        .into_iter()
        .map(|fault| fault.path)
        .collect()
}

/// PLAT-152
#[test]
fn defaults_are_those_of_the_specification() {
    let config = dev("").unwrap();
    assert_eq!(config.url_prefix, "/mini-chat");
    assert_eq!(config.base_path(), "/mini-chat");
    assert_eq!(config.server.bind_addr.to_string(), "0.0.0.0:8087");
    assert_eq!(config.server.body_limit_bytes, 16 * 1024 * 1024);
    assert_eq!(
        config.server.rate_limit,
        RateLimit {
            per_second: 50,
            burst: 100,
            in_flight: 4096
        }
    );
    assert_eq!(config.metrics.bind_addr.to_string(), "0.0.0.0:9090");
    assert_eq!(config.metrics.prefix, "mini_chat");
    assert_eq!(config.database.max_conns, 10);
    assert_eq!(config.streaming.sse_channel_capacity, 32);
    assert!(!config.provider_http.allow_http);
    assert_eq!(config.provider_http.max_event_bytes, 8 * 1024 * 1024);
    assert_eq!(config.provider_http.max_answer_bytes, 8 * 1024 * 1024);
    assert_eq!(config.drain.max.as_secs(), 20);
}

/// API-27, D21
#[test]
fn documents_are_on_for_developers_and_wherever_somebody_wants_them() {
    let trusted = "auth:\n  mode: trusted_headers\n  trusted_peers: [10.0.0.0/8]\n";
    let wanted = |is: bool| format!("server:\n  docs_enabled: {is}\n");
    for (config, is_on) in [
        (dev(""), true),
        (dev(&wanted(false)), false),
        (load(trusted, &[]), false),
        (load(&(trusted.to_owned() + &wanted(true)), &[]), true),
    ] {
        assert_eq!(config.unwrap().server.docs_enabled, is_on);
    }
    let faulty = dev("server:\n  docs_enabled: maybe");
    assert_eq!(fault_keys(faulty), ["server.docs_enabled"]);
}

#[test]
fn every_default_passes_its_own_check() {
    let lines: Vec<_> = KEYS
        .iter()
        .filter(|key| !key.default.is_empty())
        .map(|key| format!("{}: \"{}\"", key.name, key.default))
        .collect();
    let yaml = lines.join("\n");
    // A dotted key at the top level names the same setting as the nested one.
    assert_eq!(dev(&yaml), dev(""));
}

#[test]
fn every_key_is_read_from_its_variable() {
    for key in KEYS {
        let wrong = match key.kind {
            Kind::Address
            | Kind::Integer(..)
            | Kind::Number(..)
            | Kind::Bool
            | Kind::Choice(_)
            | Kind::Uuid
            | Kind::Networks
            | Kind::Texts => "?",
            Kind::Secret => "${UNSET_VARIABLE}",
            Kind::Text => "\u{7f}",
        };
        let variable = key.variable();
        let result = load("auth: {mode: dev, allow_dev: true}", &[(&variable, wrong)]);
        match result {
            Err(faults) => assert!(
                faults.0.iter().any(|f| f.path == key.name),
                "{variable}: {faults}"
            ),
            // These take any text.
            Ok(config) => assert!(
                config.logging.level == wrong
                    || config.thread_summary_worker.system_prompt == wrong
                    || config.outbound.ca_file == Some(wrong.into())
                    || config.source == Some(TenantSource::Manifests(wrong.into()))
                    || config.source == Some(TenantSource::Directory(wrong.into()))
                    || job(&variable, wrong).report_file == Some(wrong.into())
                    || job(&variable, wrong).lease == Some(wrong.into()),
                "{variable} is not read"
            ),
        }
    }
}

fn job(variable: &str, value: &str) -> Job {
    let env = [(variable.to_owned(), value.to_owned())];
    JobConfig::load(None, env).unwrap().job
}

#[test]
fn environment_wins_over_the_file() {
    let yaml = "server: {bind_addr: '127.0.0.1:1'}\nauth: {mode: dev, allow_dev: true}";
    let config = load(yaml, &[("MINICHAT_SERVER_BIND_ADDR", "127.0.0.1:2")]).unwrap();
    assert_eq!(config.server.bind_addr.port(), 2);
}

/// PLAT-151: start-up stops with every key and reason.
#[test]
fn all_faults_are_reported_at_once() {
    let yaml = "
server: {bind_addr: nowhere, colour: red, rate_limit: {burst: -1}}
streaming: {sse_channel_capacity: 65, sse_ping_interval_seconds: 4}
database: {url: 'mysql://x'}
sever: {}
auth: {mode: dev}
";
    let keys = fault_keys(load(yaml, &[]));
    for key in [
        "server.bind_addr",
        "server.colour",
        "server.rate_limit.burst",
        "streaming.sse_channel_capacity",
        "streaming.sse_ping_interval_seconds",
        "database.url",
        "sever",
        "auth.allow_dev",
    ] {
        assert!(
            keys.iter().any(|k| k == key),
            "{key} is missing in {keys:?}"
        );
    }
    assert_eq!(keys.len(), 8, "{keys:?}");
}

/// TURN-1, PLAT-154; check 60 of chapter 02: the first values beyond each end.
#[test]
fn what_turns_cannot_live_by_is_refused_with_its_key() {
    for (section, key, refused, accepted) in [
        ("orphan_watchdog", "timeout_secs", [89, 3601], [90, 3600]),
        ("orphan_watchdog", "scan_interval_secs", [-1, 0], [1, 60]),
        (
            "orphan_watchdog",
            "process_timeout_secs",
            [5, 3601],
            [6, 3600],
        ),
        ("streaming", "sse_channel_capacity", [15, 65], [16, 64]),
        ("streaming", "sse_ping_interval_seconds", [4, 61], [5, 60]),
    ] {
        let with = |value: i32| dev(&format!("{section}: {{{key}: {value}}}"));
        for value in refused {
            assert_eq!(fault_keys(with(value)), [format!("{section}.{key}")]);
        }
        for value in accepted {
            assert!(with(value).is_ok(), "{key}: {value}");
        }
    }
}

/// PLAT-31, PLAT-34, PLAT-39
#[test]
fn an_outbox_that_cannot_work_is_refused_with_its_key() {
    for (keys, refused) in [
        ("num_partitions: 3", "outbox.num_partitions"),
        ("num_partitions: 128", "outbox.num_partitions"),
        ("queue_name: mini-chat.audit", "outbox.queue_name"),
        ("audit_queue_name: 'a,b'", "outbox.audit_queue_name"),
        (
            "lease_secs: 5, ack_headroom_secs: 5",
            "outbox.ack_headroom_secs",
        ),
        ("backoff_base_secs: 61", "outbox.backoff_max_secs"),
        ("max_attempts: {usage: -1}", "outbox.max_attempts.usage"),
    ] {
        assert_eq!(fault_keys(dev(&format!("outbox: {{{keys}}}"))), [refused]);
    }
    let given = dev("outbox: {num_partitions: 64, max_attempts: {audit: 3}}").unwrap();
    assert_eq!(given.outbox.num_partitions, 64);
    assert_eq!(given.outbox.max_attempts(OutboxKind::Audit), 3);
}

/// PLAT-33, check 19 of chapter 05: by default a delivery ends after 58 seconds, and a
/// partition is held for five.
#[test]
fn a_delivery_ends_before_its_lease() {
    let leases = |given: &str| {
        let outbox = dev(given).unwrap().outbox;
        let times = [outbox.handler_limit(), outbox.pass_lease()];
        times.map(|time| time.as_secs())
    };
    assert_eq!(leases(""), [58, 5]);
    let short = "outbox: {lease_secs: 4, ack_headroom_secs: 1}";
    assert_eq!(leases(short), [3, 4]);
}

/// TURN-1: a turn whose commit is in doubt shows no life for as long.
#[test]
fn a_watchdog_that_does_not_wait_for_a_commit_in_doubt_is_refused() {
    let with = |timeout: u32, job: u32| {
        dev(&format!(
            "orphan_watchdog: {{timeout_secs: {timeout}}}\ndatabase: {{job_timeout_secs: {job}}}"
        ))
    };
    for (timeout, job) in [(90, 15), (120, 30), (300, 120)] {
        assert!(with(timeout, job).is_ok(), "{timeout}, {job}");
        let keys = fault_keys(with(timeout, job + 1));
        assert_eq!(keys, ["orphan_watchdog.timeout_secs"], "{timeout}, {job}");
    }
    let text = with(90, 16).unwrap_err().to_string();
    assert!(text.contains("must be at least 92"), "{text}");
}

#[test]
fn two_listeners_on_one_address_are_refused_but_two_chosen_ports_are_not() {
    let same = "server: {bind_addr: '127.0.0.1:80'}\nmetrics: {bind_addr: '127.0.0.1:80'}";
    assert_eq!(fault_keys(dev(same)), ["metrics.bind_addr"]);
    let chosen = "server: {bind_addr: '127.0.0.1:0'}\nmetrics: {bind_addr: '127.0.0.1:0'}";
    dev(chosen).unwrap();
}

/// PLAT-134, PLAT-154
#[test]
fn dev_mode_needs_allow_dev_and_no_mode_is_refused() {
    assert_eq!(
        fault_keys(load("auth: {mode: dev}", &[])),
        ["auth.allow_dev"]
    );
    assert_eq!(fault_keys(load("", &[])), ["auth.issuer"]);
    assert_eq!(fault_keys(load("auth: {mode: basic}", &[])), ["auth.mode"]);
}

/// PLAT-133
#[test]
fn trusted_headers_need_a_reason_for_trust() {
    assert_eq!(
        fault_keys(load("auth: {mode: trusted_headers}", &[])),
        ["auth.trusted_peers"]
    );
    let peers = load(
        "auth: {mode: trusted_headers, trusted_peers: [10.0.0.0/8, '::1']}",
        &[],
    )
    .unwrap();
    let Auth::TrustedHeaders(trusted) = peers.auth else {
        panic!("{:?}", peers.auth)
    };
    assert_eq!(trusted.trusted_peers.len(), 2);
    let half =
        "auth: {mode: trusted_headers, shared_secret_header: X-Proxy, trusted_peers: ['::1']}";
    assert_eq!(fault_keys(load(half, &[])), ["auth.shared_secret"]);
}

/// PLAT-150
#[test]
fn variables_in_secrets_are_expanded_and_unset_ones_are_errors() {
    let yaml = "
auth: {mode: trusted_headers, shared_secret_header: X-Proxy, shared_secret: 'a${WORD}z'}
database: {url: 'postgres://u:${MISSING}@h/d'}
";
    let faults = load(yaml, &[("WORD", "-b-")]).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "database.url: the variable `MISSING` is not set"
    );
    let config = load(yaml, &[("WORD", "-b-"), ("MISSING", "hidden")]).unwrap();
    assert!(!format!("{config:?}").contains("hidden"), "{config:?}");
    let DatabaseUrl::Postgres(url) = &config.database.url else {
        panic!()
    };
    assert_eq!(url.expose(), "postgres://u:hidden@h/d");
    let Auth::TrustedHeaders(trusted) = config.auth else {
        panic!()
    };
    assert_eq!(trusted.shared_secret.unwrap().value.expose(), "a-b-z");
}

/// API-1
#[test]
fn prefixes_are_normalised_and_unsafe_ones_refused() {
    for (written, path) in [
        ("", ""),
        ("/", ""),
        ("cf", "/cf"),
        ("//a///b//", "/a/b"),
        ("/a.b_c-d", "/a.b_c-d"),
    ] {
        assert_eq!(prefix::normalise(written).as_deref(), Ok(path), "{written}");
    }
    for written in ["/a/../b", "/.", "/a b", "/ü", "/a?b", "/%2e"] {
        let yaml = format!("server: {{root_prefix: '{written}'}}");
        assert_eq!(fault_keys(dev(&yaml)), ["server.root_prefix"], "{written}");
    }
}

#[test]
fn not_yaml_and_not_a_mapping_are_faults_of_the_file() {
    assert!(
        dev("server: [")
            .unwrap_err()
            .to_string()
            .contains("not valid YAML")
    );
    assert!(
        dev("- a")
            .unwrap_err()
            .to_string()
            .contains("must be a mapping")
    );
}

#[test]
fn networks_hold_their_addresses_and_mapped_ones() {
    let inside = |network: &str, peer: &str| {
        network
            .parse::<IpNetwork>()
            .unwrap()
            .contains(peer.parse().unwrap())
    };
    assert!(inside("10.0.0.0/8", "10.255.1.2"));
    assert!(!inside("10.0.0.0/8", "11.0.0.0"));
    assert!(inside("10.0.0.0/8", "::ffff:10.1.1.1"));
    assert!(inside("0.0.0.0/0", "203.0.113.1"));
    assert!(!inside("0.0.0.0/0", "2001:db8::1"));
    assert!(inside("fd00::/8", "fd12::1"));
    assert!(inside("127.0.0.1", "127.0.0.1") && !inside("127.0.0.1", "127.0.0.2"));
    for wrong in ["10.0.0.0/33", "::/129", "10.0.0/8", "x", "", "10.0.0.0/"] {
        assert!(wrong.parse::<IpNetwork>().is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn a_network_holds_exactly_the_peers_that_share_its_bits(net: u32, peer: u32, bits in 0u8..=32) {
        let network = IpNetwork::new(std::net::Ipv4Addr::from(net).into(), bits).unwrap();
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        prop_assert_eq!(
            network.contains(std::net::Ipv4Addr::from(peer).into()),
            net & mask == peer & mask
        );
    }
}

/// K8S-21
#[test]
fn there_is_at_most_one_source_of_tenants() {
    let source = |yaml: &str| dev(yaml).map(|config| config.source);
    assert_eq!(source("").unwrap(), None);
    assert_eq!(
        source("source: {manifests: /m}").unwrap(),
        Some(TenantSource::Manifests("/m".into()))
    );
    assert_eq!(
        source("source: {directory: /d}").unwrap(),
        Some(TenantSource::Directory("/d".into()))
    );
    assert_eq!(
        source("source: {pool: main, namespace: chat}").unwrap(),
        Some(TenantSource::Kubernetes {
            pool: "main".to_owned(),
            namespace: Some("chat".to_owned()),
            kubeconfig: None
        })
    );
    let two = source("source: {manifests: /m, pool: main}").unwrap_err();
    assert_eq!(
        two.to_string(),
        "source: only one of source.manifests, source.directory and source.pool may be given"
    );
}

#[test]
fn a_pool_is_the_value_of_a_label() {
    for pool in ["-main", "main.", "a,b", "a=b", &"x".repeat(64)] {
        let faults = dev(&format!("source: {{pool: \"{pool}\"}}"));
        assert_eq!(fault_keys(faults), ["source.pool"], "{pool}");
    }
    assert_eq!(
        fault_keys(dev("source: {namespace: chat}")),
        ["source.namespace"]
    );
}

/// API-28
#[test]
fn cors_is_off_and_otherwise_allows_what_is_usual() {
    assert_eq!(dev("").unwrap().server.cors, None);
    let cors = dev("server: {cors: {enabled: true}}").unwrap().server.cors;
    let methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    assert_eq!(
        cors,
        Some(Cors {
            origins: Allowed::Any,
            methods: methods.map(str::to_owned).to_vec(),
            headers: Allowed::Any,
            credentials: false,
            max_age: std::time::Duration::from_mins(10),
        })
    );
    let named = "server: {cors: {enabled: true, allow_credentials: true, \
        allowed_origins: ['https://Chat.example.com', 'http://localhost:5173', 'http://[::1]:3000'], \
        allowed_headers: [Content-Type]}}";
    let cors = dev(named).unwrap().server.cors.unwrap();
    let only = |texts: &[&str]| Allowed::Only(texts.iter().map(|t| (*t).to_owned()).collect());
    let origins = [
        "https://chat.example.com",
        "http://localhost:5173",
        "http://[::1]:3000",
    ];
    assert_eq!(cors.origins, only(&origins));
    assert_eq!(cors.headers, only(&["content-type"]));
}

/// API-28: credentials together with any origin fail start-up.
#[test]
fn what_cors_cannot_mean_is_refused_with_its_key() {
    for (wrong, key) in [
        ("allow_credentials: true", "allow_credentials"),
        ("allowed_origins: [chat.example.com]", "allowed_origins"),
        (
            "allowed_origins: ['https://chat.example.com/']",
            "allowed_origins",
        ),
        (
            "allowed_origins: ['https://*.example.com']",
            "allowed_origins",
        ),
        (
            "allowed_origins: ['*', 'https://chat.example.com']",
            "allowed_origins",
        ),
        ("allowed_origins: []", "allowed_origins"),
        ("allowed_methods: [get]", "allowed_methods"),
        ("allowed_methods: ['*']", "allowed_methods"),
        ("allowed_headers: ['content type']", "allowed_headers"),
        ("max_age_secs: -1", "max_age_secs"),
    ] {
        let faults = fault_keys(dev(&format!(
            "server: {{cors: {{enabled: true, {wrong}}}}}"
        )));
        assert_eq!(faults, [format!("server.cors.{key}")], "{wrong}");
    }
}

/// D48: in development private addresses are allowed by default, in a pool only listed ones.
#[test]
fn private_addresses_are_allowed_where_people_develop() {
    let trusted = "auth:\n  mode: trusted_headers\n  trusted_peers: [10.0.0.0/8]\n";
    let with = |source: &str| format!("{trusted}source: {{{source}}}\n");
    let (all, none) = (AllowPrivate::everything(), AllowPrivate::NOTHING);
    for (config, expected) in [
        (dev(""), all.clone()),
        (dev("source: {pool: default}"), all.clone()),
        (load(&with("manifests: here"), &[]), all),
        (load(&with("pool: default"), &[]), none.clone()),
        (load(&with("directory: here"), &[]), none.clone()),
        (load(trusted, &[]), none.clone()),
        (dev("outbound: {allow_private: []}"), none),
        (
            load(
                &with("pool: default"),
                &[("MINICHAT_OUTBOUND_ALLOW_PRIVATE", "10.0.0.0/8, .svc")],
            ),
            "10.0.0.0/8,.svc".parse().unwrap(),
        ),
    ] {
        assert_eq!(config.unwrap().outbound.allow_private, expected);
    }
    let faults = dev("outbound: {allow_private: [10.0.0.0/8, 169.254.0.0/16]}").unwrap_err();
    assert!(
        faults
            .to_string()
            .starts_with("outbound.allow_private: `169.254.0.0/16` has no private address"),
        "{faults}"
    );
}

/// D47
#[test]
fn the_proxy_is_the_key_s_or_else_the_environment_s() {
    let proxies = |yaml: &str, env: &[(&str, &str)]| {
        let yaml = format!("auth: {{mode: dev, allow_dev: true}}\n{yaml}");
        load(&yaml, env).unwrap().outbound.proxies
    };
    let url = |url: &str| Some(crate::Secret::new(url));
    let env = [
        ("HTTPS_PROXY", "http://secure:1"),
        ("http_proxy", "plain:2"),
        ("NO_PROXY", "a.example, 10.0.0.0/8"),
    ];
    let found = proxies("", &env);
    assert_eq!(
        (found.http, found.https),
        (url("http://plain:2"), url("http://secure:1"))
    );
    assert_eq!(found.bypass, "a.example, 10.0.0.0/8");
    assert_eq!(
        proxies("", &[("ALL_PROXY", "http://all:3")]).https,
        url("http://all:3")
    );
    let key = "outbound: {proxy: 'http://u:${PASSWORD}@key:4', no_proxy: [b.example]}";
    let found = proxies(key, &[&env[..], &[("PASSWORD", "p%40ss")]].concat());
    assert_eq!(
        (&found.http, &found.https),
        (&url("http://u:p%40ss@key:4"), &found.http)
    );
    assert_eq!(found.bypass, "b.example");
    assert!(!format!("{found:?}").contains("p%40ss"));
    assert_eq!(proxies("outbound: {proxy: ''}", &env).https, None);
}

#[test]
fn a_proxy_that_is_none_is_refused_without_quoting_it() {
    for wrong in [
        "proxy:3128",
        "socks5://proxy:1080",
        "http://:3128",
        "http://u:p@ss@proxy",
        "http://proxy:0",
        "http://proxy/path",
        "http://pro xy",
    ] {
        let faults = dev(&format!("outbound: {{proxy: '{wrong}'}}")).unwrap_err();
        assert!(
            faults
                .to_string()
                .starts_with("outbound.proxy: must be a URL"),
            "{faults}"
        );
        assert!(!faults.to_string().contains(wrong), "{faults}");
    }
    let faults = load(
        "auth: {mode: dev, allow_dev: true}",
        &[("https_proxy", "socks5://u:p@x")],
    )
    .unwrap_err();
    assert!(faults.to_string().starts_with("https_proxy: "), "{faults}");
    let faults = dev("outbound: {no_proxy: ['http://a']}").unwrap_err();
    assert!(
        faults.to_string().starts_with("outbound.no_proxy: "),
        "{faults}"
    );
    for good in [
        "http://proxy",
        "https://proxy.example.com:3129/",
        "http://u@[::1]:3128",
        "http://u:p%40ss:x@proxy:1",
    ] {
        assert!(
            dev(&format!("outbound: {{proxy: '{good}'}}")).is_ok(),
            "{good}"
        );
    }
}
