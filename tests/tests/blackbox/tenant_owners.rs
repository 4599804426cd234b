//! The owner of a tenant id (D36): the `ChatTenant` that was served under it
//! first. Another one with the same id never gets access to its chats.

use std::process::Output;

use anyhow::Context as _;
use minichat_tests::child::spawn;
use minichat_tests::client::Api;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::{Env, Stack, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_issuer::{AUDIENCE, ScriptedIssuer, Signer};
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::{Value, json};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");

/// A tenant that only tokens of its own issuer open.
struct Owned {
    tenant: Tenant,
    issuer: ScriptedIssuer,
    signer: Signer,
}

impl Owned {
    async fn new(
        namespace: &str,
        id: Option<Uuid>,
        provider: &ScriptedProvider,
    ) -> anyhow::Result<Self> {
        let (issuer, signer) = ScriptedIssuer::with_signer().await?;
        let mut tenant = Tenant::new("acme", provider.addr).in_namespace(namespace);
        tenant.spec()["auth"] =
            json!({"issuers": [{"issuer": issuer.name(), "audience": AUDIENCE}]});
        if let Some(id) = id {
            tenant.id = id;
            tenant.spec()["tenantId"] = json!(id);
        }
        Ok(Self {
            tenant,
            issuer,
            signer,
        })
    }

    /// A caller with a token of the issuer for `user`.
    fn caller(&self, stack: &Stack, user: Uuid) -> anyhow::Result<Api> {
        let token = self.issuer.token(&self.signer, &json!({"sub": user}));
        stack
            .api
            .with_header("authorization", &format!("Bearer {token}"))
    }
}

/// Two tenants with one id, and the user of the first, whose chat the second
/// wants.
struct Scene {
    first: Owned,
    second: Owned,
    user: Uuid,
}

impl Scene {
    async fn new() -> anyhow::Result<Self> {
        let provider = ScriptedProvider::start().await?;
        let first = Owned::new("team-a", None, &provider).await?;
        let second = Owned::new("team-b", Some(first.tenant.id), &provider).await?;
        Ok(Self {
            first,
            second,
            user: Uuid::new_v4(),
        })
    }

    /// Waits until the second tenant is refused with a helpful message, and
    /// checks that no token of its issuer opens anything.
    async fn check_refused(&self, stack: &Stack, chat: &str) -> anyhow::Result<()> {
        let is_refused = async || {
            let entries = stack.admin.get_absolute("/configz").await?.expect(200)?;
            Ok(entries
                .to_string()
                .contains("belongs to the ChatTenant team-a/acme"))
        };
        stack.eventually("refused", is_refused).await?;
        let entry = stack.configz(&self.second.tenant).await?;
        assert_eq!(entry["state"], "rejected");
        assert_eq!(entry["stored_owner"], "team-a/acme");
        let error = entry["error"].as_str().unwrap_or_default();
        let remedy = format!(
            "minichat-dataplane tenants transfer --tenant {} --from team-a/acme --to team-b/acme",
            self.first.tenant.id
        );
        assert!(error.contains(&remedy), "{error}");
        self.check_shut_out(stack, chat).await
    }

    async fn check_shut_out(&self, stack: &Stack, chat: &str) -> anyhow::Result<()> {
        let intruder = self.second.caller(stack, self.user)?;
        for path in [
            "/chats".to_owned(),
            format!("/chats/{chat}"),
            format!("/chats/{chat}/messages"),
        ] {
            intruder.get(&path).await?.problem(401, "unauthenticated")?;
        }
        intruder
            .delete(&format!("/chats/{chat}"))
            .await?
            .problem(401, "unauthenticated")?;
        Ok(())
    }

    async fn await_gone(&self, stack: &Stack) -> anyhow::Result<()> {
        let is_gone = async || {
            let owner = self.first.caller(stack, self.user)?;
            Ok(owner.get("/chats").await?.status == 401)
        };
        stack.eventually("gone", is_gone).await
    }

    async fn await_seen(&self, stack: &Stack, chat: &str) -> anyhow::Result<()> {
        let path = format!("/chats/{chat}");
        let is_seen = async || {
            let heir = self.second.caller(stack, self.user)?;
            Ok(heir.get(&path).await?.status == 200)
        };
        stack.eventually("transferred", is_seen).await
    }

    /// Transfers the id to the second tenant. Only on PostgreSQL may the
    /// process keep running; on SQLite it is stopped, and `again` starts it.
    async fn transfer(
        &self,
        env: &Env,
        stack: Stack,
        again: impl AsyncFnOnce() -> anyhow::Result<Stack>,
    ) -> anyhow::Result<Stack> {
        let id = self.first.tenant.id.to_string();
        let arguments = [
            "transfer",
            "--tenant",
            &id,
            "--from",
            "team-a/acme",
            "--to",
            "team-b/acme",
        ];
        let (stack, moved) = if matches!(env.database, Database::Sqlite(_)) {
            stack.stop().await?;
            let moved = when_free(env, &arguments).await?;
            (again().await?, moved)
        } else {
            let moved = tenants(env, &arguments).await?;
            (stack, moved)
        };
        assert!(moved.status.success(), "{moved:?}");
        Ok(stack)
    }
}

/// Runs `minichat-dataplane tenants`.
async fn tenants(env: &Env, arguments: &[&str]) -> anyhow::Result<Output> {
    let arguments: Vec<_> = ["tenants"].iter().chain(arguments).copied().collect();
    let url = env.database.url();
    let child = spawn(
        BINARY,
        &arguments,
        &[("MINICHAT_DATABASE_URL", url.as_str())],
    )?;
    Ok(child.wait_with_output().await?)
}

/// The same, after the last task of a stopped process has closed its file.
async fn when_free(env: &Env, arguments: &[&str]) -> anyhow::Result<Output> {
    loop {
        let output = tenants(env, arguments).await?;
        if !String::from_utf8_lossy(&output.stderr).contains("has the database file") {
            return Ok(output);
        }
    }
}

fn entries(output: &Output) -> anyhow::Result<Vec<Value>> {
    let text = std::str::from_utf8(&output.stdout)?;
    let lines = text.lines().map(|line| Ok(serde_json::from_str(line)?));
    lines.collect()
}

on_each_database! {
    /// D36: the id of a deleted tenant, with manifests.
    async fn a_manifest_with_the_id_of_a_deleted_tenant_is_refused_until_a_transfer(env) {
        let scene = Scene::new().await?;
        env.write_manifest("a", &scene.first.tenant.manifest())?;
        let stack = env.serve(&[]).await?;
        let chat = scene.first.caller(&stack, scene.user)?.create_chat(None).await?;
        std::fs::remove_file(env.manifests().join("a.yaml"))?;
        scene.await_gone(&stack).await?;

        env.write_manifest("b", &scene.second.tenant.manifest())?;
        scene.check_refused(&stack, &chat).await?;
        stack.stop().await?;
        let stack = env.start_with(&env.manifests(), "").await?;
        scene.check_refused(&stack, &chat).await?;

        let again = async || env.start_with(&env.manifests(), "").await;
        let stack = scene.transfer(&env, stack, again).await?;
        scene.await_seen(&stack, &chat).await?;
    }

    /// D36: the id of a deleted tenant, and of one that is served, with
    /// rendered Secrets.
    async fn a_rendered_tenant_with_anothers_id_is_refused_until_a_transfer(env) {
        let scene = Scene::new().await?;
        env.write_rendered("z.json", &scene.first.tenant, 1)?;
        let stack = env.start_rendered("").await?;
        let owner = scene.first.caller(&stack, scene.user)?;
        let chat = owner.create_chat(None).await?;

        // Beside the owner's, and before it in the order of names.
        env.write_rendered("a.json", &scene.second.tenant, 7)?;
        let mut changed = scene.first.tenant.clone();
        changed.spec()["displayName"] = json!("changed");
        env.write_rendered("z.json", &changed, 2)?;
        let is_second = async || {
            Ok(stack.configz(&changed).await?["revision"].as_str().unwrap_or_default().starts_with("2-"))
        };
        stack.eventually("the owner's change", is_second).await?;
        assert_eq!(stack.configz(&changed).await?["source"], "team-a/acme");
        owner.get(&format!("/chats/{chat}")).await?.expect(200)?;
        scene.check_shut_out(&stack, &chat).await?;

        std::fs::remove_file(env.rendered().join("z.json"))?;
        scene.await_gone(&stack).await?;
        scene.check_refused(&stack, &chat).await?;
        stack.stop().await?;
        let stack = env.start_rendered("").await?;
        scene.check_refused(&stack, &chat).await?;

        let again = async || env.start_rendered("").await;
        let stack = scene.transfer(&env, stack, again).await?;
        scene.await_seen(&stack, &chat).await?;
    }

    /// D36: the messages and exit codes of the commands.
    async fn a_transfer_says_why_it_changes_nothing(env) {
        let scene = Scene::new().await?;
        env.write_manifest("a", &scene.first.tenant.manifest())?;
        env.serve(&[]).await?.stop().await?;
        let listed = when_free(&env, &["list", "--json"]).await?;
        let found = entries(&listed)?;
        assert_eq!(found.len(), 1, "{listed:?}");
        let id = scene.first.tenant.id.to_string();
        assert_eq!((&found[0]["tenant_id"], &found[0]["owner"]), (&json!(id), &json!("team-a/acme")));
        let table = tenants(&env, &["list"]).await?;
        let table = String::from_utf8(table.stdout)?;
        assert!(table.starts_with("TENANT ") && table.contains("team-a/acme"), "{table}");

        let (other, derived) = (Uuid::new_v4(), Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"acme"));
        for (id, from, says) in [
            (id.as_str(), "team-c/acme", "belongs to team-a/acme, not to team-c/acme"),
            (&other.to_string(), "team-a/acme", "was ever served from this database"),
            (&derived.to_string(), "team-a/acme", "is a derived id (UUID version 5)"),
            (id.as_str(), "acme", "must be namespace/name"),
        ] {
            let refused = tenants(&env, &["transfer", "--tenant", id, "--from", from, "--to", "team-b/acme"]).await?;
            assert!(!refused.status.success(), "{refused:?}");
            let stderr = String::from_utf8(refused.stderr)?;
            assert!(stderr.contains(says), "{stderr}");
        }
        assert_eq!(entries(&tenants(&env, &["list", "--json"]).await?)?, found);
        let arguments = ["transfer", "--tenant", &id, "--from", "team-a/acme", "--to", "team-b/acme"];
        for says in ["belongs to team-b/acme now", "belongs to team-b/acme already"] {
            let moved = tenants(&env, &arguments).await?;
            assert!(moved.status.success(), "{moved:?}");
            assert!(String::from_utf8(moved.stdout)?.contains(says));
        }
    }
}

/// D36: if processes serve two tenants of one id at once, each gets the same
/// answer from the database. On SQLite there is only one process.
#[test]
fn of_processes_that_claim_an_id_at_once_one_serves_it() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env: Env| {
        let scene = Scene::new().await?;
        let directories = ["a", "b"].map(|name| env.manifests().join(name));
        let tenants = [&scene.first.tenant, &scene.second.tenant];
        for (directory, tenant) in directories.iter().zip(tenants) {
            std::fs::create_dir(directory)?;
            std::fs::write(directory.join("tenant.yaml"), tenant.manifest())?;
        }
        let (a, b) = tokio::join!(
            env.start_with(&directories[0], ""),
            env.start_with(&directories[1], "")
        );
        let stacks = [a?, b?];
        let mut served = Vec::new();
        for stack in &stacks {
            let entry = stack.configz(&scene.first.tenant).await?;
            served.extend(entry["source"].as_str().map(str::to_owned));
        }
        let owner = served.first().context("neither is served")?;
        assert_eq!(served.len(), 1, "{owner} and another are served");
        Ok(())
    })
}
