//! `minichat-dataplane ask`, the client that the chart's test uses.

use http::HeaderMap;
use minichat_dataplane::ask::{Question, ask, header};
use minichat_tests::harness::Scene;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use uuid::Uuid;

fn question(scene: &Scene, headers: HeaderMap) -> anyhow::Result<Question> {
    Ok(Question {
        url: format!("http://{}/mini-chat/v1", scene.stack.app_addr()).parse()?,
        ca_file: None,
        headers,
        message: "Hello".to_owned(),
    })
}

fn caller_headers(scene: &Scene) -> anyhow::Result<HeaderMap> {
    let tenant = header(&format!("X-Tenant-Id: {}", scene.tenant.id))?;
    let user = header(&format!("X-User-Id: {}", Uuid::new_v4()))?;
    Ok([tenant, user].into_iter().collect())
}

on_each_database! {
    /// K8S-70
    async fn a_question_is_answered_word_by_word(env) {
        let scene = env.scene().await?;
        scene.provider.push_scenario(Scenario::deltas(&["Good ", "morning"], Ending::Completed));
        let mut out = Vec::new();
        ask(&question(&scene, caller_headers(&scene)?)?, &mut out).await?;
        let out = String::from_utf8(out)?;
        assert!(out.starts_with("Good morning\n"), "{out}");
    }

    /// K8S-70
    async fn a_failed_answer_and_a_refusal_are_failures_that_say_why(env) {
        let scene = env.scene().await?;
        scene.provider.push_scenario(Scenario::deltas(&["Good "], Ending::Cut));
        let cut = ask(&question(&scene, caller_headers(&scene)?)?, &mut Vec::new()).await;
        assert!(format!("{:#}", cut.unwrap_err()).contains("ended in an error"));
        let anonymous = ask(&question(&scene, HeaderMap::new())?, &mut Vec::new()).await;
        assert!(format!("{:#}", anonymous.unwrap_err()).contains("401"));
    }
}
