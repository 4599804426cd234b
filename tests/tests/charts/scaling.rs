//! How many pods there are, what keeps them, and what PostgreSQL needs for them.

use serde_json::{Value, json};

use crate::helm::{Rendered, render, render_values};

const POOL: &str = "minichat-pool";
const POSTGRES: &str = "database.existingSecret=database";
const SCALED: &[&str] = &[POSTGRES, "pool.autoscaling.enabled=true"];

/// K8S-70: nothing but the autoscaler sets the number of pods.
#[test]
fn an_autoscaler_takes_the_place_of_replicas() -> anyhow::Result<()> {
    assert!(
        render(&[POSTGRES])?
            .names("HorizontalPodAutoscaler")
            .is_empty()
    );
    let rendered = render(SCALED)?;
    let pool = &rendered.get("Deployment", POOL)?["spec"];
    assert!(pool.get("replicas").is_none(), "{pool}");
    let scaler = &rendered.get("HorizontalPodAutoscaler", POOL)?["spec"];
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": POOL});
    assert_eq!(scaler["scaleTargetRef"], target);
    assert_eq!(
        (&scaler["minReplicas"], &scaler["maxReplicas"]),
        (&json!(2), &json!(10))
    );
    let cpu = json!({"type": "Resource", "resource": {
        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70},
    }});
    assert_eq!(scaler["metrics"], json!([cpu]));
    assert_eq!(
        scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"],
        600
    );
    let streams = json!({"type": "Pods", "pods": {
        "metric": {"name": "mini_chat_active_streams"}, "target": {"type": "AverageValue", "averageValue": "100"},
    }});
    let by_streams = render_values(
        &json!({
            "database": {"existingSecret": "database"},
            "pool": {"autoscaling": {
                "enabled": true, "targetCPUUtilizationPercentage": 0, "metrics": [streams], "behavior": null,
            }},
        }),
        &[],
    )?;
    let scaler = &by_streams.get("HorizontalPodAutoscaler", POOL)?["spec"];
    assert_eq!(scaler["metrics"], json!([streams]));
    assert!(scaler.get("behavior").is_none());
    Ok(())
}

/// K8S-70, K8S-71
#[test]
fn an_autoscaler_that_could_not_work_is_refused() {
    for (settings, words) in [
        (
            vec!["pool.autoscaling.enabled=true"],
            "set database.existingSecret",
        ),
        (
            [SCALED, &["pool.autoscaling.minReplicas=11"]].concat(),
            "11 is more than maxReplicas, 10",
        ),
        (
            [
                SCALED,
                &["pool.autoscaling.targetCPUUtilizationPercentage=0"],
            ]
            .concat(),
            "without a metric nothing is scaled",
        ),
        (
            [SCALED, &["pool.resources.requests.cpu=null"]].concat(),
            "a share of pool.resources.requests.cpu, which is missing",
        ),
    ] {
        let refused = render(&settings).unwrap_err().to_string();
        assert!(
            refused.contains("pool.autoscaling") && refused.contains(words),
            "{refused}"
        );
    }
}

fn budget(rendered: &Rendered, name: &str) -> Value {
    let budget = rendered.get("PodDisruptionBudget", name);
    budget.map_or(Value::Null, |budget| budget["spec"].clone())
}

/// K8S-71: one pod has no budget, because it would keep its node from being drained.
#[test]
fn more_than_one_pod_has_a_disruption_budget() -> anyhow::Result<()> {
    for (component, one, two) in [
        (
            "pool",
            vec![POSTGRES],
            vec![POSTGRES, "pool.replicaCount=2"],
        ),
        ("pool", vec![], SCALED.to_vec()),
        ("operator", vec![], vec!["operator.replicaCount=2"]),
    ] {
        let name = format!("minichat-{component}");
        assert_eq!(budget(&render(&one)?, &name), Value::Null);
        let rendered = render(&two)?;
        let found = budget(&rendered, &name);
        assert_eq!(found["maxUnavailable"], 1);
        assert_eq!(found["unhealthyPodEvictionPolicy"], "AlwaysAllow");
        assert_eq!(
            found["selector"],
            rendered.get("Deployment", &name)?["spec"]["selector"]
        );

        let of = |field: &str| format!("{component}.podDisruptionBudget{field}");
        let least = [of(".minAvailable=50%"), of(".maxUnavailable=null")];
        let least = [&two[..], &[least[0].as_str(), &least[1]]].concat();
        let found = budget(&render(&least)?, &name);
        assert_eq!(
            (&found["minAvailable"], &found["maxUnavailable"]),
            (&json!("50%"), &Value::Null)
        );
        let none = of("=null");
        assert_eq!(
            budget(&render(&[&two[..], &[&none]].concat())?, &name),
            Value::Null
        );
        let refused = render(&[&two[..], &least[two.len()..=two.len()]].concat()).unwrap_err();
        let words = format!(
            "{}: minAvailable and maxUnavailable exclude each other",
            of("")
        );
        assert!(refused.to_string().contains(&words), "{refused}");
    }
    Ok(())
}

/// PLAT-152: `max_conns` and one that listens for each process; two generations of pods during an update.
#[test]
fn values_that_need_more_connections_than_postgres_has_are_refused() -> anyhow::Result<()> {
    for (settings, needed) in [
        (vec!["pool.replicaCount=3"], (2 * 3 + 2) * 11),
        (
            vec!["pool.replicaCount=3", "pool.config.database.max_conns=4"],
            (2 * 3 + 2) * 5,
        ),
        (
            vec!["pool.replicaCount=3", "pool.strategy.type=Recreate"],
            (3 + 2) * 11,
        ),
        (vec!["pool.autoscaling.enabled=true"], (2 * 10 + 2) * 11),
        (vec!["migration.mode=Job"], (2 + 3) * 11),
        (
            vec!["pool.config.cleanup_worker.enabled=false"],
            (2 + 1) * 11,
        ),
    ] {
        let with = |limit: i32| {
            let limit = format!("database.maxConnections={limit}");
            render(&[&[POSTGRES, &limit], &settings[..]].concat())
        };
        with(needed)?;
        let refused = with(needed - 1).unwrap_err().to_string();
        let words = format!(
            "database.maxConnections: {} connections are not enough",
            needed - 1
        );
        assert!(refused.contains(&words), "{refused}");
        assert!(
            refused.contains(&format!("could need {needed}")),
            "{refused}"
        );
    }
    // On SQLite there is no server.
    render(&["database.maxConnections=1"])?;
    Ok(())
}
