//! Files in messages: which are refused, how images reach the provider, and what
//! becomes of them when a turn is replaced.

use anyhow::{Context as _, ensure};
use minichat_core::ErrorCode;
use minichat_tests::client::{Answer, Api};
use minichat_tests::database::Database;
use minichat_tests::exposition::Scrape;
use minichat_tests::harness::{Env, Scene};
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use minichat_tests::sent_files::StoredFile;
use minichat_tests::sse::Events;
use serde_json::{Value, json};
use uuid::Uuid;

/// A tenant whose models see images.
async fn seeing_scene(env: &Env) -> anyhow::Result<Scene> {
    env.scene_with(|mut tenant| {
        for model in ["prem", "std"] {
            tenant.model(model)["multimodalCapabilities"] = json!(["VISION_INPUT"]);
        }
        tenant
    })
    .await
}

/// A message with `files` in this order.
fn message<'a>(content: &str, files: impl IntoIterator<Item = &'a StoredFile>) -> Value {
    let ids: Vec<_> = files.into_iter().map(|file| file.id).collect();
    json!({"content": content, "attachment_ids": ids})
}

async fn images(count: usize, chat: &str, database: &Database) -> anyhow::Result<Vec<StoredFile>> {
    let mut images = Vec::new();
    for _ in 0..count {
        images.push(StoredFile::image(chat).insert(database).await?);
    }
    Ok(images)
}

async fn sent(user: &Api, chat: &str, body: &Value) -> anyhow::Result<Events> {
    let events = user.open(chat, body).await?.collect().await?;
    events.only("done")?;
    Ok(events)
}

fn request_id(events: &Events) -> anyhow::Result<String> {
    let id = events.only("stream_started")?["request_id"].clone();
    Ok(id.as_str().context("no request_id")?.to_owned())
}

/// The ids of the images in each message of the newest request.
fn image_ids(provider: &ScriptedProvider) -> Vec<Vec<String>> {
    let body = provider.requests().pop().map(|request| request.body);
    let input = body.unwrap_or_default()["input"].clone();
    let parts = |message: &Value| message["content"].as_array().cloned().unwrap_or_default();
    let ids = |message: &Value| {
        let images = parts(message)
            .into_iter()
            .filter(|part| part["type"] == "input_image");
        let ids = images.filter_map(|part| part["file_id"].as_str().map(str::to_owned));
        ids.collect()
    };
    input.as_array().into_iter().flatten().map(ids).collect()
}

fn file_ids<'a>(files: impl IntoIterator<Item = &'a StoredFile>) -> Vec<String> {
    files.into_iter().map(|file| file.file_id.clone()).collect()
}

/// Number of turns with images, and of their images.
fn counted(scrape: &Scrape) -> anyhow::Result<[usize; 2]> {
    let of = |part| scrape.count(&format!("mini_chat_image_inputs_per_turn_{part}"), &[]);
    Ok([of("count")?, of("sum")?])
}

fn check(answer: &Answer, code: ErrorCode) -> anyhow::Result<()> {
    answer.problem(code.http_status(), code.token()).map(drop)
}

/// A refusal of images says where they were named.
fn check_field(answer: &Answer, code: ErrorCode) -> anyhow::Result<()> {
    let is_of_images = matches!(
        code,
        ErrorCode::TooManyImages | ErrorCode::ImagesDisabled | ErrorCode::UnsupportedMedia
    );
    let problem = answer.problem(code.http_status(), code.token())?;
    let field = &problem["errors"][0]["field"];
    ensure!(!is_of_images || field == "attachment_ids", "{problem}");
    Ok(())
}

/// The files of each message of the chat.
async fn listed(user: &Api, chat: &str) -> anyhow::Result<Vec<Vec<Value>>> {
    let messages = user.messages(chat).await?;
    let files = |message: &Value| message["attachments"].as_array().cloned();
    let files: Option<Vec<_>> = messages.iter().map(files).collect();
    files.context("a message without attachments")
}

/// Applies `change` to the tenant while it is served.
async fn reconfigured(scene: &Scene, change: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
    let mut tenant = scene.tenant.clone();
    change(tenant.spec());
    scene.stack.apply(&tenant).await
}

on_each_database! {
    /// API-60, CONT-2, CONT-6, CONT-7, CONT-31, CONT-71, CONT-72, QUOTA-35, QUOTA-38,
    /// QUOTA-39, QUOTA-76, PLAT-83, TURN-11, TURN-65
    async fn images_are_sent_once_in_their_order(env) {
        let scene = seeing_scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let database = scene.database();
        let images = images(2, &chat, database).await?;
        let document = StoredFile::document(&chat).insert(database).await?;
        images[0].add_thumbnail(database).await?;
        let order = [&images[1], &document, &images[0]];

        let body = message(&"x".repeat(4000), order);
        let request = request_id(&sent(&user, &chat, &body).await?)?;
        assert_eq!(image_ids(&scene.provider), [file_ids([&images[1], &images[0]])]);
        let parts = &scene.provider.requests()[0].body["input"][0]["content"];
        assert_eq!(parts.as_array().map(Vec::len), Some(3), "{parts}");
        assert_eq!(parts[0]["type"], "input_text");
        assert_eq!(counted(&scene.stack.scrape().await?)?, [1, 2]);
        // 4,000 bytes, two images, and the output.
        let reserve = format!("SELECT reserve_tokens FROM chat_turns WHERE request_id = '{request}'");
        assert_eq!(database.number(&reserve).await?, 1210 + 2000 + 1000);

        let audited = &database.payloads("mini-chat.audit").await?[0]["attachments"];
        let audited_of = |file: &StoredFile| {
            let mut entry = json!({"attachment_id": file.id, "attachment_kind": file.kind,
                "content_type": "image/png", "size_bytes": 7});
            if file.kind == "image" {
                entry["image_used_in_turn"] = json!(true);
            }
            entry
        };
        assert_eq!(*audited, json!(order.map(audited_of)));

        let expected: Vec<_> = order.iter().map(|file| {
            let mut entry = json!({"attachment_id": file.id, "kind": file.kind,
                "filename": file.filename(), "status": "ready"});
            if file.id == images[0].id {
                entry["img_thumbnail"] = json!({"content_type": "image/webp", "width": 128,
                    "height": 64, "data_base64": "aGk="});
            }
            entry
        }).collect();
        assert_eq!(listed(&user, &chat).await?, [expected.clone(), vec![]]);
        let of_one = format!("/chats/{chat}/messages?$filter=role%20eq%20'user'");
        let page = user.get(&of_one).await?.expect(200)?;
        assert_eq!(page["items"][0]["attachments"], json!(expected));

        sent(&user, &chat, &json!({"content": "and now?"})).await?;
        assert_eq!(image_ids(&scene.provider), [vec![], Vec::<String>::new(), vec![]]);
        // A document is no input of the turn.
        sent(&user, &chat, &message("this one", [&document])).await?;
        assert!(image_ids(&scene.provider).iter().all(Vec::is_empty));
        assert_eq!(counted(&scene.stack.scrape().await?)?, [1, 2]);
        assert_eq!(listed(&user, &chat).await?.len(), 6);
    }

    /// API-64, API-65, API-67, CONT-70, TURN-9, TURN-10, TURN-11: nothing is written, and the provider
    /// is not called.
    async fn a_file_that_cannot_be_sent_refuses_its_message(env) {
        let scene = seeing_scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let other_chat = user.create_chat(None).await?;
        let database = scene.database();
        let good = StoredFile::image(&chat).insert(database).await?;
        let mut refused = vec![
            vec![good.id, good.id],
            vec![good.id, Uuid::new_v4()],
            vec![StoredFile::image(&other_chat).insert(database).await?.id],
        ];
        for status in ["pending", "uploaded", "failed"] {
            let file = StoredFile { status, ..StoredFile::document(&chat) };
            refused.push(vec![good.id, file.insert(database).await?.id]);
        }
        let deleted = StoredFile::image(&chat).insert(database).await?;
        deleted.delete(database).await?;
        refused.push(vec![deleted.id]);
        let foreign = StoredFile::image(&chat).insert(database).await?;
        let stranger = Uuid::new_v4();
        foreign.set(database, &format!("uploaded_by_user_id = '{stranger}'")).await?;
        refused.push(vec![foreign.id]);
        let of_other_tenant = StoredFile::image(&chat).insert(database).await?;
        of_other_tenant.set(database, &format!("tenant_id = '{}'", Uuid::new_v4())).await?;
        refused.push(vec![of_other_tenant.id]);
        let unknown_to_provider = StoredFile::image(&chat).insert(database).await?;
        unknown_to_provider.set(database, "provider_file_id = NULL").await?;
        refused.push(vec![unknown_to_provider.id]);

        for ids in refused {
            let body = json!({"content": "look", "attachment_ids": ids});
            let answer = user.refused(&chat, &body).await?;
            let problem = answer.problem(400, "invalid_attachment")?;
            let detail = problem["detail"].to_string();
            // Each time it is the last one.
            let last = ids.len() - 1;
            assert!(detail.contains(&ids[last].to_string()), "{detail}");
            assert!(!detail.contains("file-"), "{detail}");
            assert_eq!(problem["errors"][0]["field"], format!("attachment_ids[{last}]"));
        }
        // However many they are, not one of them is looked up.
        let many: Vec<_> = std::iter::repeat_with(Uuid::new_v4).take(10_000).collect();
        for (ids, field) in [
            (json!(many), "attachment_ids"),
            (json!(vec![good.id; 21]), "attachment_ids"),
            (json!([good.id, "../../other"]), "attachment_ids[1]"),
            (json!([good.id, null]), "attachment_ids[1]"),
            (json!([good.id, [good.id]]), "attachment_ids[1]"),
            (json!(good.id), "attachment_ids"),
        ] {
            let answer = user.refused(&chat, &json!({"content": "look", "attachment_ids": ids})).await?;
            let problem = answer.problem(400, "invalid_request")?;
            assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        }
        assert_eq!(database.number("SELECT count(*) FROM message_attachments").await?, 0);
        scene.check_nothing_written().await?;
        assert_eq!(counted(&scene.stack.scrape().await?)?, [0, 0]);
        // What refused them was the files alone.
        let mut body = message("look", [&good]);
        body["request_id"] = json!(Uuid::new_v4());
        sent(&user, &chat, &body).await?;
        // A replay compares no files.
        body["attachment_ids"] = json!([deleted.id, deleted.id]);
        let replayed = sent(&user, &chat, &body).await?;
        assert_eq!(replayed.only("stream_started")?["is_new_turn"], false);
    }

    /// API-64, CONT-9, CONT-71, CONT-101, QUOTA-18, QUOTA-22, QUOTA-44, TURN-9: of several
    /// reasons the first one is answered. Too many images are no decision about the
    /// quota; later refusals come after one.
    async fn images_are_refused_in_the_order_of_the_checks(env) {
        let scene = env.scene_with(|mut tenant| {
            let model = tenant.model("std");
            model["contextWindow"] = json!(4000);
            model["estimationBudgets"] = json!({"imageTokenBudget": 1500});
            model["multimodalCapabilities"] = json!(["VISION_INPUT"]);
            tenant.spec()["killSwitches"] = json!({"disableWebSearch": true});
            tenant.spec()["images"] = json!({"maxPerMessage": 3});
            tenant
        }).await?;
        let user = scene.new_user()?;
        let [blind, seeing] = [Some("prem"), Some("std")];
        let blind = user.create_chat(blind).await?;
        let seeing = user.create_chat(seeing).await?;
        let database = scene.database();
        let of_blind = images(4, &blind, database).await?;
        let of_seeing = images(4, &seeing, database).await?;
        let preflights = async || {
            let scrape = scene.stack.scrape().await?;
            scrape.count("mini_chat_quota_preflight_total", &[])
        };
        let mut counts = Vec::new();
        let mut searching = message("look", &of_blind);
        searching["web_search"] = json!({"enabled": true});
        let mut unknown = message("look", &of_blind[..1]);
        unknown["attachment_ids"] = json!([of_blind[0].id, Uuid::new_v4()]);
        let long = message(&"x".repeat(480_000), &of_blind[..1]);
        for (chat, body, code) in [
            (&blind, &searching, ErrorCode::TooManyImages),
            (&blind, &message("look", &of_blind), ErrorCode::TooManyImages),
            (&blind, &long, ErrorCode::InputTooLong),
            (&blind, &unknown, ErrorCode::UnsupportedMedia),
            (&seeing, &message("look", &of_seeing[..3]), ErrorCode::ContextBudgetExceeded),
        ] {
            let answer = user.refused(chat, body).await?;
            check(&answer, code)?;
            check_field(&answer, code)?;
            counts.push(preflights().await?);
        }
        assert_eq!(counts, [0, 0, 1, 2, 3]);

        reconfigured(&scene, |spec| {
            spec["killSwitches"] = json!({"disableImages": true});
        }).await?;
        let answer = user.refused(&blind, &unknown).await?;
        check(&answer, ErrorCode::ImagesDisabled)?;
        check_field(&answer, ErrorCode::ImagesDisabled)?;
        check(&user.refused(&blind, &long).await?, ErrorCode::InputTooLong)?;
        assert_eq!(counted(&scene.stack.scrape().await?)?, [0, 0]);
        scene.check_nothing_written().await?;
        sent(&user, &blind, &json!({"content": "without them"})).await?;
    }

    /// API-60, API-107: a page has room for eight of these thumbnails. Each message gets
    /// its share, and the others are shown by their files.
    async fn a_page_has_room_for_some_thumbnails(env) {
        let scene = seeing_scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let database = scene.database();
        let bytes = match database {
            Database::Sqlite(_) => "zeroblob(131072)",
            Database::Postgres(_) => "decode(repeat('00', 131072), 'hex')",
        };
        let mut files = Vec::new();
        for _ in 0..3 {
            let images = images(4, &chat, database).await?;
            for image in &images {
                let columns = format!(
                    "img_thumbnail = {bytes}, img_thumbnail_width = 128, img_thumbnail_height = 128"
                );
                image.set(database, &columns).await?;
            }
            sent(&user, &chat, &message("look", &images)).await?;
            files.push(images);
        }
        let listed = listed(&user, &chat).await?;
        let listed: Vec<_> = listed.iter().filter(|files| !files.is_empty()).collect();
        assert_eq!(listed.len(), 3);
        for (message, shown) in listed.iter().zip([3, 3, 2]) {
            for (nth, file) in message.iter().enumerate() {
                let is_shown = file.get("img_thumbnail").is_some();
                assert_eq!(is_shown, nth < shown, "{nth} of {shown}");
                let omitted = (!is_shown).then_some(json!(true));
                assert_eq!(file.get("img_thumbnail_omitted"), omitted.as_ref());
            }
        }
        let omitted = &files[2][3];
        let file = user.get(&format!("/chats/{chat}/attachments/{}", omitted.id)).await?.expect(200)?;
        let data = file["img_thumbnail"]["data_base64"].as_str().map(str::len);
        assert_eq!(data, Some(131_072_usize.div_ceil(3) * 4));
    }

    /// API-72, API-73, CONT-12, CONT-71, TURN-55: links of files that are not deleted
    /// are copied, and their images are sent again and counted again.
    async fn whatever_replaces_a_turn_keeps_its_files(env) {
        let scene = seeing_scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let database = scene.database();
        let images = images(3, &chat, database).await?;
        let document = StoredFile::document(&chat).insert(database).await?;
        let order = [&images[2], &document, &images[0], &images[1]];
        let mut turn = request_id(&sent(&user, &chat, &message("look", order)).await?)?;
        let links = "SELECT count(*) FROM message_attachments";
        assert_eq!(database.number(links).await?, 4);

        let events = user.open_retry(&chat, &turn).await?.collect().await?;
        turn = request_id(&events)?;
        let all = file_ids([&images[2], &images[0], &images[1]]);
        assert_eq!(image_ids(&scene.provider), [all]);
        assert_eq!(database.number(links).await?, 8);

        images[0].delete(database).await?;
        let events = user.open_edit(&chat, &turn, "look here").await?.collect().await?;
        turn = request_id(&events)?;
        let left = [&images[2], &document, &images[1]];
        assert_eq!(image_ids(&scene.provider), [file_ids([left[0], left[2]])]);
        assert_eq!(counted(&scene.stack.scrape().await?)?, [3, 3 + 3 + 2]);
        let listed = listed(&user, &chat).await?;
        let ids: Vec<_> = listed[0].iter().map(|file| file["attachment_id"].clone()).collect();
        assert_eq!(ids, left.map(|file| json!(file.id)));
        // The old messages keep their links.
        assert_eq!(database.number(links).await?, 11);

        // An image that is not ready any more is linked, but not sent.
        images[1].set(database, "status = 'failed'").await?;
        let events = user.open_retry(&chat, &turn).await?.collect().await?;
        turn = request_id(&events)?;
        assert_eq!(image_ids(&scene.provider), [file_ids([left[0]])]);
        assert_eq!(database.number(links).await?, 14);

        // A refused retry leaves the turn as it is.
        reconfigured(&scene, |spec| {
            spec["killSwitches"] = json!({"disableImages": true});
        }).await?;
        check(&user.retry(&chat, &turn).await?, ErrorCode::ImagesDisabled)?;
        check(&user.edit(&chat, &turn, "look").await?, ErrorCode::ImagesDisabled)?;
        assert_eq!(user.turn(&chat, &turn).await?["state"], "done");
        assert_eq!(user.messages(&chat).await?.len(), 2);
        assert_eq!(database.number(links).await?, 14);

        // A file that is deleted is not shown any more.
        images[2].delete(database).await?;
        let listed = self::listed(&user, &chat).await?;
        let ids: Vec<_> = listed[0].iter().map(|file| file["attachment_id"].clone()).collect();
        assert_eq!(ids, [&document, &images[1]].map(|file| json!(file.id)));
    }

    /// CONT-70, CONT-73: a message and the deletion of its file begin at the same
    /// time. One of them wins, and the other one is told.
    async fn no_message_has_a_file_that_was_deleted(env) {
        let scene = seeing_scene(&env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let database = scene.database();
        let mut wins = [0, 0];
        for round in 0..60 {
            let file = StoredFile::image(&chat).insert(database).await?;
            let path = format!("/chats/{chat}/attachments/{}", file.id);
            let body = message("look", [&file]);
            let (sent, deleted) = if round % 2 == 0 {
                tokio::join!(user.refused(&chat, &body), user.delete(&path))
            } else {
                let (deleted, sent) = tokio::join!(user.delete(&path), user.refused(&chat, &body));
                (sent, deleted)
            };
            let (sent, deleted) = (sent?, deleted?);
            let is_sent = sent.status == 200;
            wins[usize::from(is_sent)] += 1;
            if is_sent {
                check(&deleted, ErrorCode::AttachmentLocked)?;
            } else {
                check(&sent, ErrorCode::InvalidAttachment)?;
                deleted.expect(204)?;
            }
        }
        let wrong = "SELECT count(*) FROM message_attachments l \
            JOIN attachments a ON a.id = l.attachment_id WHERE a.deleted_at IS NOT NULL";
        assert_eq!(database.number(wrong).await?, 0);
        assert!(wins[0] > 0 && wins[1] > 0, "{wins:?}");
        let links = "SELECT count(*) FROM message_attachments";
        assert_eq!(database.number(links).await?, wins[1]);
    }

    /// CONT-30, CONT-38: ids of files mean nothing to another provider.
    async fn an_image_goes_nowhere_but_to_its_storage(env) {
        let second = ScriptedProvider::start().await?;
        let scene = env.scene_with(|mut tenant| {
            let mut first = tenant.spec()["providers"][0].clone();
            let mut entry = first.clone();
            first["storage"] = json!({"kind": "OpenAI", "backend": "files"});
            entry["name"] = json!("second");
            entry["baseUrl"] = json!(format!("http://{}", second.addr));
            tenant.spec()["providers"] = json!([first, entry]);
            tenant.model("std")["providerRef"] = json!("second");
            for model in ["prem", "std"] {
                tenant.model(model)["multimodalCapabilities"] = json!(["VISION_INPUT"]);
            }
            tenant
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("prem")).await?;
        let database = scene.database();
        let image = StoredFile { backend: "files", ..StoredFile::image(&chat) };
        let image = image.insert(database).await?;
        // From the time before the storage got its label.
        let older = StoredFile::image(&chat).insert(database).await?;
        let lost = StoredFile { backend: "gone", ..StoredFile::image(&chat) };
        let lost = lost.insert(database).await?;
        let body = message("look", [&image, &older]);
        sent(&user, &chat, &body).await?;
        assert_eq!(image_ids(&scene.provider), [file_ids([&image, &older])]);
        let unknown = message("look", [&image, &lost]);
        check(&user.refused(&chat, &unknown).await?, ErrorCode::UnsupportedMedia)?;

        reconfigured(&scene, |spec| {
            spec["killSwitches"] = json!({"forceStandardTier": true});
        }).await?;
        for file in [&image, &older] {
            let answer = user.refused(&chat, &message("look", [file])).await?;
            check(&answer, ErrorCode::UnsupportedMedia)?;
        }
        assert!(second.requests().is_empty());
        let events = sent(&user, &chat, &json!({"content": "without it"})).await?;
        assert_eq!(events.only("done")?["effective_model"], "std");
        let body = second.requests()[0].body.to_string();
        assert!(!body.contains("file-"), "{body}");
    }
}
