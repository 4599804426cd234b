//! Every route, called by everyone who must not have access (API-12 to API-15,
//! PLAT-135 to PLAT-137).

use minichat_tests::client::{Answer, Api};
use minichat_tests::harness::{Env, Stack};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_issuer::{AUDIENCE, ScriptedIssuer, Signer};
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::{Value, json};

use crate::every_route::{Call, Things, calls};

/// Two tenants of the process's issuer and one with its own issuer. Alice of
/// the first has a chat with one turn.
struct House {
    issuer: ScriptedIssuer,
    signer: Signer,
    foreign: ScriptedIssuer,
    foreign_signer: Signer,
    alices: Tenant,
    other: Tenant,
    stack: Stack,
    things: Things,
    _provider: ScriptedProvider,
}

impl House {
    async fn open(env: &Env) -> anyhow::Result<Self> {
        let (issuer, signer) = ScriptedIssuer::with_signer().await?;
        let (foreign, foreign_signer) = ScriptedIssuer::with_signer().await?;
        let provider = ScriptedProvider::start().await?;
        let alices = Tenant::new("alices", provider.addr);
        let other = Tenant::new("other", provider.addr);
        let mut own = Tenant::new("own", provider.addr);
        own.spec()["auth"] = json!({"issuers": [{"issuer": foreign.name(), "audience": AUDIENCE}]});
        let tenants = [&alices, &other, &own];
        let stack = env.serve_with(&tenants, &issuer.settings()).await?;
        let claims = json!({"tenant_id": alices.id, "sub": "alice"});
        let alice = bearer(&stack, &issuer.token(&signer, &claims))?;
        let things = Things::create(&alice).await?;
        Ok(Self {
            issuer,
            signer,
            foreign,
            foreign_signer,
            alices,
            other,
            stack,
            things,
            _provider: provider,
        })
    }

    /// Alice, with claims changed by `change`.
    fn caller(&self, change: &Value) -> anyhow::Result<Api> {
        let mut claims = json!({"tenant_id": self.alices.id, "sub": "alice"});
        for (name, value) in change.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        bearer(&self.stack, &self.issuer.token(&self.signer, &claims))
    }

    /// The same claims, signed by another tenant's issuer under `name`.
    fn foreign(&self, name: &str) -> anyhow::Result<Api> {
        let claims = json!({"iss": name, "tenant_id": self.alices.id, "sub": "alice"});
        bearer(
            &self.stack,
            &self.foreign.token(&self.foreign_signer, &claims),
        )
    }

    /// Fails if Alice's chat, turn or message has changed.
    async fn check_untouched(&self) -> anyhow::Result<()> {
        let alice = self.caller(&json!({}))?;
        let things = &self.things;
        let chat = alice
            .get(&format!("/chats/{}", things.chat))
            .await?
            .expect(200)?;
        assert_eq!(
            (&chat["message_count"], chat.get("title")),
            (&json!(2), None)
        );
        assert_eq!(
            alice.turn(&things.chat, &things.request_id).await?["state"],
            "done"
        );
        let messages = alice.messages(&things.chat).await?;
        assert!(messages[1]["my_reaction"].is_null());
        let chats = alice.get("/chats").await?.expect(200)?;
        assert_eq!(chats["items"].as_array().map(Vec::len), Some(1));
        Ok(())
    }
}

fn bearer(stack: &Stack, token: &str) -> anyhow::Result<Api> {
    stack
        .api
        .with_header("authorization", &format!("Bearer {token}"))
}

fn check(answer: &Answer, status: u16, code: &str, call: &Call) -> anyhow::Result<()> {
    let problem = answer.problem(status, code);
    problem
        .map(|_| ())
        .map_err(|error| error.context(format!("{call:?}")))
}

on_each_database! {
    /// API-12, PLAT-131; check 3 of chapter 06
    async fn no_route_answers_without_a_token_of_the_tenants_issuer(env) {
        let house = House::open(&env).await?;
        let strangers = [
            house.stack.api.clone(),
            house.stack.api.with_header("authorization", "Basic YTpi")?,
            house.foreign(&house.foreign.name())?,
            house.foreign(&house.issuer.name())?,
            house.stack.caller(&house.alices, uuid::Uuid::new_v4())?,
        ];
        for call in calls(&house.things) {
            for stranger in &strangers {
                let answer = call.by(stranger).await?;
                check(&answer, 401, "unauthenticated", &call)?;
                assert_eq!(answer.header("www-authenticate"), "Bearer");
            }
        }
        house.check_untouched().await?;
    }

    /// API-13, PLAT-137: whether or not the chat exists.
    async fn every_route_needs_its_scope_before_any_lookup(env) {
        let house = House::open(&env).await?;
        let nothing = Things {
            chat: uuid::Uuid::new_v4().to_string(),
            request_id: uuid::Uuid::new_v4().to_string(),
            message: uuid::Uuid::new_v4().to_string(),
            attachment: uuid::Uuid::new_v4().to_string(),
        };
        let (read, write) = ("ai:mini_chat:read", "ai:mini_chat:write");
        for call in calls(&house.things).into_iter().chain(calls(&nothing)) {
            let missing = if call.scope() == read { write } else { read };
            for scope in [missing, "openid"] {
                let answer = call.by(&house.caller(&json!({"scope": scope}))?).await?;
                check(&answer, 403, "insufficient_permissions", &call)?;
            }
        }
        house.check_untouched().await?;
        for call in calls(&nothing) {
            let answer = call.by(&house.caller(&json!({"scope": call.scope()}))?).await?;
            assert_ne!(answer.status, 403, "{call:?}");
        }
    }

    /// API-14, API-15, PLAT-136: objects of another user or tenant look like
    /// missing ones.
    async fn no_route_tells_anothers_chat_from_none(env) {
        let house = House::open(&env).await?;
        let nothing = Things {
            chat: uuid::Uuid::new_v4().to_string(),
            request_id: house.things.request_id.clone(),
            message: house.things.message.clone(),
            attachment: house.things.attachment.clone(),
        };
        let without_ids = |mut problem: Value| {
            problem["instance"].take();
            problem["trace_id"].take();
            problem
        };
        let bob = house.caller(&json!({"sub": "bob"}))?;
        let namesake = house.caller(&json!({"tenant_id": house.other.id}))?;
        for (alices, nobodys) in calls(&house.things).into_iter().zip(calls(&nothing)) {
            if !alices.names_a_chat() {
                continue;
            }
            for stranger in [&bob, &namesake] {
                let answer = alices.by(stranger).await?;
                check(&answer, 404, "chat_not_found", &alices)?;
                let reference = nobodys.by(stranger).await?;
                check(&reference, 404, "chat_not_found", &nobodys)?;
                assert_eq!(without_ids(answer.json()?), without_ids(reference.json()?));
            }
        }
        for stranger in [&bob, &namesake] {
            assert_eq!(stranger.get("/chats").await?.expect(200)?["items"], json!([]));
        }
        house.check_untouched().await?;
    }

    /// API-12, PLAT-135: unknown, suspended and unlicensed tenants, on every
    /// route.
    async fn no_route_serves_a_tenant_without_a_licence(env) {
        let house = House::open(&env).await?;
        let unknown = house.caller(&json!({"tenant_id": uuid::Uuid::new_v4()}))?;
        let unserved = house.caller(&json!({"tenant_id": house.other.id}))?;
        for suspended in [true, false] {
            let mut tenant = house.other.clone();
            tenant.spec()["suspended"] = json!(suspended);
            tenant.spec()["features"] = json!({"aiChat": suspended});
            house.stack.write_manifest("other", &tenant.manifest())?;
            let is_loaded = async || {
                let loaded = house.stack.configz(&tenant).await?["suspended"] == suspended;
                Ok(loaded && unserved.get("/models").await?.status == 403)
            };
            house.stack.eventually("loaded", is_loaded).await?;
            for call in calls(&house.things) {
                for caller in [&unknown, &unserved] {
                    let answer = call.by(caller).await?;
                    check(&answer, 403, "feature_not_licensed", &call)?;
                }
            }
        }
        house.check_untouched().await?;
    }
}
