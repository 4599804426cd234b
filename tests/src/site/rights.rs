//! The identities and rights of the chart's processes.

use anyhow::Context as _;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use super::{Site, WITHIN, eventually};

impl Site {
    /// The user that the API server logs for the operator.
    pub fn operator_user(&self) -> anyhow::Result<String> {
        let account = self.account("Deployment")?;
        Ok(format!(
            "system:serviceaccount:{}:{account}",
            self.namespace
        ))
    }

    /// The user that the API server logs for the pods of the pool.
    pub fn pool_user(&self) -> anyhow::Result<String> {
        let account = self.account("StatefulSet")?;
        Ok(format!(
            "system:serviceaccount:{}:{account}",
            self.namespace
        ))
    }

    /// The operator's `Role` in `namespace`.
    pub fn role(&self, namespace: &str) -> anyhow::Result<&Value> {
        let is_it = |object: &&Value| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            object["kind"] == "Role"
                && object["metadata"]["namespace"] == namespace
                && name.contains("operator")
        };
        self.chart.iter().find(is_it).context("no such Role")
    }

    /// The pool's `Role`.
    pub fn pool_role(&self) -> anyhow::Result<&Value> {
        let is_it = |object: &&Value| {
            object["kind"] == "Role"
                && object["metadata"]["labels"]["app.kubernetes.io/component"] == "pool"
        };
        self.chart.iter().find(is_it).context("no such Role")
    }

    /// Waits until the API server grants the operator a right, or revokes it.
    pub async fn await_right(
        &self,
        namespace: &str,
        verb: &str,
        resource: &str,
        wanted: bool,
    ) -> anyhow::Result<()> {
        let user = self.operator_user()?;
        self.await_right_of(&user, namespace, (verb, resource), wanted)
            .await
    }

    /// The same for `user`. The resource may include a subresource.
    pub async fn await_right_of(
        &self,
        user: &str,
        namespace: &str,
        (verb, resource): (&str, &str),
        wanted: bool,
    ) -> anyhow::Result<()> {
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let group = match resource {
            "events" => "events.k8s.io",
            "leases" => "coordination.k8s.io",
            "jobs" | "cronjobs" => "batch",
            "chattenants" | "chatquotas" => "minichat.dev",
            _ => "",
        };
        // A rule for named objects is checked with one of the names.
        let named = match (resource, verb) {
            ("configmaps", _) => "minichat-managed".to_owned(),
            ("leases", "get" | "patch") => self.lease(),
            _ => String::new(),
        };
        let review: SubjectAccessReview = serde_json::from_value(json!({"spec": {
            "user": user,
            "resourceAttributes": {
                "namespace": namespace, "verb": verb, "name": named,
                "group": group, "resource": resource, "subresource": subresource,
            },
        }}))?;
        let is_so = async || {
            let answer = reviews.create(&PostParams::default(), &review).await?;
            Ok(answer.status.is_some_and(|status| status.allowed) == wanted)
        };
        eventually(&format!("{verb} {resource}: {wanted}"), WITHIN, is_so).await
    }
}
