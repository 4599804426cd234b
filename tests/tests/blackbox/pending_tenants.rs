//! Tenants that the database has not taken yet, as when a process starts on a
//! full disk: they are unavailable, not unlicensed (D43).

use anyhow::{Context as _, ensure};
use minichat_tests::client::Api;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::{Env, Stack, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::postgres_proxy::PostgresProxy;
use minichat_tests::scripted_issuer::{AUDIENCE, ScriptedIssuer};
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::json;
use uuid::Uuid;

use crate::database_outages::check_unavailable;
use crate::every_route::{Things, calls};

/// What is said to whoever may read `/configz`: none of the database's words.
const ERROR: &str = "the database does not accept the policy at the moment; it will be tried again";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Manifests,
    Rendered,
}

/// A data plane that has no tenant when its database breaks.
struct Place {
    stack: Stack,
    proxy: Option<PostgresProxy>,
}

impl Place {
    async fn new(env: &Env, source: Source, settings: &str) -> anyhow::Result<Self> {
        let mut settings = format!("MINICHAT_DATABASE_CONNECT_TIMEOUT_SECS=1\n{settings}");
        let mut proxy = None;
        if let Database::Postgres(_) = env.database {
            let started = PostgresProxy::start(&env.database.url()).await?;
            settings.push_str("\nMINICHAT_DATABASE_URL=");
            settings.push_str(started.url());
            proxy = Some(started);
        }
        let stack = match source {
            Source::Manifests => env.start_with(&env.manifests(), &settings).await?,
            Source::Rendered => env.start_rendered(&settings).await?,
        };
        Ok(Self { stack, proxy })
    }

    /// A full disk on SQLite, a server that is away on PostgreSQL.
    fn break_database(&self, is_broken: bool) -> anyhow::Result<()> {
        if let Some(proxy) = &self.proxy {
            proxy.set_down(is_broken);
            return Ok(());
        }
        let writer = self.stack.watchdog().store.writer();
        let writer = writer.context("SQLite without a writer")?;
        writer.fail_checkpoints(is_broken);
        Ok(())
    }

    async fn not_ready(&self) -> anyhow::Result<String> {
        let ready = self.stack.admin.get_absolute("/readyz").await?;
        ensure!(ready.status == 503, "{ready:?}");
        Ok(String::from_utf8_lossy(&ready.body).into_owned())
    }

    /// Breaks the database and delivers `tenant`, which it cannot take.
    async fn deliver(&self, env: &Env, source: Source, tenant: &Tenant) -> anyhow::Result<()> {
        self.break_database(true)?;
        let is_broken = async || {
            Ok(self
                .not_ready()
                .await?
                .contains("the database cannot serve"))
        };
        self.stack.eventually("broken", is_broken).await?;
        match source {
            Source::Manifests => self.stack.write_manifest("acme", &tenant.manifest())?,
            Source::Rendered => env.write_rendered("acme.yaml", tenant, 1)?,
        }
        let is_seen = async || Ok(self.stack.configz(tenant).await.is_ok());
        self.stack.eventually("seen", is_seen).await
    }

    /// Mends the database; `user` is served soon.
    async fn mend(&self, user: &Api) -> anyhow::Result<()> {
        self.break_database(false)?;
        let is_served = async || Ok(user.get("/models").await?.status == 200);
        self.stack.eventually("served", is_served).await?;
        let chat = user.create_chat(None).await?;
        ensure!(user.say(&chat, "PING").await?.answer() == "PONG");
        Ok(())
    }
}

async fn check(env: &Env, source: Source) -> anyhow::Result<()> {
    let provider = ScriptedProvider::start().await?;
    let tenant = Tenant::new("acme", provider.addr);
    let place = Place::new(env, source, "").await?;
    place.deliver(env, source, &tenant).await?;
    let entry = place.stack.configz(&tenant).await?;
    ensure!(
        entry["error"] == ERROR && entry["retrying"] == true,
        "{entry}"
    );
    let user = place.stack.new_user(&tenant)?;
    let nothing = || Uuid::new_v4().to_string();
    let things = Things {
        chat: nothing(),
        request_id: nothing(),
        message: nothing(),
        attachment: nothing(),
    };
    for call in calls(&things) {
        check_unavailable(&call, &call.by(&user).await?)?;
    }
    let stranger = place.stack.api.acting_as(Uuid::new_v4(), Uuid::new_v4())?;
    let refused = stranger.get("/models").await?;
    refused.problem(403, "feature_not_licensed")?;
    let reasons = place.not_ready().await?;
    ensure!(
        reasons.contains("the database has not taken the tenants' policies yet"),
        "{reasons}"
    );
    place.mend(&user).await?;
    let entry = place.stack.configz(&tenant).await?;
    ensure!(
        entry["state"] == "active" && entry.get("retrying").is_none(),
        "{entry}"
    );
    place.stack.stop().await
}

on_each_database! {
    /// PLAT-135, PLAT-161, K8S-22
    async fn a_tenant_of_the_manifests_that_was_not_taken_is_unavailable(env) {
        check(&env, Source::Manifests).await?;
    }

    /// The same of one that the operator rendered.
    async fn a_rendered_tenant_that_was_not_taken_is_unavailable(env) {
        check(&env, Source::Rendered).await?;
    }

    /// D51: in mode `dev` nobody knows yet which tenant is the first, or whose a
    /// name is.
    async fn the_default_tenant_is_unavailable_until_it_is_taken(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_AUTH_MODE=dev\nMINICHAT_AUTH_ALLOW_DEV=true";
        let place = Place::new(&env, Source::Manifests, settings).await?;
        let first = place.stack.api.clone();
        let named = first.with_header("x-tenant-id", "default/acme")?;
        first.get("/models").await?.problem(401, "unauthenticated")?;
        place.deliver(&env, Source::Manifests, &tenant).await?;
        for user in [&first, &named] {
            user.get("/models").await?.problem(503, "service_unavailable")?;
        }
        place.mend(&named).await?;
        first.get("/models").await?.expect(200)?;
        place.stack.stop().await?;
    }

    /// API-12: an issuer that nobody lists may be that of a tenant to come.
    async fn a_token_of_an_issuer_that_is_not_known_yet_is_unavailable(env) {
        let provider = ScriptedProvider::start().await?;
        let (process, _) = ScriptedIssuer::with_signer().await?;
        let (issuer, signer) = ScriptedIssuer::with_signer().await?;
        let mut tenant = Tenant::new("acme", provider.addr);
        let entry = json!({"issuer": issuer.name(), "audience": AUDIENCE});
        tenant.spec()["auth"] = json!({"issuers": [entry]});
        let place = Place::new(&env, Source::Manifests, &process.settings()).await?;
        let token = issuer.token(&signer, &json!({"sub": Uuid::new_v4()}));
        let bearer = format!("Bearer {token}");
        let user = place.stack.api.with_header("authorization", &bearer)?;
        user.get("/models").await?.problem(401, "unauthenticated")?;
        place.deliver(&env, Source::Manifests, &tenant).await?;
        user.get("/models").await?.problem(503, "service_unavailable")?;
        place.mend(&user).await?;
        place.stack.stop().await?;
    }
}

/// D36: whose an id is that two manifests have, the database says; while it
/// cannot be asked, neither is refused for good. On SQLite it can be read.
#[test]
fn manifests_of_one_id_are_looked_at_again_when_the_database_is_back() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let mut copy = Tenant::new("copy", provider.addr);
        copy.spec()["tenantId"] = json!(tenant.id);
        let place = Place::new(&env, Source::Manifests, "").await?;
        place.deliver(&env, Source::Manifests, &tenant).await?;
        let user = place.stack.new_user(&tenant)?;
        let entry = async || place.stack.configz(&tenant).await;
        let of_one = entry().await?["rejected_revision"].clone();
        place.stack.write_manifest("copy", &copy.manifest())?;
        // Until both files are read.
        let are_both_seen = async || anyhow::Ok(entry().await?["rejected_revision"] != of_one);
        place.stack.eventually("both seen", are_both_seen).await?;
        let pending = entry().await?;
        ensure!(pending["error"] == ERROR, "{pending}");
        let answer = user.get("/models").await?;
        answer.problem(503, "service_unavailable")?;
        place.break_database(false)?;
        let is_refused = async || Ok(user.get("/models").await?.status == 403);
        place.stack.eventually("refused", is_refused).await?;
        let refused = entry().await?["error"].to_string();
        ensure!(refused.contains("default/copy"), "{refused}");
        place.stack.stop().await
    })
}
