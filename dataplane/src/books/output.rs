//! The books in each of their forms.

use std::io::{self, Write};

use minichat_core::Date;
use serde_json::{Value, json};

use super::{Books, Line, LineKey, Output};

/// The columns of `--output csv`. New ones are added at the end.
const CSV: &str = "tenant_id,day,user_id,model,turns,unsettled_turns,credits_micro,events,\
    event_credits_micro,running_turns,reserved_credits_micro";

/// The columns of `--output focus`: the mandatory ones of FOCUS 1.0, and those of its
/// conditional ones that apply.
const FOCUS: &str = "BilledCost,BillingAccountId,BillingAccountName,BillingCurrency,\
    BillingPeriodEnd,BillingPeriodStart,ChargeCategory,ChargeClass,ChargeDescription,\
    ChargeFrequency,ChargePeriodEnd,ChargePeriodStart,ConsumedQuantity,ConsumedUnit,\
    ContractedCost,EffectiveCost,InvoiceIssuerName,ListCost,PricingCategory,PricingQuantity,\
    PricingUnit,ProviderName,PublisherName,ServiceCategory,ServiceName,SkuId,SubAccountId";

pub(super) fn write(
    books: &Books,
    output: Output,
    out: &mut impl Write,
    errors: &mut impl Write,
) -> io::Result<()> {
    match output {
        Output::Table => {
            table(books, out)?;
            verdict(books, out)
        }
        Output::Json => json_object(books, out),
        Output::Csv => {
            writeln!(out, "{CSV}")?;
            for (key, line) in &books.lines {
                csv(books, key, line, out)?;
            }
            verdict(books, errors)
        }
        Output::Focus => {
            writeln!(out, "{FOCUS}")?;
            for (key, line) in &books.lines {
                focus(books, key, line, out)?;
            }
            verdict(books, errors)
        }
    }
}

fn table(books: &Books, out: &mut impl Write) -> io::Result<()> {
    let models = books.lines.keys().map(|key| key.model.chars().count());
    let width = models.max().unwrap_or_default().max("MODEL".len());
    writeln!(
        out,
        "{:10}  {:36}  {:width$}  {:>8}  {:>16}  {:>8}  {:>16}  {:>16}",
        "DAY", "USER", "MODEL", "TURNS", "CREDITS", "EVENTS", "THEIR CREDITS", "RESERVED",
    )?;
    for (LineKey { day, user, model }, line) in &books.lines {
        writeln!(
            out,
            "{:10}  {:36}  {model:width$}  {:>8}  {:>16}  {:>8}  {:>16}  {:>16}",
            day.to_string(),
            user.to_string(),
            line.turns,
            credits(line.credits_micro),
            line.events,
            credits(line.event_credits_micro),
            credits(line.reserved_credits_micro),
        )?;
    }
    Ok(())
}

fn verdict(books: &Books, out: &mut impl Write) -> io::Result<()> {
    for (user, day, turns) in &books.unsettled {
        writeln!(
            out,
            "not compared: user {user}, {day}: {turns} turns ended under a release that did not write what it booked"
        )?;
    }
    let Books { tenant, month, .. } = books;
    let turns: u64 = books.lines.values().map(|line| line.turns).sum();
    let spent: u64 = books.lines.values().map(|line| line.credits_micro).sum();
    let spent = credits(spent);
    if books.are_balanced() {
        return writeln!(
            out,
            "the books of {tenant} balance for {month}: {turns} turns, {spent} credits"
        );
    }
    let count = books.differences.len();
    writeln!(
        out,
        "the books of {tenant} do not balance for {month}: {turns} turns, {spent} credits, {count} differences"
    )?;
    for difference in &books.differences {
        writeln!(out, "difference: {difference}")?;
    }
    Ok(())
}

fn json_object(books: &Books, out: &mut impl Write) -> io::Result<()> {
    let lines = books.lines.iter().map(|(key, line)| {
        json!({
            "day": key.day,
            "user_id": key.user,
            "model": key.model,
            "turns": line.turns,
            "unsettled_turns": line.unsettled,
            "credits_micro": line.credits_micro,
            "events": line.events,
            "event_credits_micro": line.event_credits_micro,
            "running_turns": line.running,
            "reserved_credits_micro": line.reserved_credits_micro,
        })
    });
    let unsettled = books
        .unsettled
        .iter()
        .map(|(user, day, turns)| json!({"user_id": user, "day": day, "turns": turns}));
    let object = json!({
        "tenant_id": books.tenant,
        "month": books.month.to_string(),
        "balanced": books.are_balanced(),
        "lines": lines.collect::<Vec<Value>>(),
        "unsettled": unsettled.collect::<Vec<Value>>(),
        "differences": books.differences,
    });
    writeln!(out, "{object}")
}

fn csv(books: &Books, key: &LineKey, line: &Line, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{},{},{},{},{},{},{},{},{},{},{}",
        books.tenant,
        key.day,
        key.user,
        field(&key.model),
        line.turns,
        line.unsettled,
        line.credits_micro,
        line.events,
        line.event_credits_micro,
        line.running,
        line.reserved_credits_micro,
    )
}

/// A row of usage. Credits are no currency of a nation, so that the currency is `XXX`
/// of ISO 4217, which means none, and one credit costs one of it.
fn focus(books: &Books, key: &LineKey, line: &Line, out: &mut impl Write) -> io::Result<()> {
    let cost = credits(line.credits_micro);
    let at = |day: Date| day.midnight().to_string();
    let (month, day) = (books.month, key.day);
    let row = [
        cost.clone(),
        books.tenant.to_string(),
        books.tenant.to_string(),
        "XXX".to_owned(),
        at(month.end()),
        at(month.first()),
        "Usage".to_owned(),
        String::new(),
        format!("Answers of {}", key.model),
        "Usage-Based".to_owned(),
        at(day.next_day()),
        at(day),
        line.turns.to_string(),
        "Turns".to_owned(),
        cost.clone(),
        cost.clone(),
        "minichat".to_owned(),
        cost.clone(),
        "Standard".to_owned(),
        cost,
        "Credits".to_owned(),
        "minichat".to_owned(),
        "minichat".to_owned(),
        "AI and Machine Learning".to_owned(),
        "minichat".to_owned(),
        key.model.clone(),
        key.user.to_string(),
    ];
    writeln!(out, "{}", row.map(|text| field(&text)).join(","))
}

/// A field of RFC 4180.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// Micro-credits as credits: `0.00438`.
fn credits(micro: u64) -> String {
    let text = format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000);
    let text = text.trim_end_matches('0');
    text.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_decimals_without_zeros_at_their_end() {
        let written = [0, 1, 4_380, 1_000_000, 12_500_000].map(credits);
        assert_eq!(written, ["0", "0.000001", "0.00438", "1", "12.5"]);
    }

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!(field("gpt-5"), "gpt-5");
        assert_eq!(field("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
