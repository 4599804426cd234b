//! Pods of the pool: a data plane as a process, and the Pod object that a kubelet would maintain.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::child::variables_of_a_pool;
use crate::client::Api as Http;
use crate::manifest::Tenant;
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use super::process::Logged;
use super::{Site, WITHIN};

/// One pod.
pub struct Pod {
    name: String,
    pub admin: Http,
    api: Http,
    process: Logged,
    object: PodObject,
    objects: Api<PodObject>,
}

/// The settings that the pods of one pool share.
pub(super) struct Template<'a> {
    pub(super) program: &'a Path,
    pub(super) client: &'a Client,
    pub(super) namespace: &'a str,
    pub(super) pool: &'a str,
    /// From the chart.
    pub(super) labels: &'a Value,
    pub(super) kubeconfig: &'a Path,
    pub(super) database_url: &'a str,
    /// Variables, one per line.
    pub(super) settings: &'a str,
}

impl Site {
    /// Runs `minichat-dataplane tenants` with `arguments`, on the database of the pool.
    pub async fn tenants_command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.programs.dataplane)
            .arg("tenants")
            .args(arguments)
            .env_clear()
            .env("MINICHAT_DATABASE_URL", self.database.url())
            .output()
            .await?;
        anyhow::ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Pod {
    /// Starts the process. The API server does not know the pod yet.
    pub(super) async fn start(template: &Template<'_>, log: PathBuf) -> anyhow::Result<Self> {
        let mut command = Command::new(template.program);
        command
            .args(["serve", "--pool", template.pool])
            .args(["--namespace", template.namespace, "--kubeconfig"])
            .arg(template.kubeconfig)
            .env_clear()
            .envs(variables_of_a_pool(
                template.database_url,
                template.settings,
            ));
        let mut process = Logged::start(&mut command, log)?;
        let app = process.address("app_addr").await?;
        let admin = process.address("admin_addr").await?;
        let name = format!("pool-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let object = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": template.labels},
            "spec": {
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "dataplane", "image": "minichat-dataplane",
                    "ports": [{"name": "admin", "containerPort": admin.port()}],
                }],
            },
        }))?;
        Ok(Self {
            name,
            admin: Http::new(admin),
            api: Http::new(app),
            process,
            object,
            objects: Api::namespaced(template.client.clone(), template.namespace),
        })
    }

    /// Creates the Pod object, with the process's readiness.
    pub async fn register(&self) -> anyhow::Result<()> {
        self.objects
            .create(&PostParams::default(), &self.object)
            .await?;
        self.publish_readiness().await?;
        Ok(())
    }

    /// Creates the ready Pod object of another pod in the same pool.
    pub async fn register_another(&self, name: &str, admin_port: u16) -> anyhow::Result<()> {
        let mut another = self.object.clone();
        another.metadata.name = Some(name.to_owned());
        let containers = another
            .spec
            .iter_mut()
            .flat_map(|spec| &mut spec.containers);
        for port in containers.flat_map(|container| container.ports.iter_mut().flatten()) {
            port.container_port = i32::from(admin_port);
        }
        self.objects
            .create(&PostParams::default(), &another)
            .await?;
        self.publish_ready(name, "True").await
    }

    /// Writes the process's readiness to the API server, as a kubelet does. Returns whether it is ready.
    pub async fn publish_readiness(&self) -> anyhow::Result<bool> {
        let is_ready = self.admin.get_absolute("/readyz").await?.status == 200;
        let status = if is_ready { "True" } else { "False" };
        self.publish_ready(&self.name, status).await?;
        Ok(is_ready)
    }

    /// Sets the condition `Ready` of the pod called `name`.
    async fn publish_ready(&self, name: &str, is_ready: &str) -> anyhow::Result<()> {
        let patch = json!({"status": {
            "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": [{"type": "Ready", "status": is_ready}],
        }});
        let patch = Patch::Merge(patch);
        let parameters = PatchParams::default();
        self.objects.patch_status(name, &parameters, &patch).await?;
        Ok(())
    }

    /// Waits until the process is ready, and writes that.
    pub async fn become_ready(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while !self.publish_readiness().await? {
            anyhow::ensure!(
                started.elapsed() < WITHIN,
                "not ready: {}",
                self.process.log()?
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Its log.
    pub fn log(&self) -> anyhow::Result<String> {
        self.process.log()
    }

    /// SIGKILL.
    pub async fn kill(self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// `user` of `tenant` at this pod.
    pub fn caller(&self, tenant: &Tenant, user: Uuid) -> anyhow::Result<Http> {
        self.api.acting_as(tenant.id, user)
    }

    /// Runs a whole turn of a new user of `tenant`.
    pub async fn chat(&self, tenant: &Tenant) -> anyhow::Result<()> {
        let user = self.caller(tenant, Uuid::new_v4())?;
        let chat = user.create_chat(None).await?;
        user.say(&chat, "PING").await?.only("done")?;
        Ok(())
    }

    /// The entry of `tenant` in `/configz`; null if there is none.
    pub async fn configz(&self, tenant: &Tenant) -> anyhow::Result<Value> {
        let entries = self.admin.get_absolute("/configz").await?.expect(200)?;
        let id = tenant.id.to_string();
        let entry = entries
            .as_array()
            .context("no list")?
            .iter()
            .find(|entry| entry["tenant_id"] == id.as_str());
        Ok(entry.cloned().unwrap_or_default())
    }
}
