//! Changes of manifests: faults are refused with file, document and field, and
//! running tenants continue.

use minichat_tests::harness::{Env, Held};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::{Value, json};

/// Breaks a running tenant with `change`. Checks that it is refused with a text
/// that contains each of `hints`, that the old configuration still answers,
/// that another tenant is not affected, and that a repaired manifest is
/// accepted.
async fn check_refused(
    env: Env,
    change: impl FnOnce(&mut Tenant),
    hints: &[&str],
) -> anyhow::Result<()> {
    let provider = ScriptedProvider::start().await?;
    let (good, other) = (
        Tenant::new("acme", provider.addr),
        Tenant::new("other", provider.addr),
    );
    let stack = env.serve(&[&good, &other]).await?;
    let user = stack.new_user(&good)?;
    let chat = user.create_chat(None).await?;
    user.say(&chat, "PING").await?;
    let (before, other_before) = (stack.configz(&good).await?, stack.configz(&other).await?);
    assert_eq!(
        (&before["state"], &other_before["state"]),
        (&json!("active"), &json!("active"))
    );
    assert!(before.get("error").is_none());

    let mut broken = good.clone();
    change(&mut broken);
    stack.write_manifest("acme", &broken.manifest())?;
    let is_rejected = async || Ok(stack.configz(&good).await?["state"] == "rejected");
    stack.eventually("rejected", is_rejected).await?;
    let refused = stack.configz(&good).await?;
    assert_eq!(refused["revision"], before["revision"]);
    let error = refused["error"].as_str().unwrap_or_default();
    for hint in hints {
        assert!(error.contains(hint), "{hint:?} is not in {error:?}");
    }
    assert_eq!(stack.configz(&other).await?, other_before);
    assert_eq!(user.say(&chat, "PING").await?.answer(), "PONG");

    stack.write_manifest("acme", &good.manifest())?;
    let is_active = async || Ok(stack.configz(&good).await? == before);
    stack.eventually("repaired", is_active).await
}

on_each_database! {
    /// D48
    async fn an_address_that_may_not_be_called_is_refused_with_what_would_allow_it(env) {
        let metadata = |tenant: &mut Tenant| {
            tenant.spec()["providers"][0]["baseUrl"] = json!("http://0xa9fea9fe");
        };
        let hints = ["acme.yaml", "spec.providers[0].baseUrl", "link-local", "never called"];
        check_refused(env, metadata, &hints).await?;
    }

    /// D48
    async fn a_private_issuer_is_refused_with_what_would_allow_it(env) {
        let inside = |tenant: &mut Tenant| {
            let issuer = json!({"issuer": "http://login.models.svc", "audience": "minichat"});
            tenant.spec()["auth"] = json!({"issuers": [issuer]});
        };
        let hints = ["spec.auth.issuers[0].issuer", "`login.models.svc` added to outbound.allow_private"];
        check_refused(env, inside, &hints).await?;
    }

    /// K8S-4, K8S-8, K8S-22
    async fn a_misspelt_field_is_refused_with_its_place(env) {
        let misspell = |tenant: &mut Tenant| {
            tenant.model("std")["maxOutputTokns"] = json!(1000);
        };
        let hints = ["acme.yaml", "document 1", "spec.models[1].maxOutputTokns"];
        check_refused(env, misspell, &hints).await?;
    }

    /// K8S-4, K8S-5
    async fn a_reference_to_no_provider_is_refused_with_its_place(env) {
        let misdirect = |tenant: &mut Tenant| {
            tenant.model("prem")["providerRef"] = json!("elsewhere");
        };
        let hints = ["acme.yaml", "document 1", "spec.models", "providerRef"];
        check_refused(env, misdirect, &hints).await?;
    }

    /// K8S-4, K8S-7, PLAT-165: the message has the place, but no keys of other
    /// tenants.
    async fn a_missing_secret_is_refused_with_its_place(env) {
        let lose = |tenant: &mut Tenant| {
            tenant.spec()["providers"][0]["auth"]["secretKeyRef"]["name"] = json!("lost");
        };
        let hints = [
            "acme.yaml", "document 1", "spec.providers[0].auth.secretKeyRef", "lost",
        ];
        check_refused(env, lose, &hints).await?;
    }

    /// K8S-4: text that is not YAML.
    async fn a_file_that_cannot_be_read_leaves_its_tenant_running(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let stack = env.serve(&[&tenant]).await?;
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(None).await?;
        stack.write_manifest("acme", "kind: [ChatTenant\n")?;
        stack.eventually("rejected", async || {
            let configz = stack.admin.get_absolute("/configz").await?.expect(200)?;
            Ok(configz.to_string().contains("acme.yaml"))
        }).await?;
        assert_eq!(user.say(&chat, "PING").await?.answer(), "PONG");
    }

    /// K8S-22, QUOTA-33, QUOTA-34, QUOTA-84: a change cuts no stream, and a
    /// turn is settled at the price with which it began.
    async fn an_open_stream_keeps_the_configuration_it_began_with(env) {
        let scene = env.scene().await?;
        let stack = &scene.stack;
        for hold_before_end in [true, false] {
            let usage = minichat_tests::scripted_provider::Tokens { input: 30, output: 2 };
            scene.provider.push_scenario(Scenario {
                hold_before_end,
                usage: Some(usage),
                ..Scenario::deltas(&["ok"], Ending::Completed)
            });
        }
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;

        let before = stack.configz(&scene.tenant).await?;
        let mut dearer = scene.tenant.clone();
        dearer.model("std")["inputTokensCreditMultiplierMicro"] = json!(10_000_000);
        dearer.model("std")["outputTokensCreditMultiplierMicro"] = json!(30_000_000);
        stack.write_manifest("acme", &dearer.manifest())?;
        stack.eventually("reloaded", async || {
            Ok(stack.configz(&dearer).await?["revision"] != before["revision"])
        }).await?;
        scene.provider.release(1);
        stream.expect("done").await?;
        user.say(&chat, "hello").await?;

        let rows = scene.database().query("SELECT payload FROM outbox_messages \
            WHERE queue = 'mini-chat.usage_snapshot' ORDER BY id").await?;
        let mut settled = Vec::new();
        for row in &rows {
            let event: Value = serde_json::from_str(row[0].as_deref().unwrap_or_default())?;
            settled.push((
                event["policy_version_applied"].as_i64(),
                event["committed_credits_micro"].as_i64(),
            ));
        }
        assert_eq!(settled, [(Some(1), Some(36)), (Some(2), Some(360))]);
    }

    /// QUOTA-27, QUOTA-28: the version depends on the content, also after a
    /// restart.
    async fn a_policy_version_is_kept_until_the_content_changes(env) {
        let provider = ScriptedProvider::start().await?;
        let mut tenant = Tenant::new("acme", provider.addr);
        for (prompt, version) in [("a", 1), ("a", 1), ("b", 2)] {
            tenant.model("std")["systemPrompt"] = json!(prompt);
            let stack = env.serve(&[&tenant]).await?;
            let user = stack.new_user(&tenant)?;
            let chat = user.create_chat(Some("std")).await?;
            user.say(&chat, "PING").await?;
            let newest = "SELECT max(policy_version_applied) FROM chat_turns";
            assert_eq!(stack.database.number(newest).await?, version, "{prompt}");
            stack.stop().await?;
        }
    }

    /// PLAT-103, K8S-8: the next call uses a new key, without a restart.
    async fn a_changed_secret_reaches_the_next_call(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let mut rotated = scene.tenant.clone();
        rotated.others[0]["stringData"]["api-key"] = json!("sk-rotated-0123456789");
        scene.stack.write_manifest("acme", &rotated.manifest())?;
        let provider = &scene.provider;
        scene.stack.eventually("rotated", async || {
            user.say(&chat, "PING").await?;
            let last = provider.requests().pop();
            Ok(last.is_some_and(|request| {
                request.headers["authorization"] == "Bearer sk-rotated-0123456789"
            }))
        }).await?;
        let configz = scene.stack.admin.get_absolute("/configz").await?;
        assert!(!minichat_tests::harness::whole_text(&configz).contains("sk-"));
    }

    /// K8S-28: its streams end, nobody begins another one, and its data stays.
    async fn a_deleted_tenant_is_refused_and_its_open_stream_completes(env) {
        let scene = env.scene().await?;
        let Held { user, chat, mut stream, .. } = scene.held().await?;
        std::fs::remove_file(env.manifests().join("acme.yaml"))?;
        let body = json!({"content": "PING"});
        scene.stack.eventually("refused", async || {
            Ok(user.refused(&chat, &body).await?.status == 403)
        }).await?;
        user.get("/chats").await?.problem(403, "feature_not_licensed")?;
        scene.provider.release(1);
        stream.expect("done").await?;
        for (rows, count) in [
            ("chats WHERE deleted_at IS NULL", 1), ("messages WHERE deleted_at IS NULL", 2),
            ("chat_turns WHERE state = 'completed'", 1),
            ("quota_usage WHERE reserved_credits_micro = 0 AND spent_credits_micro > 0", 2),
        ] {
            let rows = format!("SELECT count(*) FROM {rows}");
            assert_eq!(scene.database().number(&rows).await?, count, "{rows}");
        }
    }

    /// PLAT-135, D33
    async fn a_suspended_tenant_is_refused_and_shown(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        user.create_chat(None).await?;
        let mut suspended = scene.tenant.clone();
        suspended.spec()["suspended"] = json!(true);
        scene.stack.write_manifest("acme", &suspended.manifest())?;
        scene.stack.eventually("suspended", async || {
            Ok(scene.stack.configz(&suspended).await?["suspended"] == true)
        }).await?;
        user.get("/chats").await?.problem(403, "feature_not_licensed")?;
    }
}
