//! Documents in the chat's vector store.

use futures_util::future::{join, join_all};
use minichat_dataplane::cleanup::{Limits, Report};
use minichat_telemetry::Signal;
use minichat_tests::database::DatabaseKind;
use minichat_tests::form::{FormFile, beginning};
use minichat_tests::harness::{Scene, Stack, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{RecordedRequest, Scenario};
use serde_json::json;
use uuid::Uuid;

use super::{counted, rows, scene, scene_with, settled};

const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";

/// For the call that creates a store.
fn for_stores() -> Scenario {
    Scenario {
        for_method: Some("POST".to_owned()),
        ..Scenario::default().for_path("/vector_stores")
    }
}

fn failing(status: u16) -> Scenario {
    Scenario::status(status, json!({"error": {"message": "no"}}))
}

/// The calls that create stores, and those that add files to one.
fn store_calls(scene: &Scene) -> (Vec<RecordedRequest>, Vec<RecordedRequest>) {
    let posts = scene.provider.requests().into_iter();
    let posts = posts.filter(|it| it.method == "POST" && it.path.contains("/vector_stores"));
    posts.partition(|it| !it.path.contains("/files"))
}

/// Provider's label, id and count of files of all stores.
async fn stores(scene: &Scene) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT provider, COALESCE(vector_store_id, '-'), file_count \
        FROM chat_vector_stores ORDER BY created_at, id";
    let rows = scene.database().query(sql).await?;
    let rows = rows.into_iter().map(|row| {
        let values: Vec<_> = row.into_iter().flatten().collect();
        values.join(" ")
    });
    Ok(rows.collect())
}

/// One pass of the clean-up.
async fn pass(scene: &Scene) -> Report {
    let limits = Limits {
        stop: &Signal::new(),
        deadline: tokio::time::Instant::now() + std::time::Duration::from_mins(1),
    };
    scene.stack.cleanup().run_once(limits).await
}

/// Uploads ten first documents of a chat at once, in turn through the scene's
/// process and through `others`. Returns how many became ready; the rest was told
/// to try again.
async fn ten_at_once(scene: &Scene, others: &[&Stack]) -> anyhow::Result<usize> {
    let user = Uuid::new_v4();
    let api = scene.stack.caller(&scene.tenant, user)?;
    let chat = api.create_chat(None).await?;
    let mut callers = vec![api];
    for stack in others {
        callers.push(stack.caller(&scene.tenant, user)?);
    }
    scene.provider.push_scenario(Scenario {
        delay_before_head_ms: 300,
        ..for_stores()
    });
    let text = FormFile::text("a");
    let uploads = (0..10).map(|i| callers[i % callers.len()].upload(&chat, &text));
    let mut ready = 0;
    for answer in join_all(uploads).await {
        let answer = answer?;
        if answer.status.as_u16() == 503 {
            answer.problem(503, "vector_store_timeout")?;
        } else {
            answer.expect(201)?;
            ready += 1;
        }
    }
    assert_eq!(store_calls(scene).0.len(), 1);
    let (_, ids) = scene.provider.stored();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(stores(scene).await?, [format!("main {} {ready}", ids[0])]);
    Ok(ready)
}

/// CONT-61: also if the uploads meet two processes.
#[test]
fn two_processes_create_one_store() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let scene = env.scene().await?;
        let other = env.serve(&[&scene.tenant]).await?;
        assert!(ten_at_once(&scene, &[&other]).await? > 0);
        Ok(())
    })
}

/// CONT-61: the place of a store whose commit is acknowledged to nobody is still that of
/// the upload that reserved it, also if the database is away for a moment.
#[test]
fn a_place_whose_commit_was_lost_is_used_at_once() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let user = scene.new_user()?;
        for goes_down in [false, true] {
            let chat = user.create_chat(None).await?;
            scene.provider.push_scenario(Scenario {
                hold_before_head: true,
                ..super::for_files()
            });
            let before = super::files(&scene).len();
            let text = FormFile::text("a");
            let failure = async {
                let is_sent = async || Ok(super::files(&scene).len() > before);
                scene.stack.eventually("sent", is_sent).await?;
                // One commit says that the provider has the file.
                proxy.let_commits_pass(1);
                let refused = proxy.turned_away();
                if goes_down {
                    proxy.go_down_with_the_next_commit();
                } else {
                    proxy.lose_the_next_commit();
                }
                scene.provider.release(1);
                if goes_down {
                    let is_down = async || Ok(proxy.turned_away() > refused);
                    scene.stack.eventually("down", is_down).await?;
                    proxy.set_down(false);
                }
                anyhow::Ok(())
            };
            let (answer, failed) = join(user.upload(&chat, &text), failure).await;
            failed?;
            answer?.expect(201)?;
            assert!(!proxy.is_waiting(), "no commit was lost");
            user.upload(&chat, &text).await?.expect(201)?;
        }
        let ids = scene.provider.stored().1;
        assert_eq!(ids.len(), 2, "{ids:?}");
        assert_eq!(store_calls(&scene).0.len(), 2);
        let expected: Vec<_> = ids.iter().map(|id| format!("main {id} 2")).collect();
        assert_eq!(stores(&scene).await?, expected);
        Ok(())
    })
}

/// How often the provider was asked to delete a file.
fn deleted_files(scene: &Scene) -> usize {
    let requests = scene.provider.requests().into_iter();
    requests
        .filter(|request| request.method == "DELETE" && request.path.starts_with("/v1/files/"))
        .count()
}

on_each_database! {
    /// CONT-59, CONT-61, CONT-62, PLAT-19; checks 19, 21 and 23 of chapter 04
    async fn documents_of_a_chat_share_a_store_and_other_files_have_none(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let xlsx = FormFile::new("a.xlsx", XLSX, beginning(b"PK\x03\x04", 40));
        for file in [FormFile::png(100), xlsx] {
            user.upload(&chat, &file).await?.expect(201)?;
        }
        assert!(scene.provider.stored().1.is_empty() && stores(&scene).await?.is_empty());

        let mut ids = Vec::new();
        for _ in 0..2 {
            let answer = user.upload(&chat, &FormFile::text("a")).await?;
            let file = answer.expect(201)?;
            ids.push(file["id"].clone());
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!text.contains("vs_mock") && !text.contains("file-mock"), "{text}");
        }
        let (created, added) = store_calls(&scene);
        assert_eq!((created.len(), &created[0].body), (1, &json!({})));
        let store = scene.provider.stored().1.remove(0);
        assert_eq!(stores(&scene).await?, [format!("main {store} 2")]);
        assert_eq!(added.len(), 2);
        for (call, id) in added.iter().zip(&ids) {
            assert_eq!(call.path, format!("/v1/vector_stores/{store}/files"));
            assert_eq!(call.body["attributes"], json!({"attachment_id": id}));
            let file = call.body["file_id"].as_str().unwrap_or_default();
            assert!(scene.provider.file(file).is_some(), "{file}");
        }

        // Another chat has another store.
        let chat = user.create_chat(None).await?;
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
        assert_eq!(scene.provider.stored().1.len(), 2);
    }

    /// CONT-61; check 21 of chapter 04
    async fn of_uploads_at_once_one_creates_the_store(env) {
        let scene = scene(&env).await?;
        assert_eq!(ten_at_once(&scene, &[]).await?, 10);
    }

    /// API-104, CONT-60, CONT-61, CONT-63, CONT-64; check 32 of chapter 04
    async fn a_store_that_is_not_created_leaves_no_placeholder(env) {
        let scene = scene_with(&env, "", |tenant| {
            tenant.spec()["providers"][0]["timeouts"] = json!({"firstByteSeconds": 1});
        })
        .await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        let of_stores = |scenario: Scenario| Scenario {
            for_method: Some("POST".to_owned()),
            ..scenario.for_path("/vector_stores")
        };
        for (scenario, status, code) in [
            (of_stores(failing(500)), 502, "provider_error"),
            (of_stores(Scenario::raw("{\"id\": \"x/../y\"}")), 502, "provider_error"),
            (Scenario { drop_connection: true, ..for_stores() }, 502, "provider_error"),
            (Scenario { hold_before_head: true, ..for_stores() }, 504, "provider_timeout"),
        ] {
            scene.provider.push_scenario(scenario);
            user.upload(&chat, &FormFile::text("a")).await?.problem(status, code)?;
            assert!(stores(&scene).await?.is_empty(), "{status}");
        }
        scene.provider.release(1);
        assert_eq!(rows(&scene).await?, ["failed vector_store_failed pending"; 4]);
        assert_eq!(counted(&scene, &before).await?, [("document/provider_error".to_owned(), 4.0)]);
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
        settled(&scene).await?;
    }

    /// CONT-60, CONT-63, CONT-64; check 31 of chapter 04
    async fn a_file_that_cannot_be_added_is_left_to_the_clean_up(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
        let store = scene.provider.stored().1.remove(0);
        let path = format!("/vector_stores/{store}/files");
        scene.provider.push_scenario(failing(500).for_path(&path));
        let failed = user.upload(&chat, &FormFile::text("a")).await?;
        failed.problem(502, "provider_error")?;
        assert_eq!(rows(&scene).await?, ["ready - -", "failed indexing_failed pending"]);
        let due = "SELECT provider_file_id FROM attachments WHERE cleanup_status = 'pending'";
        let due = scene.database().query(due).await?;
        let due = due[0][0].clone().unwrap_or_default();
        assert!(scene.provider.file(&due).is_some());
        assert_eq!(stores(&scene).await?, [format!("main {store} 1")]);
    }

    /// API-31, CONT-61: who waits too long is told when to try again, and gives up when
    /// the creator fails.
    async fn those_who_wait_for_a_store_never_create_one(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        for fails in [false, true] {
            let chat = user.create_chat(None).await?;
            scene.provider.push_scenario(Scenario {
                hold_before_head: true,
                ..if fails {
                    Scenario { status: 500, body: Some(json!({})), ..for_stores() }
                } else {
                    for_stores()
                }
            });
            let text = FormFile::text("a");
            let creator = user.upload(&chat, &text);
            let waiter = async {
                let taken = "SELECT count(*) FROM chat_vector_stores WHERE vector_store_id IS NULL";
                let is_taken = async || Ok(scene.database().number(taken).await? == 1);
                scene.stack.eventually("taken", is_taken).await?;
                let waiter = user.upload(&chat, &text);
                if fails {
                    let release = async {
                        let uploaded = "SELECT count(*) FROM attachments WHERE status = 'uploaded'";
                        let is_waiting = async || Ok(scene.database().number(uploaded).await? == 2);
                        scene.stack.eventually("waiting", is_waiting).await?;
                        scene.provider.release(1);
                        anyhow::Ok(())
                    };
                    let (answer, released) = join(waiter, release).await;
                    released?;
                    // It may also have come so late that it created the store.
                    let answer = answer?;
                    if answer.status.as_u16() != 201 {
                        answer.problem(502, "provider_error")?;
                    }
                } else {
                    let answer = waiter.await?;
                    answer.problem(503, "vector_store_timeout")?;
                    assert_eq!(answer.header("retry-after"), "3");
                    scene.provider.release(1);
                }
                anyhow::Ok(())
            };
            let (created, waited) = join(creator, waiter).await;
            waited?;
            if fails {
                created?.problem(502, "provider_error")?;
            } else {
                created?.expect(201)?;
                assert_eq!(scene.provider.stored().1.len(), 1);
            }
        }
    }

    /// CONT-38, CONT-61
    async fn documents_do_not_go_to_another_provider_than_the_chats(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
        for id in ["vector_store_id", "NULL"] {
            let sql = format!("UPDATE chat_vector_stores SET provider = 'other', vector_store_id = {id}");
            scene.database().query(&sql).await?;
            let refused = user.upload(&chat, &FormFile::text("a")).await?;
            refused.problem(409, "provider_mismatch")?;
        }
        let failed = "failed vector_store_failed pending";
        assert_eq!(rows(&scene).await?, ["ready - -", failed, failed]);
        assert_eq!(store_calls(&scene).0.len(), 1);
    }

    /// CONT-38, CONT-61, CONT-167: a storage that gets a label is still the same; one that
    /// is another one, or is nowhere, keeps documents out of the chat and nothing else.
    async fn documents_follow_their_storage_to_its_new_label(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
        let store = scene.provider.stored().1.remove(0);
        let mut tenant = scene.tenant.clone();
        let storage = |tenant: &mut Tenant, backend: &str| {
            let storage = json!({"kind": "OpenAI", "backend": backend});
            tenant.spec()["providers"][0]["storage"] = storage;
        };
        storage(&mut tenant, "files");
        scene.stack.apply(&tenant).await?;
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
        assert_eq!(stores(&scene).await?, [format!("main {store} 2")], "it keeps its label");
        assert_eq!(store_calls(&scene).0.len(), 1);

        let fresh = user.create_chat(None).await?;
        user.upload(&fresh, &FormFile::text("a")).await?.expect(201)?;
        // Nothing says that this is the storage that was called `files`.
        storage(&mut tenant, "other");
        scene.stack.apply(&tenant).await?;
        user.upload(&chat, &FormFile::text("a")).await?.expect(201)?;
        let refused = user.upload(&fresh, &FormFile::text("a")).await?;
        refused.problem(409, "provider_mismatch")?;
        user.upload(&fresh, &FormFile::png(100)).await?.expect(201)?;
        storage(&mut tenant, "files");
        scene.stack.apply(&tenant).await?;
        user.upload(&fresh, &FormFile::text("a")).await?.expect(201)?;
    }

    /// CONT-64, CONT-165: a document that gets into the store after the clean-up has taken
    /// it out is taken out again, whether the clean-up was done with it or still at work.
    async fn a_document_deleted_on_its_way_into_the_store_does_not_stay_there(env) {
        let scene = scene_with(&env, "MINICHAT_CLEANUP_WORKER_ENABLED=false", |_| {}).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.upload(&chat, &FormFile::text("kept")).await?.expect(201)?;
        let kept = scene.provider.indexed();
        assert_eq!(kept.len(), 1);
        for (additions, is_at_work) in [(2, false), (3, true)] {
            let held = Scenario { hold_before_head: true, ..for_stores().for_path("/vector_stores/") };
            scene.provider.push_scenario(held);
            let text = FormFile::text("deleted");
            let upload = user.upload(&chat, &text);
            let deletion = async {
                // The file goes to the provider before it, and is not held.
                let is_asked = async || Ok(store_calls(&scene).1.len() == additions);
                scene.stack.eventually("asked to take the file in", is_asked).await?;
                let id = "SELECT id FROM attachments WHERE status = 'uploaded' AND deleted_at IS NULL";
                let id = scene.database().query(id).await?;
                let id = id[0][0].clone().unwrap_or_default();
                user.delete(&format!("/chats/{chat}/attachments/{id}")).await?.expect(204)?;
                if is_at_work {
                    // It has taken the file out of the store, where it was not, and deletes it.
                    let held = Scenario {
                        hold_before_head: true,
                        for_method: Some("DELETE".to_owned()),
                        ..Scenario::default().for_path("/v1/files/")
                    };
                    let before = deleted_files(&scene);
                    scene.provider.push_scenario(held);
                    let release = async {
                        let is_asked = async || Ok(deleted_files(&scene) > before);
                        scene.stack.eventually("asked to delete the file", is_asked).await?;
                        scene.provider.release(1);
                        settled(&scene).await?;
                        assert_eq!(scene.provider.indexed().len(), 2, "the provider has put it into the store");
                        scene.provider.release(1);
                        anyhow::Ok(())
                    };
                    let (report, released) = join(pass(&scene), release).await;
                    released?;
                    // What it has done is not the end of the document: the next pass finds it.
                    assert_eq!((report.processed, report.completed), (1, 0), "{report:?}");
                    assert_eq!(report.remaining_pending, 1, "{report:?}");
                } else {
                    let report = pass(&scene).await;
                    assert_eq!((report.completed, report.remaining_pending), (1, 0), "{report:?}");
                    scene.provider.release(1);
                }
                anyhow::Ok(())
            };
            let (answer, deleted) = join(upload, deletion).await;
            deleted?;
            answer?.problem(404, "attachment_not_found")?;
            assert_eq!(scene.provider.indexed().len(), 2);
            let report = pass(&scene).await;
            assert_eq!((report.processed, report.remaining_pending), (1, 0), "{report:?}");
            assert_eq!(scene.provider.indexed(), kept);
            assert_eq!(scene.provider.stored().0.len(), 1);
        }
    }

    /// CONT-58, CONT-61, CONT-63, CONT-64: the store of a deleted chat is left to the
    /// clean-up; if that has removed its row, the store is deleted at once.
    async fn a_deletion_of_the_chat_leaves_no_store_behind(env) {
        let scene = scene(&env).await?;
        let user = scene.new_user()?;
        for (creations, is_removed) in [(1, false), (2, true)] {
            let chat = user.create_chat(None).await?;
            scene.provider.push_scenario(Scenario { hold_before_head: true, ..for_stores() });
            let text = FormFile::text("a");
            let upload = user.upload(&chat, &text);
            let deletion = async {
                // The file goes to the provider before it, and is not held.
                let is_asked = async || Ok(store_calls(&scene).0.len() == creations);
                scene.stack.eventually("asked for a store", is_asked).await?;
                user.delete(&format!("/chats/{chat}")).await?.expect(204)?;
                if is_removed {
                    let sql = "DELETE FROM chat_vector_stores WHERE vector_store_id IS NULL";
                    scene.database().query(sql).await?;
                }
                scene.provider.release(1);
                anyhow::Ok(())
            };
            let (answer, deleted) = join(upload, deletion).await;
            deleted?;
            assert_eq!(answer?.status.as_u16(), 404);
            let ids = scene.provider.stored().1;
            assert_eq!(ids.len(), 1, "only that of the first chat is left: {ids:?}");
            assert_eq!(stores(&scene).await?.len(), 1);
        }
        let found = rows(&scene).await?;
        assert!(found.iter().all(|row| row.ends_with(" pending")), "{found:?}");
    }
}
