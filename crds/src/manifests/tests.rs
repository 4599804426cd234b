//! Directories with and without problems.

use std::fs;

use super::*;

const TENANT: &str = r#"
apiVersion: minichat.dev/v1alpha1
kind: ChatTenant
metadata: {name: NAME}
spec:
  providers:
  - {name: p, kind: OpenAIResponses, baseUrl: "https://models.example.com", auth: {secretKeyRef: {name: keys, key: k}}}
  models:
  - {id: m, providerModelId: m, displayName: M, providerRef: p, tier: Standard, contextWindow: 1000,
     maxOutputTokens: 100, maxInputTokens: 500, inputTokensCreditMultiplierMicro: 1, outputTokensCreditMultiplierMicro: 1}
"#;
const QUOTA: &str = "
apiVersion: minichat.dev/v1alpha1
kind: ChatQuota
metadata: {name: q}
spec: {tenantRef: {name: a}, limits: {standard: {daily: 7}}}
";
const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {k: sk-visible}
";

fn tenant(name: &str) -> String {
    TENANT.replace("NAME", name)
}

fn texts(texts: &[(&str, &str)]) -> Files {
    let mut files = Files::default();
    for (file, text) in texts {
        files.insert(file, *text);
    }
    files
}

fn parse(files: &[(&str, &str)]) -> Manifests {
    Manifests::parse(&texts(files), &RenderSettings::default())
}

fn names(manifests: &Manifests) -> Vec<&str> {
    let mut names: Vec<_> = manifests
        .tenants
        .values()
        .map(|tenant| tenant.name.as_str())
        .collect();
    names.sort_unstable();
    names
}

fn problems(manifests: &Manifests) -> Vec<String> {
    manifests.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn documents_of_one_tenant_may_stand_in_several_files() {
    let manifests = parse(&[
        ("1.yaml", &tenant("a")),
        ("2.yaml", &format!("{QUOTA}---{SECRET}")),
    ]);
    assert_eq!(problems(&manifests), Vec::<String>::new());
    let tenant = manifests.tenants.values().next().unwrap();
    assert_eq!(tenant.name.as_str(), "default/a");
    assert_eq!(
        tenant.files,
        BTreeSet::from(["1.yaml".to_owned(), "2.yaml".to_owned()])
    );
    assert_eq!(
        tenant.rendered.config.user_limits.default.standard.daily,
        7_000_000
    );
    assert_eq!(
        tenant.rendered.credentials.get("keys/k").unwrap().expose(),
        "sk-visible"
    );
}

/// PLAT-151, K8S-4: file, document, field, and what to write; the other tenant
/// is untouched.
#[test]
fn a_problem_names_its_place_and_disables_only_its_tenant() {
    let b = tenant("b");
    let broken = [
        (
            tenant("a").replace("tier: Standard", "tier: Gold"),
            "1.yaml, document 1, spec.models[0].tier: unsupported value \"Gold\"",
        ),
        (
            tenant("a").replace("providerRef: p", "providerRef: x"),
            "1.yaml, document 1, spec.models: model m has providerRef x, which must be",
        ),
        (
            tenant("a").replace("displayName", "dispalyName"),
            "1.yaml, document 1, spec.models[0].dispalyName: unknown field",
        ),
        (
            tenant("a").replace("key: k}", "key: kk}"),
            "1.yaml, document 1, spec.providers[0].auth.secretKeyRef.key: the Secret keys has no key kk",
        ),
        (
            tenant("a").replace("https:", "http:"),
            "1.yaml, document 1, spec.providers[0].baseUrl: plain http is not allowed",
        ),
    ];
    for (text, place) in broken {
        let manifests = parse(&[("1.yaml", &text), ("2.yaml", &format!("{b}---{SECRET}"))]);
        assert_eq!(names(&manifests), ["default/b"], "{place}");
        let found = problems(&manifests);
        assert!(
            found.iter().any(|problem| problem.starts_with(place)),
            "{place} is not in {found:?}"
        );
    }
}

#[test]
fn a_broken_quota_refuses_the_tenant_it_names() {
    let quota = QUOTA.replace("daily: 7", "daily: -7");
    let manifests = parse(&[("1.yaml", &format!("{}---{SECRET}---{quota}", tenant("a")))]);
    assert!(manifests.tenants.is_empty());
    assert!(matches!(manifests.problems[0].concerns, Concern::Tenant(_)));
    assert!(
        problems(&manifests)[0]
            .starts_with("1.yaml, document 3, spec.limits.standard.daily: must be 0 to")
    );
}

#[test]
fn a_quota_of_no_tenant_concerns_nobody() {
    let manifests = parse(&[("1.yaml", &format!("{}---{SECRET}---{QUOTA}", tenant("b")))]);
    assert_eq!(names(&manifests), ["default/b"]);
    assert_eq!(manifests.problems[0].concerns, Concern::Nobody);
    assert!(problems(&manifests)[0].contains("spec.tenantRef.name: there is no ChatTenant a"));
}

#[test]
fn a_broken_secret_refuses_the_tenants_that_refer_to_it_and_is_not_shown() {
    let secret = SECRET.replace("stringData", "data");
    let manifests = parse(&[("1.yaml", &tenant("a")), ("2.yaml", &secret)]);
    assert!(manifests.tenants.is_empty());
    let found = problems(&manifests).join("\n");
    assert!(
        found.contains("2.yaml, document 1, data.k: must be base64"),
        "{found}"
    );
    assert!(!found.contains("sk-visible"));
}

#[test]
fn what_cannot_be_told_apart_is_reported_and_refuses_no_other() {
    for text in [
        "a: [",
        "kind: ConfigMap\napiVersion: v1",
        "just text",
        "apiVersion: minichat.dev/v1alpha1\nkind: ChatTenant",
    ] {
        let manifests = parse(&[
            ("1.yaml", text),
            ("2.yaml", &format!("{}---{SECRET}", tenant("b"))),
        ]);
        assert_eq!(names(&manifests), ["default/b"], "{text}");
        assert_eq!(manifests.problems.len(), 1);
        assert_eq!(manifests.problems[0].concerns, Concern::Unknown, "{text}");
    }
}

#[test]
fn two_documents_of_one_name_are_refused() {
    let manifests = parse(&[
        ("1.yaml", &format!("{}---{SECRET}", tenant("a"))),
        ("2.yaml", &tenant("a")),
    ]);
    assert!(manifests.tenants.is_empty());
    assert!(problems(&manifests)[0].contains(
        "2.yaml, document 1, metadata.name: ChatTenant default/a is also in 1.yaml, document 1"
    ));
    let twice = parse(&[("1.yaml", &format!("{}---{SECRET}---{SECRET}", tenant("a")))]);
    assert!(twice.tenants.is_empty());
    assert!(
        problems(&twice)[0].contains(
            "document 3, metadata.name: Secret default/keys is also in 1.yaml, document 2"
        )
    );
}

#[test]
fn two_tenants_of_one_id_are_both_refused() {
    let id = "spec:\n  tenantId: 5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01";
    let (a, b) = (
        tenant("a").replace("spec:", id),
        tenant("b").replace("spec:", id),
    );
    let manifests = parse(&[("1.yaml", &format!("{a}---{b}---{}---{SECRET}", tenant("c")))]);
    assert_eq!(names(&manifests), ["default/a", "default/b", "default/c"]);
    assert_eq!(manifests.problems.len(), 2);
    let shared = |name: &str| Concern::SharedId(name.parse().unwrap());
    assert_eq!(manifests.problems[0].concerns, shared("default/a"));
    assert_eq!(manifests.problems[1].concerns, shared("default/b"));
    assert!(problems(&manifests)[0].contains("is also the id of ChatTenant default/b"));
}

#[test]
fn a_secret_of_another_namespace_is_not_used() {
    let secret = SECRET.replace("{name: keys}", "{name: keys, namespace: other}");
    let manifests = parse(&[("1.yaml", &tenant("a")), ("2.yaml", &secret)]);
    assert!(problems(&manifests)[0].contains("there is no Secret keys in the namespace"));
}

/// What did not change is neither parsed nor rendered anew.
#[test]
fn an_edit_renders_its_own_tenant_alone() {
    let mut renderer = Renderer::new(RenderSettings::default());
    let (a, b) = (tenant("a"), tenant("b"));
    let all = |quota: &str| texts(&[("a", &a), ("b", &b), ("keys", SECRET), ("quota", quota)]);
    let first = renderer.render(&all(QUOTA));
    let daily = |manifests: &Manifests, name: &str| {
        let tenant = &manifests.tenants[&name.parse().unwrap()];
        tenant.rendered.config.user_limits.default.standard.daily / 1_000_000
    };
    assert_eq!(
        (daily(&first, "default/a"), daily(&first, "default/b")),
        (7, 100)
    );
    let second = renderer.render(&all(&QUOTA.replace("daily: 7", "daily: 8")));
    assert_eq!(
        (daily(&second, "default/a"), daily(&second, "default/b")),
        (8, 100)
    );
    let same = |a: &Manifests, b: &Manifests, name: &str| {
        let name = name.parse().unwrap();
        std::sync::Arc::ptr_eq(&a.tenants[&name], &b.tenants[&name])
    };
    assert!(!same(&first, &second, "default/a") && same(&first, &second, "default/b"));
    // A Secret is part of both, and what was broken is rendered when it is mended.
    let broken = renderer.render(&texts(&[("a", &a), ("b", &b), ("quota", QUOTA)]));
    assert_eq!(broken.problems.len(), 2);
    let third = renderer.render(&all(QUOTA));
    assert_eq!((daily(&third, "default/a"), third.problems.len()), (7, 0));
    let moved = texts(&[("a", &a), ("c", &b), ("keys", SECRET), ("quota", QUOTA)]);
    let moved = renderer.render(&moved);
    assert_eq!(moved.tenants[&"default/b".parse().unwrap()].file, "c");
}

/// Every example is a manifest that works.
#[test]
fn examples_render_without_problem_or_warning() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut one = Files::default();
        one.insert(&file, fs::read_to_string(&path).unwrap());
        let manifests = Manifests::parse(&one, &RenderSettings::LENIENT);
        assert_eq!(problems(&manifests), Vec::<String>::new());
        assert_eq!(manifests.tenants.len(), 1, "{file}");
        for name in manifests.tenants.keys() {
            assert!(names.insert(name.clone()), "{name} is in two examples");
        }
        for tenant in manifests.tenants.values() {
            assert_eq!(tenant.rendered.warnings, Vec::<String>::new(), "{file}");
            assert!(
                tenant.rendered.config.models_enabled().count() >= 2,
                "{file}"
            );
        }
    }
    assert!(names.len() >= 2);
}
