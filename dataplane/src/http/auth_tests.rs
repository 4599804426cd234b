use http::HeaderValue;
use minichat_config::Secret;
use minichat_provider::ClientSettings;

use super::*;

const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const USER: &str = "22222222-2222-4222-8222-222222222222";

fn authenticator(auth: &Auth) -> Authenticator {
    let client = ProviderClient::new(&ClientSettings::default());
    Authenticator::new(auth, client, false)
}

fn trusted(peers: &[&str], secret: Option<&str>) -> Authenticator {
    authenticator(&Auth::TrustedHeaders(TrustedHeaders {
        trusted_peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
        shared_secret: secret.map(|value| SharedSecret {
            header: "x-proxy-secret".to_owned(),
            value: Secret::new(value),
        }),
    }))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            )
        })
        .collect()
}

fn identify(
    authenticator: &Authenticator,
    peer: &str,
    pairs: &[(&'static str, &str)],
) -> Result<Identity, ErrorCode> {
    authenticator
        .mode
        .identify(&headers(pairs), peer.parse().ok(), &Tenants::default())
        .map_err(|problem| problem.code)
}

/// PLAT-133
#[test]
fn headers_count_only_from_a_trusted_peer() {
    let authenticator = trusted(&["10.0.0.0/8", "fd00::/8"], None);
    let pairs = [("x-tenant-id", TENANT), ("x-user-id", USER)];
    for believed in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"] {
        let identity = identify(&authenticator, believed, &pairs).unwrap();
        assert_eq!(identity.tenant_id.to_string(), TENANT);
        assert_eq!(identity.user_id.to_string(), USER);
        assert_eq!(identity.scopes, Scopes::ORDINARY);
        assert_eq!(identity.requester_type, RequesterType::User);
    }
    for stranger in ["11.0.0.1", "::1", "no peer known"] {
        assert_eq!(
            identify(&authenticator, stranger, &pairs),
            Err(ErrorCode::Unauthenticated),
            "{stranger}"
        );
    }
}

/// PLAT-133
#[test]
fn the_shared_secret_stands_in_for_the_peer() {
    let authenticator = trusted(&[], Some("open sesame"));
    let with = |secret| {
        let pairs = [
            ("x-tenant-id", TENANT),
            ("x-user-id", USER),
            ("x-proxy-secret", secret),
        ];
        identify(&authenticator, "192.0.2.1", &pairs)
    };
    assert!(with("open sesame").is_ok());
    for wrong in ["open sesam", "open sesame ", "Open sesame", ""] {
        assert_eq!(with(wrong), Err(ErrorCode::Unauthenticated), "{wrong:?}");
    }
    let twice = [
        ("x-tenant-id", TENANT),
        ("x-user-id", USER),
        ("x-proxy-secret", "open sesame"),
        ("x-proxy-secret", "open sesame"),
    ];
    assert_eq!(
        identify(&authenticator, "192.0.2.1", &twice),
        Err(ErrorCode::Unauthenticated)
    );
}

/// API-12, PLAT-133
#[test]
fn an_identity_that_is_missing_malformed_or_doubled_is_none() {
    let authenticator = trusted(&["127.0.0.1"], None);
    let cases: [&[(&str, &str)]; 6] = [
        &[],
        &[("x-tenant-id", TENANT)],
        &[("x-user-id", USER)],
        &[("x-tenant-id", "acme"), ("x-user-id", USER)],
        &[("x-tenant-id", TENANT), ("x-user-id", "")],
        &[
            ("x-tenant-id", TENANT),
            ("x-tenant-id", USER),
            ("x-user-id", USER),
        ],
    ];
    for pairs in cases {
        assert_eq!(
            identify(&authenticator, "127.0.0.1", pairs),
            Err(ErrorCode::Unauthenticated),
            "{pairs:?}"
        );
    }
}

/// API-13, D33
#[test]
fn scopes_are_separated_by_spaces_or_commas() {
    let authenticator = trusted(&["127.0.0.1"], None);
    let scopes = |value| {
        let pairs = [
            ("x-tenant-id", TENANT),
            ("x-user-id", USER),
            ("x-scopes", value),
        ];
        identify(&authenticator, "127.0.0.1", &pairs)
            .unwrap()
            .scopes
    };
    let read_only = Scopes {
        read: true,
        write: false,
        erase: false,
    };
    assert_eq!(scopes("openid ai:mini_chat:read"), read_only);
    assert_eq!(scopes("openid,ai:mini_chat:read"), read_only);
    assert_eq!(
        scopes("openid, ai:mini_chat:read ai:mini_chat:write"),
        Scopes::ORDINARY
    );
    assert_eq!(scopes(""), Scopes::ORDINARY);
    assert_eq!(
        scopes("openid"),
        Scopes {
            read: false,
            write: false,
            erase: false
        }
    );
}

/// PLAT-134, D51
#[test]
fn dev_is_one_user_of_the_chosen_the_configured_or_the_first_tenant() {
    let (tenant, user): (TenantId, UserId) = (TENANT.parse().unwrap(), USER.parse().unwrap());
    let dev = |tenant_id| Dev {
        tenant_id,
        user_id: user,
    };
    let serving = |default: Option<TenantId>| {
        let tenants = Tenants::default();
        tenants.replace(std::collections::HashMap::new(), default);
        tenants
    };
    let none = HeaderMap::new();
    let named = dev_identity(dev(Some(tenant)), &none, &serving(None)).unwrap();
    assert_eq!((named.tenant_id, named.user_id), (tenant, user));
    let first = dev_identity(dev(None), &none, &serving(Some(tenant))).unwrap();
    assert_eq!((first.tenant_id, first.user_id), (tenant, user));
    let chosen = headers(&[("x-tenant-id", USER)]);
    let chosen = dev_identity(dev(Some(tenant)), &chosen, &serving(Some(tenant))).unwrap();
    assert_eq!(chosen.tenant_id.to_string(), USER);
    let nobody = dev_identity(dev(None), &none, &serving(None)).unwrap_err();
    assert_eq!(nobody.code, ErrorCode::Unauthenticated);
}
