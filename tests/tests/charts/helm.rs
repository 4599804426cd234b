//! Runs Helm as a user would.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};
use minichat_cluster::programs::{Program, kubernetes_version};
use minichat_config::yaml;
use serde_json::Value;

/// The namespace for which everything is rendered.
pub(crate) const NAMESPACE: &str = "chat";

pub(crate) fn chart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts")
        .join(name)
}

/// Helm's output; if it fails, the error contains its stderr.
pub(crate) fn helm(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(Program::Helm.ensure()?)
        .args(arguments)
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{}{}", text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// The objects that a chart renders, and those that the operator makes of its manifests.
#[derive(Debug)]
pub(crate) struct Rendered {
    objects: Vec<Value>,
    managed: Vec<Value>,
}

/// Renders `minichat` with `--set` for each of `settings`.
pub(crate) fn render(settings: &[&str]) -> anyhow::Result<Rendered> {
    render_chart("minichat", settings)
}

pub(crate) fn render_chart(name: &str, settings: &[&str]) -> anyhow::Result<Rendered> {
    template("minichat", name, NAMESPACE, settings)
}

/// Renders `minichat` as another release for another namespace.
pub(crate) fn render_release(
    release: &str,
    namespace: &str,
    settings: &[&str],
) -> anyhow::Result<Rendered> {
    template(release, "minichat", namespace, settings)
}

/// Renders `minichat` with `values`, for a cluster that also has `kinds` (`group/version/kind`).
pub(crate) fn render_values(values: &Value, kinds: &[&str]) -> anyhow::Result<Rendered> {
    let file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(file.as_file(), values)?;
    render_file(file.path(), kinds)
}

/// The same with a file of values.
pub(crate) fn render_file(file: &Path, kinds: &[&str]) -> anyhow::Result<Rendered> {
    let file = file.to_str().context("a path that is not UTF-8")?;
    let kinds = kinds.iter().flat_map(|kind| ["--api-versions", kind]);
    let more: Vec<&str> = ["--values", file].into_iter().chain(kinds).collect();
    template_with("minichat", "minichat", NAMESPACE, &more)
}

fn template(
    release: &str,
    name: &str,
    namespace: &str,
    settings: &[&str],
) -> anyhow::Result<Rendered> {
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    template_with(release, name, namespace, &settings.collect::<Vec<_>>())
}

fn template_with(
    release: &str,
    name: &str,
    namespace: &str,
    more: &[&str],
) -> anyhow::Result<Rendered> {
    let (chart, version) = (chart(name), kubernetes_version()?);
    let chart = chart.to_str().context("a path that is not UTF-8")?;
    let mut arguments = vec!["template", release, chart, "--namespace", namespace];
    arguments.extend(["--kube-version", &version]);
    arguments.extend(more);
    let documents = yaml::documents(&helm(&arguments)?);
    let objects = documents.into_iter().map(|document| document.value);
    let objects = objects.collect::<Result<_, _>>();
    let objects: Vec<Value> = objects.map_err(|fault| anyhow!("{fault}"))?;
    let managed = manifests(&objects)?;
    Ok(Rendered { objects, managed })
}

/// The manifests in the `ConfigMap` that the operator mounts.
fn manifests(objects: &[Value]) -> anyhow::Result<Vec<Value>> {
    let is_managed = |object: &&Value| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        object["kind"] == "ConfigMap" && name.ends_with("-managed")
    };
    let data = objects
        .iter()
        .filter(is_managed)
        .map(|object| &object["data"]);
    let data = data.filter_map(Value::as_object).flatten();
    let manifests = data.filter(|(key, _)| *key != "about");
    let parsed = manifests.map(|(_, text)| yaml::document(text.as_str().unwrap_or_default()));
    parsed
        .collect::<Result<_, _>>()
        .map_err(|fault| anyhow!("{fault}"))
}

/// A file with one YAML document.
pub(crate) fn document(path: impl AsRef<Path>) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path)?;
    yaml::document(&text).map_err(|fault| anyhow!("{fault}"))
}

impl Rendered {
    pub(crate) fn all(&self) -> &[Value] {
        &self.objects
    }

    /// What the operator makes.
    pub(crate) fn managed(&self) -> &[Value] {
        &self.managed
    }

    pub(crate) fn names(&self, kind: &str) -> Vec<String> {
        names(&self.objects, kind)
    }

    /// The only object of `kind` called `name`.
    pub(crate) fn get(&self, kind: &str, name: &str) -> anyhow::Result<&Value> {
        get(&self.objects, kind, name)
    }

    /// Names of the `CronJobs` that the operator makes.
    pub(crate) fn cron_jobs(&self) -> Vec<String> {
        names(&self.managed, "CronJob")
    }

    /// The `CronJob` called `name` that the operator makes.
    pub(crate) fn cron_job(&self, name: &str) -> anyhow::Result<&Value> {
        get(&self.managed, "CronJob", name)
    }

    /// Every pod in the objects, and in those that the operator makes, with its metadata.
    pub(crate) fn pods(&self) -> Vec<&Value> {
        let all = self.objects.iter().chain(&self.managed);
        all.filter_map(|object| match object["kind"].as_str()? {
            "Pod" => Some(object),
            "Deployment" | "StatefulSet" | "Job" => Some(&object["spec"]["template"]),
            "CronJob" => Some(&object["spec"]["jobTemplate"]["spec"]["template"]),
            _ => None,
        })
        .collect()
    }

    /// Every pod spec in the objects.
    pub(crate) fn pod_specs(&self) -> Vec<&Value> {
        self.pods().into_iter().map(|pod| &pod["spec"]).collect()
    }
}

fn names(objects: &[Value], kind: &str) -> Vec<String> {
    let of_kind = objects.iter().filter(|object| object["kind"] == kind);
    of_kind
        .map(|object| object["metadata"]["name"].to_string().replace('"', ""))
        .collect()
}

fn get<'a>(objects: &'a [Value], kind: &str, name: &str) -> anyhow::Result<&'a Value> {
    let found = objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.with_context(|| format!("no {kind} {name} among {:?}", names(objects, kind)))
}
