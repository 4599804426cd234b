//! A directory of manifests while people and programs change it: running
//! tenants continue while a file is missing, empty or half written, and every
//! change takes effect in the end.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};
use minichat_tests::client::Api;
use minichat_tests::harness::Stack;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::json;

/// Counts the answers to requests of `user` until `stop` is set.
async fn count_statuses(user: Api, stop: Arc<AtomicBool>) -> anyhow::Result<BTreeMap<u16, u32>> {
    let mut statuses = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let status = user.get("/models").await?.status.as_u16();
        *statuses.entry(status).or_default() += 1;
    }
    Ok(statuses)
}

/// Writes `text` to the file in one of the ways of editors and `cp`, and sends
/// a request in each intermediate state.
async fn rewrite(file: &Path, text: &str, round: usize, user: &Api) -> anyhow::Result<()> {
    let check = async || -> anyhow::Result<()> {
        user.get("/models").await?.expect(200)?;
        Ok(())
    };
    match round % 4 {
        0 => fs::write(file, text)?,
        1 => {
            let mut open = fs::File::create(file)?;
            check().await?;
            let (half, rest) = text.as_bytes().split_at(text.len() / 2);
            open.write_all(half)?;
            check().await?;
            open.write_all(rest)?;
        }
        2 => {
            fs::remove_file(file)?;
            check().await?;
            fs::write(file, text)?;
        }
        _ => {
            let aside = file.with_extension("yaml~");
            fs::rename(file, &aside)?;
            check().await?;
            fs::copy(&aside, file)?;
            fs::remove_file(aside)?;
        }
    }
    check().await
}

async fn await_error(stack: &Stack, tenant: &Tenant, says: &str) -> anyhow::Result<()> {
    let is_reported = async || {
        let entry = stack.configz(tenant).await?;
        Ok(entry["error"].as_str().unwrap_or_default().contains(says))
    };
    stack.eventually(says, is_reported).await
}

async fn await_active(stack: &Stack, tenant: &Tenant) -> anyhow::Result<()> {
    let is_active = async || Ok(stack.configz(tenant).await?["state"] == "active");
    stack.eventually("active", is_active).await
}

/// The name of the tenant's standard model, which identifies the tenant to
/// callers.
async fn model_name(caller: &Api) -> anyhow::Result<String> {
    let models = caller.get("/models").await?.expect(200)?;
    let mut names = models["items"].as_array().into_iter().flatten();
    let std = names.find(|model| model["model_id"] == "std" || model["id"] == "std");
    let name = std.and_then(|model| model["display_name"].as_str());
    Ok(name.with_context(|| models.to_string())?.to_owned())
}

on_each_database! {
    /// K8S-8, K8S-22
    async fn a_manifest_that_is_rewritten_in_place_refuses_nobody(env) {
        let scene = env.scene().await?;
        let (stack, tenant) = (&scene.stack, &scene.tenant);
        let file = env.manifests().join("acme.yaml");
        let stop = Arc::<AtomicBool>::default();
        let statuses = tokio::spawn(count_statuses(scene.new_user()?, Arc::clone(&stop)));
        let user = scene.new_user()?;
        for round in 0..1000 {
            let text = format!("{}\n# {round}\n", tenant.manifest());
            rewrite(&file, &text, round, &user).await?;
            if round % 100 == 50 {
                // It lasts long enough to be noticed.
                fs::write(&file, "")?;
                await_error(stack, tenant, "acme.yaml, document 1: is empty").await?;
                user.get("/models").await?.expect(200)?;
                fs::write(&file, &text)?;
                await_active(stack, tenant).await?;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let statuses = statuses.await??;
        ensure!(statuses.keys().eq(&[200]), "{statuses:?}");

        // The last change takes effect, and so does the deletion.
        let mut changed = tenant.clone();
        changed.model("std")["displayName"] = json!("Renamed");
        fs::write(&file, changed.manifest())?;
        stack.eventually("the change", async || Ok(model_name(&user).await? == "Renamed")).await?;
        fs::remove_file(&file)?;
        stack.eventually("the deletion", async || Ok(user.get("/models").await?.status != 200)).await?;
    }

    /// K8S-8: also if quota and Secret are in separate files.
    async fn what_stands_in_the_place_of_a_file_is_told_and_what_ran_goes_on(env) {
        let scene = env.scene().await?;
        let (stack, tenant) = (&scene.stack, &scene.tenant);
        let user = scene.new_user()?;
        let file = env.manifests().join("acme.yaml");
        let others = env.manifests().join("others.yaml");
        let (resource, secret) = (tenant.resource.to_string(), tenant.others[0].to_string());
        fs::write(&others, &secret)?;
        fs::write(&file, &resource)?;
        for (broken, text) in [(&file, &resource), (&others, &secret)] {
            await_active(stack, tenant).await?;
            for kind in ["is a directory", "is a named pipe", "is a socket", "is a device", "is no UTF-8 text"] {
                fs::remove_file(broken)?;
                let _listener = match kind {
                    "is a directory" => { fs::create_dir(broken)?; None }
                    "is a named pipe" => {
                        ensure!(std::process::Command::new("mkfifo").arg(broken).status()?.success());
                        None
                    }
                    "is a socket" => Some(UnixListener::bind(broken)?),
                    "is a device" => { std::os::unix::fs::symlink("/dev/zero", broken)?; None }
                    _ => { fs::write(broken, b"\xff")?; None }
                };
                await_error(stack, tenant, kind).await?;
                user.get("/models").await?.expect(200)?;
                if broken.is_dir() { fs::remove_dir(broken)?; } else { fs::remove_file(broken)?; }
                fs::write(broken, text)?;
                await_active(stack, tenant).await?;
            }
        }
    }

    /// D36: a tenant in another file that copies the owner's id has no effect
    /// on the owner.
    async fn a_copied_id_does_not_keep_the_owner_from_changing(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let mut copy = Tenant::new("aaa", scene.provider.addr);
        copy.spec()["tenantId"] = json!(scene.tenant.id);
        scene.stack.write_manifest("aaa", &copy.manifest())?;
        let mut changed = scene.tenant.clone();
        changed.model("std")["displayName"] = json!("Renamed");
        scene.stack.write_manifest("acme", &changed.manifest())?;
        let is_changed = async || Ok(model_name(&user).await? == "Renamed");
        scene.stack.eventually("the owner's change", is_changed).await?;
        assert_eq!(scene.stack.configz(&scene.tenant).await?["source"], "default/acme");
    }

    /// D51
    async fn in_mode_dev_the_first_tenant_stays_and_a_header_chooses(env) {
        let provider = ScriptedProvider::start().await?;
        let named = |name: &str| {
            let mut tenant = Tenant::new(name, provider.addr);
            tenant.model("std")["displayName"] = json!(name);
            tenant
        };
        // In the order of files, not of names or ids.
        let (zed, beta) = (named("zed"), named("beta"));
        env.write_manifest("1", &zed.manifest())?;
        env.write_manifest("2", &beta.manifest())?;
        let stack = env.serve_with(&[], "MINICHAT_AUTH_MODE=dev\nMINICHAT_AUTH_ALLOW_DEV=true").await?;
        assert_eq!(model_name(&stack.api).await?, "zed");
        let choosing = |text: &str| stack.api.with_header("x-tenant-id", text);
        for text in [&beta.id.to_string(), "default/beta"] {
            assert_eq!(model_name(&choosing(text)?).await?, "beta");
        }
        for text in ["beta", "default/nobody", ""] {
            choosing(text)?.get("/models").await?.problem(401, "unauthenticated")?;
        }

        let alpha = named("alpha");
        env.write_manifest("0", &alpha.manifest())?;
        let is_there = async || {
            let entries = stack.admin.get_absolute("/configz").await?.expect(200)?;
            Ok(entries.to_string().contains("default/alpha"))
        };
        stack.eventually("alpha", is_there).await?;
        assert_eq!(model_name(&stack.api).await?, "zed");
        assert_eq!(stack.configz(&zed).await?["default"], true);
        assert_eq!(stack.configz(&alpha).await?.get("default"), None);
    }
}
