//! `$filter`, `$orderby`, `$select` and cursors, with the same answers on both
//! databases.

use std::fmt::Write as _;

use minichat_tests::client::Api;
use minichat_tests::on_each_database;
use serde_json::{Value, json};
use uuid::Uuid;

/// `text` as the value of a query parameter.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        let _ = write!(encoded, "%{byte:02X}");
        encoded
    })
}

/// The value of `member` in each item of `path`, filtered by `filter`.
async fn filtered(
    user: &Api,
    path: &str,
    filter: &str,
    member: &str,
) -> anyhow::Result<Vec<Value>> {
    let path = format!("{path}?limit=100&$filter={}", encoded(filter));
    let page = user.get(&path).await?.expect(200)?;
    let items = page["items"].as_array().into_iter().flatten();
    Ok(items.map(|item| item[member].clone()).collect())
}

async fn chats_titled(user: &Api, titles: &[&str]) -> anyhow::Result<()> {
    for title in titles {
        user.post("/chats", &json!({"title": title}))
            .await?
            .expect(201)?;
    }
    Ok(())
}

on_each_database! {
    /// API-45
    async fn titles_are_searched_literally_and_in_any_case(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let titles = ["50% off", "500 off", "a_b", "aXb", "c\\d", "ÄPFEL und Öl", "It's"];
        chats_titled(&user, &titles).await?;
        user.create_chat(None).await?;
        for (filter, found) in [
            ("contains(title,'50%')", &["50% off"][..]),
            ("startswith(title,'50')", &["50% off", "500 off"]),
            ("endswith(title,'OFF')", &["50% off", "500 off"]),
            ("contains(title,'A_B')", &["a_b"]),
            ("contains(title,'\\')", &["c\\d"]),
            ("contains(title,'äpfel')", &["ÄPFEL und Öl"]),
            ("endswith(title,'öL')", &["ÄPFEL und Öl"]),
            ("startswith(title,'Äpfel und öl und')", &[]),
            ("endswith(title,'x äpfel und öl')", &[]),
            ("title eq 'it''s'", &[]),
            ("title eq 'It''s'", &["It's"]),
            ("title in ('a_b','aXb','nothing')", &["a_b", "aXb"]),
            ("contains(title,'off') and not contains(title,'%')", &["500 off"]),
            ("title eq 'a_b' or title eq 'aXb' and title eq 'It''s'", &["a_b"]),
            ("(title eq 'a_b' or title eq 'aXb') and title eq 'It''s'", &[]),
        ] {
            let mut found: Vec<_> = found.iter().map(|title| json!(title)).collect();
            found.reverse();
            assert_eq!(filtered(&user, "/chats", filter, "title").await?, found, "{filter}");
        }
        // A chat without a title differs from every text.
        for (filter, count) in [
            ("title eq null", 1),
            ("title ne null", 7),
            ("title ne 'a_b'", 7),
            ("not contains(title,'off')", 6),
            ("contains(title,'')", 7),
        ] {
            let found = filtered(&user, "/chats", filter, "id").await?;
            assert_eq!(found.len(), count, "{filter}");
        }
    }

    /// API-45, API-61
    async fn ids_instants_and_roles_choose_their_rows(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.say(&chat, "PING").await?;
        let path = format!("/chats/{chat}/messages");
        let messages = user.messages(&chat).await?;
        let member = |index: usize, name: &str| messages[index][name].as_str().unwrap_or_default();
        let (question, answer) = (member(0, "id"), member(1, "id"));
        let (sent, answered) = (member(0, "created_at"), member(1, "created_at"));
        for (filter, found) in [
            ("role eq 'assistant'".to_owned(), &[answer][..]),
            ("not (role eq 'user')".to_owned(), &[answer]),
            ("role in ('user','system')".to_owned(), &[question]),
            ("role ne 'system'".to_owned(), &[question, answer]),
            (format!("id eq {answer}"), &[answer]),
            (format!("ID eq '{}'", answer.to_uppercase()), &[answer]),
            (format!("id ne {answer}"), &[question]),
            (format!("id in ({answer},{question})"), &[question, answer]),
            (format!("created_at gt {sent}"), &[answer]),
            (format!("created_at ge {sent}"), &[question, answer]),
            (format!("created_at lt {answered}"), &[question]),
            (format!("created_at le {answered} and created_at ne {sent}"), &[answer]),
            (format!("created_at in ({sent})"), &[question]),
            (format!("created_at eq {answered}"), &[answer]),
        ] {
            assert_eq!(filtered(&user, &path, &filter, "id").await?, found, "{filter}");
        }
        for (order, found) in [
            ("created_at desc", [answer, question]),
            ("created_at", [question, answer]),
            ("Created_At asc, id desc", [question, answer]),
        ] {
            let path = format!("{path}?$orderby={}", encoded(order));
            let page = user.get(&path).await?.expect(200)?;
            let ids = [&page["items"][0]["id"], &page["items"][1]["id"]];
            assert_eq!(ids, found, "{order}");
        }
        let none = format!("/chats/{}/messages", Uuid::new_v4());
        let none = format!("{none}?$filter={}", encoded("role eq 'user'"));
        user.get(&none).await?.problem(404, "chat_not_found")?;
    }

    /// API-42, API-43, API-44
    async fn every_order_is_walked_both_ways_with_its_filter(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for number in 0..7 {
            chats_titled(&user, &[&format!("chat {}", number % 2)]).await?;
        }
        // Equal instants leave the order to the ids.
        scene.database().query("UPDATE chats SET updated_at = (SELECT min(updated_at) FROM chats)").await?;
        let filter = encoded("title eq 'chat 0'");
        for order in ["updated_at", "updated_at desc", "updated_at desc,id", "updated_at,id desc", "id", "id desc"] {
            let descending = order.ends_with("desc");
            let mut path = format!("/chats?limit=3&$filter={filter}&$orderby={}", encoded(order));
            let mut ids: Vec<String> = Vec::new();
            let mut last = Value::Null;
            for length in [3, 1] {
                last = user.get(&path).await?.expect(200)?;
                let items = last["items"].as_array().cloned().unwrap_or_default();
                assert_eq!(items.len(), length);
                ids.extend(items.iter().map(|chat| chat["id"].to_string()));
                let next = last["page_info"]["next_cursor"].as_str().unwrap_or_default();
                path = format!("/chats?limit=3&$filter={filter}&cursor={next}");
            }
            assert!(last["page_info"]["next_cursor"].is_null());
            let mut sorted = ids.clone();
            sorted.sort();
            if descending {
                sorted.reverse();
            }
            assert_eq!(ids, sorted, "{order}");
            let back = last["page_info"]["prev_cursor"].as_str().unwrap_or_default();
            let path = format!("/chats?limit=3&$filter={filter}&cursor={back}");
            let first = user.get(&path).await?.expect(200)?;
            let first: Vec<_> = first["items"].as_array().into_iter().flatten()
                .map(|chat| chat["id"].to_string()).collect();
            assert_eq!(first, ids[..3], "{order}");
            for changed in [format!("cursor={back}"), format!("cursor={back}&$filter={}", encoded("title eq 'chat 1'"))] {
                user.get(&format!("/chats?{changed}")).await?.problem(422, "invalid_filter")?;
            }
            let both = format!("/chats?cursor={back}&$filter={filter}&$orderby=id");
            user.get(&both).await?.problem(422, "invalid_cursor")?;
        }
    }

    /// API-46, API-47: never a 500.
    async fn bad_queries_are_refused_with_their_codes(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let nested = format!("{}title eq null{}", "(".repeat(2000), ")".repeat(2000));
        let many = format!("title in ({}'')", "'',".repeat(2000));
        let wide = ["title eq 'a'"; 480].join(" or ");
        let pairs = ["($1", "' or 1=1 --", "title eq '\u{0}'", "id eq %", "updated_at gt 9999999-01-01T00:00:00Z"];
        for filter in pairs.into_iter().chain([
            "nothing eq 'a'",
            "title gt 'a'",
            "title eq id",
            "updated_at gt +10000-01-01T00:00:00Z",
            nested.as_str(),
        ]) {
            let path = format!("/chats?$filter={}", encoded(filter));
            user.get(&path).await?.problem(422, "invalid_filter")?;
        }
        for filter in ["x".repeat(9000), many] {
            let path = format!("/chats?$filter={}", encoded(&filter));
            user.get(&path).await?.problem(400, "invalid_request")?;
        }
        user.get(&format!("/chats?$filter={}", encoded(&wide))).await?.expect(200)?;
        for (query, status, code) in [
            (format!("$orderby={}", ["id"; 11].join(",")), 422, "invalid_orderby"),
            ("$orderby=title".to_owned(), 422, "invalid_orderby"),
            ("$orderby=".to_owned(), 422, "invalid_orderby"),
            ("$select=id,id".to_owned(), 400, "invalid_request"),
            ("$select=".to_owned(), 400, "invalid_request"),
            ("$select=content".to_owned(), 400, "invalid_request"),
            ("$filter=title%20eq%20null&$filter=title%20eq%20null".to_owned(), 400, "invalid_request"),
        ] {
            user.get(&format!("/chats?{query}")).await?.problem(status, code)?;
        }
        for list in ["/chats".to_owned(), format!("/chats/{chat}/messages")] {
            let page = user.get(&format!("{list}?$select=id,nothing")).await?;
            let problem = page.problem(400, "invalid_request")?;
            assert_eq!(problem["errors"][0]["field"], "$select");
            let reason = problem["errors"][0]["message"].as_str().unwrap_or_default();
            assert!(reason.starts_with("names nothing; the fields of this list are id, "), "{reason}");
        }
    }

    /// API-47
    async fn items_have_the_selected_members_alone(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.say(&chat, "PING").await?;
        let path = format!("/chats/{chat}/messages");
        let whole = user.messages(&chat).await?;
        let first = user.get(&format!("{path}?limit=1&$select=ID,%20content")).await?.expect(200)?;
        let selected = |message: &Value| json!({"id": message["id"], "content": message["content"]});
        assert_eq!(first["items"], json!([selected(&whole[0])]));
        // A cursor carries no selection.
        let next = first["page_info"]["next_cursor"].as_str().unwrap_or_default();
        let path = format!("{path}?limit=1&cursor={next}");
        let second = user.get(&format!("{path}&$select=content,id")).await?.expect(200)?;
        assert_eq!(second["items"], json!([selected(&whole[1])]));
        let second = user.get(&path).await?.expect(200)?;
        assert_eq!(second["items"], json!([whole[1]]));

        // Untitled, and so without the member; `null` is only what is `null` in the object.
        let chats = user.get("/chats?$select=title").await?.expect(200)?;
        assert_eq!(chats["items"], json!([{}]));
        let chats = user.get("/chats?$select=title,message_count").await?.expect(200)?;
        assert_eq!(chats["items"], json!([{"message_count": 2}]));
        let path = format!("/chats/{chat}/messages?$select=my_reaction,model&$filter={}", encoded("role eq 'user'"));
        let questions = user.get(&path).await?.expect(200)?;
        assert_eq!(questions["items"], json!([{"my_reaction": null}]));
    }
}
