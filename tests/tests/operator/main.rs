//! Tests of the operator and of the delivery of configuration. The real processes run under the chart's
//! `ServiceAccounts` on a real API server without a node. The suite writes what a kubelet would write about a pod.

#[cfg(test)]
mod argo_cd;
#[cfg(test)]
mod broken;
#[cfg(test)]
mod children;
#[cfg(test)]
mod cron_jobs;
#[cfg(test)]
mod deletion;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod health;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod issuers;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod kstatus;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod pools;
#[cfg(test)]
mod quotas;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod sinks;
#[cfg(test)]
mod watchdog;
#[cfg(test)]
mod watches;

#[cfg(test)]
fn programs() -> minichat_tests::site::Programs {
    minichat_tests::site::Programs {
        operator: env!("CARGO_BIN_EXE_minichat-operator-under-test").into(),
        dataplane: env!("CARGO_BIN_EXE_minichat-dataplane-under-test").into(),
    }
}
