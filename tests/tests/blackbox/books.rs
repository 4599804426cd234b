//! The books of a tenant: what balances, and which differences are found.

use std::collections::BTreeMap;
use std::process::Output;

use anyhow::{Context as _, ensure};
use minichat_core::{Clock as _, SystemClock};
use minichat_dataplane::books::Month;
use minichat_telemetry::Signal;
use minichat_tests::books::{check_balanced, read_books};
use minichat_tests::child::job;
use minichat_tests::database::Database;
use minichat_tests::harness::{Held, Scene};
use minichat_tests::on_each_database;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";

/// Runs the subcommand for the current month.
async fn run(scene: &Scene, tenant: &str, form: &str) -> anyhow::Result<Output> {
    let month = Month::of(SystemClock.now()).to_string();
    let arguments = [
        "books", "--tenant", tenant, "--month", &month, "--output", form,
    ];
    let books = job(BINARY, &arguments, &scene.database().url())?;
    Ok(books.wait_with_output().await?)
}

/// Runs the subcommand, which must end with `code`, and returns what it printed.
async fn printed(scene: &Scene, form: &str, code: i32) -> anyhow::Result<(String, String)> {
    let output = run(scene, &scene.tenant.id.to_string(), form).await?;
    let out = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(code),
        "{:?}: {out}{errors}",
        output.status
    );
    Ok((out, errors))
}

async fn json(scene: &Scene, code: i32) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(
        &printed(scene, "json", code).await?.0,
    )?)
}

/// Ten turns of each end and both tiers, eight of them of one user, with a retry, an edit
/// and a deletion.
async fn mix(scene: &Scene) -> anyhow::Result<()> {
    let user = scene.new_user()?;
    let id = |events: &minichat_tests::sse::Events| -> anyhow::Result<String> {
        let id = events.only("stream_started")?["request_id"].as_str();
        Ok(id.context("no request_id")?.to_owned())
    };
    for model in ["std", "prem"] {
        let chat = user.create_chat(Some(model)).await?;
        let said = user.say(&chat, "PING").await?;
        let retried = user.open_retry(&chat, &id(&said)?).await?.collect().await?;
        let edited = user
            .open_edit(&chat, &id(&retried)?, "PING")
            .await?
            .collect()
            .await?;
        user.delete_turn(&chat, &id(&edited)?).await?.expect(204)?;
        user.say(&chat, "ERROR").await?;
        user.delete(&format!("/chats/{chat}")).await?.expect(204)?;
    }
    let left = scene.held_with("prem", "hello").await?;
    drop(left.stream);
    let orphaned = scene.held().await?;
    let database = scene.database();
    let all_but_one = async || Ok(database.number(RUNNING).await? == 1);
    scene.stack.eventually("ended", all_but_one).await?;
    database.age_turns("state = 'running'").await?;
    let report = scene.stack.watchdog().run_once(&Signal::new()).await;
    ensure!(report.finalized == 1, "{report:?}");
    drop(orphaned);
    Ok(())
}

/// Deletes the message of one usage event, and puts it where `sql` says.
async fn move_event(database: &Database, sql: &str) -> anyhow::Result<()> {
    database.query(sql).await?;
    database
        .query(
            "DELETE FROM outbox_messages WHERE id = (SELECT min(id) FROM outbox_messages \
         WHERE queue = 'mini-chat.usage_snapshot')",
        )
        .await?;
    Ok(())
}

const AS_DEAD_LETTER: &str = "INSERT INTO outbox_dead_letters (queue, partition, message_id, \
    tenant_id, dedupe_key, payload_type, payload, created_at, failed_at) \
    SELECT queue, partition, id, tenant_id, dedupe_key, payload_type, payload, created_at, \
    created_at FROM outbox_messages WHERE id = (SELECT min(id) FROM outbox_messages \
    WHERE queue = 'mini-chat.usage_snapshot')";

/// What FOCUS 1.0 says of its columns
/// (<https://focus.finops.org/focus-specification/v1-0/>).
mod focus {
    use std::collections::BTreeMap;

    use anyhow::ensure;
    use minichat_core::Timestamp;

    /// Columns of every file. None of them is null in a row of usage, apart from
    /// `ChargeClass`.
    pub(super) const MANDATORY: [&str; 21] = [
        "BilledCost",
        "BillingAccountId",
        "BillingAccountName",
        "BillingCurrency",
        "BillingPeriodEnd",
        "BillingPeriodStart",
        "ChargeCategory",
        "ChargeClass",
        "ChargeDescription",
        "ChargePeriodEnd",
        "ChargePeriodStart",
        "ContractedCost",
        "EffectiveCost",
        "InvoiceIssuerName",
        "ListCost",
        "PricingQuantity",
        "PricingUnit",
        "ProviderName",
        "PublisherName",
        "ServiceCategory",
        "ServiceName",
    ];

    /// Columns of providers to which they apply, and recommended ones.
    pub(super) const CONDITIONAL: [&str; 22] = [
        "AvailabilityZone",
        "ChargeFrequency",
        "CommitmentDiscountCategory",
        "CommitmentDiscountId",
        "CommitmentDiscountName",
        "CommitmentDiscountStatus",
        "CommitmentDiscountType",
        "ConsumedQuantity",
        "ConsumedUnit",
        "ContractedUnitPrice",
        "ListUnitPrice",
        "PricingCategory",
        "RegionId",
        "RegionName",
        "ResourceId",
        "ResourceName",
        "ResourceType",
        "SkuId",
        "SkuPriceId",
        "SubAccountId",
        "SubAccountName",
        "Tags",
    ];

    const DECIMALS: [&str; 6] = [
        "BilledCost",
        "ConsumedQuantity",
        "ContractedCost",
        "EffectiveCost",
        "ListCost",
        "PricingQuantity",
    ];

    /// Values of which a column has one.
    const VALUES: [(&str, &[&str]); 5] = [
        (
            "ChargeCategory",
            &["Usage", "Purchase", "Tax", "Credit", "Adjustment"],
        ),
        ("ChargeClass", &["", "Correction"]),
        ("ChargeFrequency", &["One-Time", "Recurring", "Usage-Based"]),
        (
            "PricingCategory",
            &["Standard", "Dynamic", "Committed", "Other"],
        ),
        ("ServiceCategory", &["AI and Machine Learning"]),
    ];

    pub(super) fn check(row: &BTreeMap<&str, &str>) -> anyhow::Result<()> {
        for column in MANDATORY {
            let may_be_null = column == "ChargeClass";
            ensure!(may_be_null || !row[column].is_empty(), "{column} is null");
        }
        for column in DECIMALS {
            let is_decimal = row[column]
                .bytes()
                .all(|it| it.is_ascii_digit() || it == b'.');
            ensure!(is_decimal && row[column].parse::<f64>()? >= 0.0, "{column}");
        }
        for (column, values) in VALUES {
            ensure!(values.contains(&row[column]), "{column}");
        }
        let currency = row["BillingCurrency"];
        let is_code = currency.len() == 3 && currency.bytes().all(|it| it.is_ascii_uppercase());
        ensure!(is_code, "BillingCurrency is no code of ISO 4217");
        // Of usage, quantities and units come together.
        for (quantity, unit) in [
            ("ConsumedQuantity", "ConsumedUnit"),
            ("PricingQuantity", "PricingUnit"),
        ] {
            ensure!(row[quantity].is_empty() == row[unit].is_empty(), "{unit}");
        }
        let at = |column: &str| -> anyhow::Result<Timestamp> {
            ensure!(row[column].ends_with('Z'), "{column} is not in UTC");
            Ok(row[column].parse()?)
        };
        let (from, to) = (at("ChargePeriodStart")?, at("ChargePeriodEnd")?);
        ensure!(
            at("BillingPeriodStart")? <= from && from < to,
            "begins early"
        );
        ensure!(to <= at("BillingPeriodEnd")?, "ends late");
        Ok(())
    }
}

on_each_database! {
    /// QUOTA-54, QUOTA-85: turns of every end, those that are deleted, and one that
    /// runs; wherever their events are.
    async fn the_books_of_every_end_balance(env) {
        let scene = env.scene().await?;
        mix(&scene).await?;
        let database = scene.database();
        let held = scene.held().await?;
        let books = json(&scene, 0).await?;
        assert_eq!(books["balanced"], true);
        let sum = |member: &str| -> u64 {
            let lines = books["lines"].as_array().into_iter().flatten();
            lines.filter_map(|line| line[member].as_u64()).sum()
        };
        assert_eq!((sum("turns"), sum("events"), sum("running_turns")), (10, 10, 1));
        assert!(sum("credits_micro") > 0 && sum("reserved_credits_micro") > 0);
        assert_eq!(sum("credits_micro"), sum("event_credits_micro"));
        // Events that are no messages any more, one of them read from its payload.
        let messages = database.payloads("mini-chat.usage_snapshot").await?;
        let event = &messages[0];
        move_event(database, &format!(
            "INSERT INTO usage_rollups (tenant_id, user_id, model, day, events, credits_micro) \
             VALUES ('{}', '{}', '{}', '{}', 1, {})",
            scene.tenant.id,
            event["user_id"].as_str().unwrap_or_default(),
            event["effective_model"].as_str().unwrap_or_default(),
            event["reserve_day"].as_str().unwrap_or_default(),
            event["committed_credits_micro"],
        )).await?;
        move_event(database, AS_DEAD_LETTER).await?;
        // One was enqueued before its queue got another name.
        database.query(
            "UPDATE outbox_messages SET queue = 'old' WHERE id = (SELECT min(id) \
             FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot')"
        ).await?;
        check_balanced(database).await?;
        // One that is tried again is a message, and one that was delivered was one.
        for status in ["reprocessing", "resolved"] {
            database.query(&format!("UPDATE outbox_dead_letters SET status = '{status}'")).await?;
            assert_eq!(json(&scene, 1).await?["balanced"], false, "{status}");
        }
        database.query("UPDATE outbox_dead_letters SET status = 'discarded'").await?;
        check_balanced(database).await?;
        scene.provider.release(1);
        drop(held);
    }

    /// Whatever is changed on one side is found, with the user and the day.
    async fn each_planted_difference_is_found(env) {
        let scene = env.scene().await?;
        mix(&scene).await?;
        let database = scene.database();
        let usage = "(SELECT min(id) FROM outbox_messages WHERE queue = 'mini-chat.usage_snapshot')";
        let one = |change: &str, of: &str| format!("UPDATE quota_usage SET {change} WHERE id = (\
            SELECT id FROM quota_usage WHERE {of} AND spent_credits_micro > 1 ORDER BY id LIMIT 1)");
        let day = "period_type = 'daily' AND bucket = 'total'";
        let month = "period_type = 'monthly' AND bucket = 'total'";
        let premium = "period_type = 'daily' AND bucket = 'tier:premium'";
        let spent = ("spent_credits_micro = spent_credits_micro - 1", "spent_credits_micro = spent_credits_micro + 1");
        let reserved = ("reserved_credits_micro = 7", "reserved_credits_micro = 0");
        let calls = ("calls = calls + 1", "calls = calls - 1");
        let mut plants = Vec::new();
        for (of, bucket) in [(day, "total"), (month, "total"), (premium, "tier:premium")] {
            for ((plant, undo), fact) in [(spent, "credits"), (reserved, "reserved"), (calls, "turns")] {
                plants.push((one(plant, of), one(undo, of), bucket, fact));
            }
        }
        let turn = |change: &str| format!("UPDATE chat_turns SET {change} WHERE id = (SELECT id \
            FROM chat_turns WHERE settled_credits_micro > 1 ORDER BY id LIMIT 1)");
        plants.push((
            turn("settled_credits_micro = settled_credits_micro + 5"),
            turn("settled_credits_micro = settled_credits_micro - 5"),
            "total", "credits",
        ));
        plants.push((
            format!("UPDATE outbox_messages SET queue = 'gone', payload = 'x' || payload WHERE id = {usage}"),
            "UPDATE outbox_messages SET queue = 'mini-chat.usage_snapshot', payload = substr(payload, 2) \
             WHERE queue = 'gone'".to_owned(),
            "total", "turns",
        ));
        plants.push((
            format!("UPDATE outbox_messages SET payload = 'x' || payload WHERE id = {usage}"),
            format!("UPDATE outbox_messages SET payload = substr(payload, 2) WHERE id = {usage}"),
            "total", "unreadable_events",
        ));
        check_balanced(database).await?;
        for (plant, undo, bucket, fact) in plants {
            database.query(&plant).await?;
            let books = json(&scene, 1).await?;
            let differences = books["differences"].as_array().context("none")?;
            let is_it = |it: &&Value| it["bucket"] == bucket && it["fact"] == fact;
            let found = differences.iter().find(is_it).with_context(|| format!("{plant}: {books}"))?;
            assert!(found["turns"].is_u64() && found["quota"].is_i64(), "{found}");
            assert!(check_balanced(database).await.is_err(), "{plant}");
            database.query(&undo).await?;
            check_balanced(database).await?;
        }
    }

    /// Turns of a release that did not write what it booked are told apart.
    async fn unsettled_turns_are_no_difference(env) {
        let scene = env.scene().await?;
        mix(&scene).await?;
        let database = scene.database();
        let user = "(SELECT requester_user_id FROM chat_turns ORDER BY id LIMIT 1)";
        database.query(&format!(
            "UPDATE chat_turns SET settled_credits_micro = NULL, settlement_method = NULL \
             WHERE requester_user_id = {user}"
        )).await?;
        let books = json(&scene, 0).await?;
        assert_eq!(books["unsettled"].as_array().map(Vec::len), Some(1), "{books}");
        assert_eq!(books["unsettled"][0]["turns"], 8);
        let (table, _) = printed(&scene, "table", 0).await?;
        assert!(table.contains("not compared: user "), "{table}");
        // Other users are compared.
        database.query(&format!(
            "UPDATE quota_usage SET spent_credits_micro = spent_credits_micro + 1 \
             WHERE user_id <> {user}"
        )).await?;
        json(&scene, 1).await?;
    }

    /// QUOTA-54: a turn that ends in another month than it began belongs to the first.
    async fn a_turn_belongs_to_the_month_of_its_reserve(env) {
        let scene = env.scene().await?;
        let Held { stream, .. } = scene.held().await?;
        let database = scene.database();
        database.query("UPDATE chat_turns SET reserve_day = '2026-01-31'").await?;
        for (period, start) in [("daily", "2026-01-31"), ("monthly", "2026-01-01")] {
            database.query(&format!(
                "UPDATE quota_usage SET period_start = '{start}' WHERE period_type = '{period}'"
            )).await?;
        }
        let of = async |month: &str| read_books(database, scene.tenant.id, month).await;
        let before = of("2026-01").await?;
        assert!(before.are_balanced() && before.lines.len() == 1, "{before:?}");
        database.age_turns("state = 'running'").await?;
        let report = scene.stack.watchdog().run_once(&Signal::new()).await;
        ensure!(report.finalized == 1, "{report:?}");
        drop(stream);
        let after = of("2026-01").await?;
        assert!(after.are_balanced(), "{after:?}");
        let line = after.lines.values().next().context("no line")?;
        assert_eq!((line.turns, line.events, line.running), (1, 1, 0));
        assert!(of("2026-02").await?.lines.is_empty());
    }

    /// FOCUS 1.0, the FinOps Open Cost and Usage Specification: its columns, and the
    /// types, values and nulls that it allows.
    async fn the_books_keep_the_rules_of_focus(env) {
        let scene = env.scene().await?;
        mix(&scene).await?;
        let (focus, _) = printed(&scene, "focus", 0).await?;
        let mut lines = focus.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let header = lines.next().context("no header")?;
        for column in focus::MANDATORY {
            assert_eq!(header.iter().filter(|it| **it == column).count(), 1, "{column}");
        }
        let is_column = |name: &&str| focus::MANDATORY.contains(name) || focus::CONDITIONAL.contains(name);
        assert!(header.iter().all(is_column), "{header:?}");
        let rows: Vec<_> = lines.collect();
        let mut cost = 0.0;
        for row in &rows {
            assert_eq!(row.len(), header.len(), "{row:?}");
            let row: BTreeMap<&str, &str> = header.iter().copied().zip(row.iter().copied()).collect();
            focus::check(&row).with_context(|| format!("{row:?}"))?;
            cost += row["BilledCost"].parse::<f64>()?;
        }
        let books = json(&scene, 0).await?;
        let lines = books["lines"].as_array().context("no lines")?;
        assert_eq!(rows.len(), lines.len());
        let credits: i64 = lines.iter().filter_map(|line| line["credits_micro"].as_i64()).sum();
        assert_eq!(format!("{:.0}", cost * 1_000_000.0), credits.to_string());
    }

    /// The forms and the exit codes of the subcommand.
    async fn the_books_have_four_forms_and_three_exit_codes(env) {
        let scene = env.scene().await?;
        mix(&scene).await?;
        let (table, _) = printed(&scene, "table", 0).await?;
        assert!(table.starts_with("DAY ") && table.contains(" balance for "), "{table}");
        let (csv, told) = printed(&scene, "csv", 0).await?;
        let mut lines = csv.lines();
        let header = "tenant_id,day,user_id,model,turns,unsettled_turns,credits_micro,events,\
            event_credits_micro,running_turns,reserved_credits_micro";
        assert_eq!(lines.next(), Some(header));
        assert!(lines.all(|line| line.split(',').count() == 11));
        assert!(told.contains(" balance for "), "{told}");
        // By the name of its ChatTenant.
        assert!(run(&scene, "default/acme", "table").await?.status.success());
        scene.database().query("UPDATE quota_usage SET calls = calls + 1").await?;
        let (_, told) = printed(&scene, "csv", 1).await?;
        assert!(told.contains("difference: user ") && told.contains(" by the quota row"), "{told}");
        for (tenant, form) in [("default/other", "table"), ("acme", "table"), ("default/acme", "xml")] {
            assert_eq!(run(&scene, tenant, form).await?.status.code(), Some(2), "{tenant} {form}");
        }
    }
}
