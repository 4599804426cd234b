use std::collections::BTreeSet;

use super::*;

const CHAPTER: &str = include_str!("../../../docs/specification/05-platform.md");

/// What a row of PLAT-58 says of its family.
struct Specified {
    series: String,
    /// `counter`, `gauge`, or `hist` and the name of its buckets.
    kind: &'static str,
    labels: Vec<Label>,
}

/// A label key, with its values where the row lists them.
struct Label {
    name: &'static str,
    values: Option<BTreeSet<String>>,
}

/// The rows of PLAT-58, in their order.
fn specified() -> Vec<Specified> {
    let (_, table) = CHAPTER.split_once("**PLAT-58**").unwrap();
    let (table, _) = table.split_once("\n### ").unwrap();
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.split(" | ").collect();
        cells[0].parse::<u32>().ok()?;
        Some(Specified {
            series: cells[2].replace('`', "").replace("{p}", DEFAULT_PREFIX),
            kind: cells[3],
            labels: labels(cells[4]),
        })
    });
    rows.collect()
}

/// A cell such as `model (effective)` names the label `model`; one that lists
/// values after `=`, parted by `|`, names those as well.
fn labels(cell: &'static str) -> Vec<Label> {
    let mut labels: Vec<Label> = Vec::new();
    for (index, part) in cell.split('`').enumerate() {
        if index % 2 == 1 {
            let values = part.split("\\|").map(str::to_owned).collect();
            labels.last_mut().unwrap().values = Some(values);
            continue;
        }
        // What stands in brackets or behind a colon explains.
        let mut depth = 0;
        let words = part.split(|c: char| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0 && matches!(c, ',' | ';')
        });
        let names = words.filter_map(|word| word.split_whitespace().next());
        let names = names.filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
        labels.extend(names.map(|name| Label { name, values: None }));
    }
    labels
}

/// PLAT-58: names, kinds, buckets, label keys, and the values that a row lists.
#[test]
fn the_catalogue_is_the_table_of_the_specification() {
    let specified = specified();
    assert_eq!(specified.len(), CATALOGUE.len());
    for (row, specified) in CATALOGUE.iter().zip(specified) {
        let series = row.series(DEFAULT_PREFIX);
        assert_eq!(series, specified.series);
        let kind = match row.kind {
            Kind::Counter => "counter".to_owned(),
            Kind::UpDown | Kind::Gauge => "gauge".to_owned(),
            Kind::Histogram(buckets) => format!("hist {}", buckets.name),
        };
        assert_eq!(kind, specified.kind, "{series}");
        let names =
            |labels: &mut dyn Iterator<Item = &'static str>| labels.collect::<BTreeSet<_>>();
        assert_eq!(
            names(&mut row.labels.iter().map(|label| label.name)),
            names(&mut specified.labels.iter().map(|label| label.name)),
            "{series}"
        );
        for Label { name, values } in specified.labels {
            let Some(values) = values else { continue };
            let label = row.labels.iter().find(|label| label.name == name).unwrap();
            let known = label.values.unwrap_or_default().iter();
            assert_eq!(
                known
                    .map(|value| (*value).to_owned())
                    .collect::<BTreeSet<_>>(),
                values,
                "{name} of {series}"
            );
        }
    }
}

#[test]
fn every_family_finds_its_own_row() {
    for row in CATALOGUE.iter().chain(&OPERATOR) {
        assert_eq!(row.family.row(), row);
    }
}

/// PLAT-52
#[test]
fn names_leave_the_suffix_to_the_exporter() {
    for row in &CATALOGUE {
        assert!(!row.name.ends_with("_total"), "{}", row.name);
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(row.name.chars().all(plain), "{}", row.name);
    }
}

#[test]
fn every_family_has_one_sentence_of_help() {
    for row in &CATALOGUE {
        let help = row.help();
        assert!(
            help.ends_with('.') && !help.contains('\n'),
            "{}: {help}",
            row.name
        );
        assert_eq!(help, help.trim());
    }
}

/// The alerts on these objectives read the bucket that ends at the threshold.
#[test]
fn thresholds_of_objectives_are_bucket_bounds() {
    for (family, threshold) in [(Family::TtftOverheadMs, 50.), (Family::TimeToAbortMs, 200.)] {
        let Kind::Histogram(buckets) = family.row().kind else {
            panic!("{family:?} is a histogram");
        };
        assert!(buckets.bounds.contains(&threshold));
    }
}

#[test]
fn bucket_bounds_ascend() {
    for row in &CATALOGUE {
        if let Kind::Histogram(buckets) = row.kind {
            assert!(
                buckets.bounds.is_sorted_by(|a, b| a < b),
                "{}",
                buckets.name
            );
        }
    }
}

/// D30, QUOTA-104: 64 times the powers of two up to 2^14.
#[test]
fn token_bounds_are_powers_of_two() {
    let Kind::Histogram(tokens) = TOKENS else {
        panic!("tokens are a histogram");
    };
    let powers: Vec<f64> = (0..15).map(|k| 64. * 2_f64.powi(k)).collect();
    assert_eq!(tokens.bounds, powers);
}

#[test]
fn label_sets_are_all_combinations_and_only_of_closed_labels() {
    let mutation = Family::TurnMutation.row().label_sets().unwrap();
    assert_eq!(mutation.len(), 3 * 6);
    assert_eq!(mutation[0], ["retry", "ok"]);
    assert_eq!(mutation[17], ["delete", "error"]);
    assert_eq!(
        Family::SummaryFallback.row().label_sets(),
        Some(vec![vec![]])
    );
    assert_eq!(Family::StreamFailed.row().label_sets(), None);
    assert_eq!(Family::QuotaPreflight.row().label_sets(), None);
}

/// D2
#[test]
fn error_codes_are_those_of_turns_and_two_more() {
    assert_eq!(ErrorLabel::VALUES.len(), 11 + 2);
    assert_eq!(
        ErrorLabel::of_code("orphan_timeout"),
        ErrorLabel::OrphanTimeout
    );
    assert_eq!(ErrorLabel::of_code("stream_interrupted"), ErrorLabel::Other);
}
