//! Asks the pods how the sinks of tenants fare, and enqueues the tenants of which they say
//! something new.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use minichat_crds::render::tenant_id;

use crate::context::Context;
use crate::pool::SOON;
use crate::status::has_sinks;
use crate::work::Request;

/// How often pods are asked, while there is a tenant with a sink.
const EVERY: Duration = Duration::from_secs(10);

/// Never ends. To be run once this process leads.
pub(crate) async fn follow(context: Arc<Context>) {
    loop {
        tokio::time::sleep(EVERY).await;
        ask(&context).await;
    }
}

async fn ask(context: &Context) {
    let tenants = context.caches.tenants().into_iter();
    let tenants: Vec<_> = tenants
        .filter(|tenant| has_sinks(&tenant.spec))
        .map(|tenant| (tenant_id(&tenant), tenant))
        .collect();
    let health = &context.state.sinks_health;
    let ids: HashSet<_> = tenants.iter().map(|(id, _)| *id).collect();
    health.retain(|id| ids.contains(id));
    if tenants.is_empty() {
        return;
    }
    let mut round = context.pool.sinks(SOON).await;
    let now = context.clock.now();
    for (id, tenant) in tenants {
        let reports = round.reports.remove(&id).unwrap_or_default();
        if health.take(id, reports, round.is_complete, now) {
            let tenant = ObjectRef::from_obj(tenant.as_ref());
            let objects = &context.state.queues.objects;
            objects.send(Request::Resync(tenant));
        }
    }
}
