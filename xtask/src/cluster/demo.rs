//! `cargo xtask cluster up --demo`: starts a cluster, installs minichat, and streams one answer through a Service.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use minichat_cluster::{Helm, Kubectl, NodeTier, Step, Steps};

use crate::images::Images;
use crate::process::Running;
use crate::quickstart::api::Api;
use crate::quickstart::{self, MESSAGE};
use crate::workspace;

/// Namespace of the release; provider and tenant are in `default`.
const NAMESPACE: &str = "minichat";
const PROVIDER_URL: &str = "http://scripted-provider.default.svc:18080";
const IMAGES: &str = "compiling minichat and building its images";
const LOADING: &str = "loading the images into the node";
const PROVIDER: &str = "starting the scripted provider";
const CHARTS: &str = "installing the charts";
const TENANT: &str = "applying crds/examples/scripted.yaml until the tenant is ready";
const FORWARDED_WITHIN: Duration = Duration::from_secs(30);
const STARTS_WITHIN: &str = "--timeout=120s";

pub(super) fn run() -> anyhow::Result<()> {
    let steps = Steps::begin(&plan()?);
    let images = steps.run(IMAGES, Images::build)?;
    let tier = NodeTier::up(&steps)?;
    tier.keep()?;
    steps.run(LOADING, || images.load_into(&tier))?;
    let (helm, kubectl) = (tier.helm()?, tier.kubectl());
    // Started early, because its Service routes to it only a moment after it is ready.
    steps.run(PROVIDER, || start_provider(kubectl, &images))?;
    steps.run(CHARTS, || install(&helm, &images))?;
    steps.run(TENANT, || admit(kubectl))?;
    let pool = Forward::start(kubectl, "service/minichat-pool", 8087)?;
    let pool_admin = Forward::start(kubectl, "service/minichat-pool-metrics", 9090)?;
    let operator = Forward::start(kubectl, "service/minichat-operator-metrics", 9090)?;
    println!("\nOne answer through the pool's Service:");
    quickstart::converse(&Api::new(pool.port, pool_admin.port), MESSAGE)?;
    show_operator(&Api::new(operator.port, operator.port))?;
    println!("\n$ kubectl get ctn,cq");
    print!("{}", kubectl.run(&["get", "ctn,cq"])?);
    println!("\nGo on with:");
    super::show(&tier.kubeconfig())?;
    how_to_go_on();
    Ok(())
}

fn plan() -> anyhow::Result<Vec<Step>> {
    let step = |name, seconds| Step::new(name, Duration::from_secs(seconds));
    let images = vec![step(IMAGES, 240)];
    let others = [
        step(LOADING, 5),
        step(PROVIDER, 5),
        step(CHARTS, 20),
        step(TENANT, 2),
    ];
    Ok([images, NodeTier::plan()?, others.into()].concat())
}

fn install(helm: &Helm, images: &Images) -> anyhow::Result<()> {
    let charts = workspace::root().join("charts");
    let path = |name: &str| charts.join(name).display().to_string();
    let upgrade = ["upgrade", "--install", "--wait", STARTS_WITHIN];
    let definitions = path("minichat-crds");
    let release = ["minichat-crds", &definitions, "--namespace", "default"];
    helm.run(&[upgrade, release].concat())?;
    let (chart, values) = (path("minichat"), path("demo-values.yaml"));
    let tag = format!("image.tag={}", images.tag());
    let release = ["minichat", &chart, "--namespace", NAMESPACE];
    let settings = ["--create-namespace", "--values", &values, "--set", &tag];
    helm.run(&[&upgrade[..], &release, &settings].concat())?;
    Ok(())
}

fn start_provider(kubectl: &Kubectl, images: &Images) -> anyhow::Result<()> {
    let manifest = read("tests/scripted-provider/deployment.yaml")?;
    let released = format!("scripted-provider:{}", env!("CARGO_PKG_VERSION"));
    let manifest = manifest.replace(&released, &format!("scripted-provider:{}", images.tag()));
    apply(kubectl, &manifest)?;
    let provider = "deployment/scripted-provider";
    kubectl.run(&[
        "--namespace=default",
        "rollout",
        "status",
        provider,
        STARTS_WITHIN,
    ])?;
    Ok(())
}

fn admit(kubectl: &Kubectl) -> anyhow::Result<()> {
    let manifest = read("crds/examples/scripted.yaml")?;
    apply(
        kubectl,
        &manifest.replace("http://127.0.0.1:18080", PROVIDER_URL),
    )?;
    let ready = [
        "wait",
        "--for=condition=Ready",
        "chattenant/acme",
        STARTS_WITHIN,
    ];
    kubectl.run(&[&["--namespace=default"], &ready[..]].concat())?;
    Ok(())
}

fn read(file: &str) -> anyhow::Result<String> {
    fs::read_to_string(workspace::root().join(file)).with_context(|| format!("cannot read {file}"))
}

fn apply(kubectl: &Kubectl, manifest: &str) -> anyhow::Result<()> {
    let arguments = ["--namespace=default", "apply", "--filename=-"];
    kubectl.run_with_input(&arguments, manifest)?;
    Ok(())
}

fn show_operator(operator: &Api) -> anyhow::Result<()> {
    let metrics = operator.metrics()?;
    println!(
        "\nMetrics of the operator ({} series, without those at 0):",
        metrics.len()
    );
    for (series, value) in metrics.iter().filter(|&(_, value)| *value > 0.0) {
        println!("  {series} {value}");
    }
    Ok(())
}

fn how_to_go_on() {
    println!(
        "kubectl edit chatquota acme-default           # a change is live within a second
kubectl describe chattenant acme
helm test minichat --namespace {NAMESPACE}
kubectl --namespace {NAMESPACE} logs statefulset/minichat-pool
kubectl --namespace {NAMESPACE} port-forward service/minichat-pool 8087 &
API=http://127.0.0.1:8087/mini-chat/v1
CHAT=$(curl -s -X POST $API/chats -H 'content-type: application/json' -d '{{}}' | jq -r .id)
curl -N $API/chats/$CHAT/messages:stream -H 'content-type: application/json' -d '{{\"content\":\"Hello\"}}'
cargo xtask cluster down"
    );
}

/// Forwards a free port of loopback to a port of a Service until it is dropped.
struct Forward {
    _running: Running,
    port: u16,
}

impl Forward {
    fn start(kubectl: &Kubectl, service: &str, target: u16) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = kubectl.command();
        command
            .args(["--namespace", NAMESPACE, "port-forward", service])
            .arg(format!("{port}:{target}"))
            .stdout(Stdio::null());
        let mut running = Running::start(&format!("the forward of {service}"), &mut command)?;
        let accepts = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        running.wait_until("accepts connections", FORWARDED_WITHIN, accepts)?;
        Ok(Self {
            _running: running,
            port,
        })
    }
}
