//! Claims about the operator and the delivery of configuration: the real processes under the chart's own
//! `ServiceAccounts` on a real API server, which has no node. What a kubelet would say of a pod, the suite says.

#[cfg(test)]
mod broken;
#[cfg(test)]
mod children;
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
