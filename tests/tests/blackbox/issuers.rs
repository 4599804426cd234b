//! Tenants with their own issuers (chapter 06, `auth.issuers`): which token opens which tenant.

use minichat_tests::child::Process;
use minichat_tests::client::{Answer, Api};
use minichat_tests::database::DatabaseKind;
use minichat_tests::harness::{Env, Stack, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_issuer::{AUDIENCE, ScriptedIssuer, Signer};
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::{Value, json};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");

/// An issuer and its key.
struct Login {
    issuer: ScriptedIssuer,
    signer: Signer,
}

impl Login {
    async fn start() -> anyhow::Result<Self> {
        let (issuer, signer) = ScriptedIssuer::with_signer().await?;
        Ok(Self { issuer, signer })
    }

    fn token(&self, claims: &Value) -> String {
        self.issuer.token(&self.signer, claims)
    }

    /// The entry of a tenant that lists the issuer, changed by `change`.
    fn entry(&self, change: &Value) -> Value {
        let mut entry = json!({"issuer": self.issuer.name(), "audience": AUDIENCE});
        for (name, value) in change.as_object().into_iter().flatten() {
            entry[name] = value.clone();
        }
        entry
    }
}

fn tenant(name: &str, provider: &ScriptedProvider, issuers: &[Value]) -> Tenant {
    let mut tenant = Tenant::new(name, provider.addr);
    tenant.spec()["auth"] = json!({ "issuers": issuers });
    tenant
}

fn caller(stack: &Stack, token: &str) -> anyhow::Result<Api> {
    stack
        .api
        .with_header("authorization", &format!("Bearer {token}"))
}

async fn answer(stack: &Stack, token: &str) -> anyhow::Result<Answer> {
    caller(stack, token)?.get("/chats").await
}

fn check_refused(answer: &Answer) -> anyhow::Result<()> {
    answer.problem(401, "unauthenticated")?;
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    Ok(())
}

/// Waits until the configuration of `tenant` is refused, and returns the reason.
async fn refusal(stack: &Stack, tenant: &Tenant) -> anyhow::Result<String> {
    let refused = async || Ok(stack.configz(tenant).await?["state"] == "rejected");
    stack.eventually("refused", refused).await?;
    Ok(stack.configz(tenant).await?["error"].to_string())
}

async fn serve(env: &Env, tenants: &[&Tenant], process: Option<&Login>) -> anyhow::Result<Stack> {
    let settings = process.map_or_else(String::new, |login| login.issuer.settings());
    env.serve_with(tenants, &settings).await
}

on_each_database! {
    /// Check 3 of chapter 06
    async fn a_token_of_one_tenants_issuer_never_opens_another_tenant(env) {
        let provider = ScriptedProvider::start().await?;
        let (process, of_a, of_b) = (Login::start().await?, Login::start().await?, Login::start().await?);
        let a = tenant("a", &provider, &[of_a.entry(&json!({}))]);
        let b = tenant("b", &provider, &[of_b.entry(&json!({"tenantClaim": "org"}))]);
        let open = Tenant::new("open", provider.addr);
        let stack = serve(&env, &[&a, &b, &open], Some(&process)).await?;
        let user = Uuid::new_v4();
        let victim = caller(&stack, &of_b.token(&json!({"sub": user, "org": b.id})))?;
        let chat = victim.create_chat(None).await?;

        for claims in [
            json!({"tenant_id": b.id}),
            json!({"tenant_id": open.id}),
            json!({"iss": of_b.issuer.name(), "org": b.id}),
            json!({"iss": process.issuer.name(), "tenant_id": b.id}),
            json!({"iss": process.issuer.name(), "tenant_id": open.id}),
        ] {
            let mut claims = claims;
            claims["sub"] = json!(user);
            let intruder = caller(&stack, &of_a.token(&claims))?;
            check_refused(&intruder.get("/chats").await?)?;
            check_refused(&intruder.get(&format!("/chats/{chat}")).await?)?;
            check_refused(&intruder.delete(&format!("/chats/{chat}")).await?)?;
        }
        // Without that claim, it opens its own tenant, which does not have the chat.
        for claims in [json!({"sub": user}), json!({"sub": user, "tenant_id": a.id}), json!({"sub": user, "org": b.id})] {
            let own = caller(&stack, &of_a.token(&claims))?;
            assert_eq!(own.get("/chats").await?.expect(200)?["items"], json!([]));
            own.get(&format!("/chats/{chat}")).await?.problem(404, "chat_not_found")?;
        }
        victim.get(&format!("/chats/{chat}")).await?.expect(200)?;
    }

    /// Chapter 06, `auth.issuers`: only their tokens open the tenant.
    async fn a_tenant_with_issuers_is_opened_by_nothing_else(env) {
        let provider = ScriptedProvider::start().await?;
        let (process, own, second) = (Login::start().await?, Login::start().await?, Login::start().await?);
        let closed = tenant("closed", &provider, &[own.entry(&json!({})), second.entry(&json!({}))]);
        let open = Tenant::new("open", provider.addr);
        let stack = serve(&env, &[&closed, &open], Some(&process)).await?;
        let of_process = |tenant: &Tenant| process.token(&json!({"sub": "u", "tenant_id": tenant.id}));
        answer(&stack, &of_process(&open)).await?.expect(200)?;
        check_refused(&answer(&stack, &of_process(&closed)).await?)?;
        answer(&stack, &own.token(&json!({"sub": "u"}))).await?.expect(200)?;
        answer(&stack, &second.token(&json!({"sub": "u"}))).await?.expect(200)?;
        let stranger = Login::start().await?;
        check_refused(&answer(&stack, &stranger.token(&json!({"sub": "u"}))).await?)?;
        let stolen = stranger.signer.token(&own.issuer.claims(&json!({"sub": "u"})));
        check_refused(&answer(&stack, &stolen).await?)?;
    }

    /// Chapter 06, `auth.issuers`: also in mode `trusted_headers`.
    async fn identity_headers_do_not_open_a_tenant_with_issuers(env) {
        let provider = ScriptedProvider::start().await?;
        let own = Login::start().await?;
        let closed = tenant("closed", &provider, &[own.entry(&json!({}))]);
        let open = Tenant::new("open", provider.addr);
        let stack = serve(&env, &[&closed, &open], None).await?;
        stack.new_user(&open)?.get("/chats").await?.expect(200)?;
        check_refused(&stack.new_user(&closed)?.get("/chats").await?)?;
        let token = own.token(&json!({"sub": "u"}));
        answer(&stack, &token).await?.expect(200)?;
        // The token decides, whatever the headers say.
        let chat = caller(&stack, &token)?.create_chat(None).await?;
        let both = caller(&stack, &token)?.acting_as(open.id, Uuid::new_v4())?;
        both.get(&format!("/chats/{chat}")).await?.expect(200)?;
    }

    /// Chapter 06, `auth.issuers`: `tenantClaim`; each tenant has its own keys, audience and claims.
    async fn tenants_that_share_an_issuer_are_told_apart_by_their_claim(env) {
        let provider = ScriptedProvider::start().await?;
        let (login, evil) = (Login::start().await?, Login::start().await?);
        let a = tenant("a", &provider, &[login.entry(&json!({
            "tenantClaim": "org", "userClaim": "email", "scopesClaim": "roles",
        }))]);
        let evil_keys = format!("{}/keys", evil.issuer.name());
        let b = tenant("b", &provider, &[login.entry(&json!({
            "tenantClaim": "org", "jwksUri": evil_keys, "audience": "b",
        }))]);
        let stack = serve(&env, &[&a, &b], None).await?;
        let to_a = |claims: Value| {
            let mut all = json!({"org": a.id, "email": "alice@example.com"});
            for (name, value) in claims.as_object().into_iter().flatten() {
                all[name] = value.clone();
            }
            login.issuer.claims(&all)
        };
        let alice = caller(&stack, &login.signer.token(&to_a(json!({}))))?;
        let chat = alice.create_chat(None).await?;
        let again = login.signer.token(&to_a(json!({"sub": "another", "roles": ["ai:mini_chat:read"]})));
        let reader = caller(&stack, &again)?;
        reader.get(&format!("/chats/{chat}")).await?.expect(200)?;
        reader.delete(&format!("/chats/{chat}")).await?.problem(403, "insufficient_permissions")?;

        // The keys in B's entry are used for B only.
        check_refused(&answer(&stack, &evil.signer.token(&to_a(json!({})))).await?)?;
        let to_b = login.issuer.claims(&json!({"org": b.id, "sub": "u", "aud": "b"}));
        answer(&stack, &evil.signer.token(&to_b)).await?.expect(200)?;
        check_refused(&answer(&stack, &login.signer.token(&to_b)).await?)?;
        for refused in [
            json!({"org": b.id, "sub": "u", "aud": AUDIENCE}),
            json!({"org": Uuid::new_v4(), "sub": "u"}),
            json!({"tenant_id": a.id, "sub": "u"}),
        ] {
            check_refused(&answer(&stack, &login.signer.token(&login.issuer.claims(&refused))).await?)?;
            check_refused(&answer(&stack, &evil.signer.token(&login.issuer.claims(&refused))).await?)?;
        }
    }

    /// Chapter 06, `auth.issuers`: no other tenant may list it; K8S-8: the running configuration continues.
    async fn an_issuer_without_a_tenant_claim_belongs_to_one_tenant(env) {
        let provider = ScriptedProvider::start().await?;
        let login = Login::start().await?;
        let first = tenant("first", &provider, &[login.entry(&json!({}))]);
        let mut second = Tenant::new("second", provider.addr);
        let stack = serve(&env, &[&first, &second], None).await?;
        let user = Uuid::new_v4();
        let token = login.token(&json!({"sub": user}));
        let chat = caller(&stack, &token)?.create_chat(None).await?;
        let seconds = stack.caller(&second, user)?;
        seconds.create_chat(None).await?;

        for entry in [login.entry(&json!({})), login.entry(&json!({"tenantClaim": "org"}))] {
            second.spec()["auth"] = json!({ "issuers": [entry] });
            stack.write_manifest("second", &second.manifest())?;
            let error = refusal(&stack, &second).await?;
            assert!(error.contains("spec.auth.issuers[0].issuer"), "{error}");
            assert!(error.contains(&first.id.to_string()), "{error}");
            caller(&stack, &token)?.get(&format!("/chats/{chat}")).await?.expect(200)?;
            seconds.get("/chats").await?.expect(200)?;
            second.spec()["auth"] = json!({});
            stack.write_manifest("second", &second.manifest())?;
            let active = async || Ok(stack.configz(&second).await?["state"] == "active");
            stack.eventually("active", active).await?;
        }

        // After the first tenant gives it up, the second one gets it.
        let mut without = first.clone();
        without.spec()["auth"] = json!({});
        stack.write_manifest("first", &without.manifest())?;
        second.spec()["auth"] = json!({"issuers": [login.entry(&json!({}))]});
        stack.write_manifest("second", &second.manifest())?;
        let moved = async || {
            let seen = caller(&stack, &token)?.get(&format!("/chats/{chat}")).await?;
            Ok(seen.status == 404)
        };
        stack.eventually("moved", moved).await?;
    }
}

/// A quota of `tenant` for the user called `subject` only, who may spend nothing.
fn nothing_for(tenant: &Tenant, subject: &str) -> Value {
    let nothing = json!({"daily": "0", "monthly": "0"});
    json!({
        "apiVersion": "minichat.dev/v1alpha1", "kind": "ChatQuota",
        "metadata": {"name": "nothing", "namespace": "default"},
        "spec": {
            "tenantRef": {"name": tenant.name},
            "subjects": [{"kind": "User", "name": subject}],
            "limits": {"standard": nothing, "premium": nothing},
        },
    })
}

/// The log line names the tenant and the issuer.
#[test]
fn keys_that_cannot_be_loaded_are_logged_with_tenant_and_issuer() -> anyhow::Result<()> {
    run(DatabaseKind::Sqlite, async |env| {
        let login = Login::start().await?;
        let provider = ScriptedProvider::start().await?;
        let nowhere = json!({"jwksUri": format!("http://{}/nothing", provider.addr)});
        let acme = tenant("acme", &provider, &[login.entry(&nowhere)]);
        env.write_manifest("acme", &acme.manifest())?;
        let mut process = Process::serve(BINARY, &env, "").await?;
        let token = login.token(&json!({"sub": "u"}));
        let caller = process
            .api
            .with_header("authorization", &format!("Bearer {token}"))?;
        caller
            .get("/chats")
            .await?
            .problem(503, "service_unavailable")?;
        let line = process.says("the issuer's keys cannot be loaded").await?;
        for part in [acme.id.to_string(), login.issuer.name().clone()] {
            assert!(line.contains(&part), "{part} in {line}");
        }
        Ok(())
    })
}

async fn status_of_a_send(stack: &Stack, token: &str) -> anyhow::Result<u16> {
    let api = caller(stack, token)?;
    let chat = api.create_chat(None).await?;
    let path = format!("/chats/{chat}/messages:stream");
    let answer = api.post(&path, &json!({"content": "hello"})).await?;
    Ok(answer.status.as_u16())
}

on_each_database! {
    /// D45, PLAT-132
    async fn a_quota_names_a_user_of_the_tenants_issuer_as_in_the_token(env) {
        let login = Login::start().await?;
        let provider = ScriptedProvider::start().await?;
        let mut acme = tenant("acme", &provider, &[login.entry(&json!({}))]);
        acme.others.push(nothing_for(&acme, "auth0|anna"));
        let stack = env.serve(&[&acme]).await?;
        let token = |user: &str| login.token(&json!({"sub": user}));
        assert_eq!(status_of_a_send(&stack, &token("auth0|anna")).await?, 429);
        assert_eq!(status_of_a_send(&stack, &token("auth0|ben")).await?, 200);
    }

    /// D45, PLAT-132
    async fn a_quota_names_a_user_of_the_process_own_issuer_as_in_the_token(env) {
        let login = Login::start().await?;
        let provider = ScriptedProvider::start().await?;
        let mut acme = Tenant::new("acme", provider.addr);
        acme.others.push(nothing_for(&acme, "auth0|anna"));
        let stack = env.serve_with(&[&acme], &login.issuer.settings()).await?;
        let token = |user: &str| login.token(&json!({"sub": user, "tenant_id": acme.id}));
        assert_eq!(status_of_a_send(&stack, &token("auth0|anna")).await?, 429);
        assert_eq!(status_of_a_send(&stack, &token("auth0|ben")).await?, 200);
    }
}
