//! Compares the catalogue with what the exporter really prints.

use std::collections::{BTreeMap, BTreeSet};

use minichat_metrics::catalogue::Kind;
use minichat_metrics::{ErrorLabel, Label, Recorder};

use super::capped_ids::Limits;
use super::instruments::Instruments;
use super::*;

const MAX_LABEL_VALUES: usize = 3;

fn adapter(prefix: &str) -> (Instruments, Exposition) {
    let limits = Limits::new(MAX_LABEL_VALUES);
    let label_sets = |row: &Row| limits.label_sets(row);
    let rows: Vec<_> = CATALOGUE.iter().collect();
    let (provider, exposition) = exposition::start(&rows, label_sets, prefix).unwrap();
    (
        Instruments::new(&rows, &provider, prefix, limits),
        exposition,
    )
}

/// One sample line: the name, the label pairs, the value. All values in these
/// tests are whole.
type Sample = (String, BTreeMap<String, String>, u64);

/// One family as printed.
#[derive(Default, Debug)]
struct Printed {
    help: Option<String>,
    kind: Option<String>,
    samples: Vec<Sample>,
}

/// Families by the name of their `# TYPE` line. Label values in these tests
/// have neither commas nor escapes.
fn parse(text: &str) -> BTreeMap<String, Printed> {
    let mut families = BTreeMap::<String, Printed>::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            name.clone_into(&mut current);
            let family = families.entry(current.clone()).or_default();
            assert_eq!(family.help.replace(help.to_owned()), None, "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            name.clone_into(&mut current);
            let family = families.entry(current.clone()).or_default();
            assert_eq!(family.kind.replace(kind.to_owned()), None, "{line}");
        } else {
            let sample = sample(line);
            assert!(sample.0.starts_with(&current), "{line}");
            families.get_mut(&current).unwrap().samples.push(sample);
        }
    }
    families
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap();
    let labels = labels.split(',').filter(|pair| !pair.is_empty());
    let labels = labels.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap();
        (key.to_owned(), value.trim_matches('"').to_owned())
    });
    (name.to_owned(), labels.collect(), value.parse().unwrap())
}

/// Records into every family once for each combination of closed label values.
fn record_everything(recorder: &impl Recorder) {
    for row in &CATALOGUE {
        for labels in label_sets(row) {
            match row.kind {
                Kind::Counter => recorder.add(row.family, &labels, 2),
                Kind::UpDown => recorder.shift(row.family, 2),
                Kind::Gauge => recorder.set(row.family, &labels, 2),
                Kind::Histogram(_) => recorder.observe(row.family, &labels, 2.),
            }
        }
    }
}

fn label_sets(row: &Row) -> Vec<Vec<Label<'static>>> {
    let mut sets = vec![Vec::new()];
    for key in row.labels {
        let values: Vec<_> = match key.values {
            Some(values) => values.iter().map(|v| Label::Closed(v)).collect(),
            None => vec![Label::Open("an-id")],
        };
        sets = sets
            .iter()
            .flat_map(|set: &Vec<_>| {
                values.iter().map(move |value| {
                    let mut longer = set.clone();
                    longer.push(*value);
                    longer
                })
            })
            .collect();
    }
    sets
}

/// PLAT-50, PLAT-52, PLAT-53, PLAT-58
#[test]
fn the_exporter_prints_exactly_the_catalogue() {
    let (instruments, exposition) = adapter("acme");
    record_everything(&instruments);
    let printed = parse(&exposition.render());
    let names: BTreeSet<_> = printed.keys().cloned().collect();
    let expected: BTreeSet<_> = CATALOGUE.iter().map(|row| row.series("acme")).collect();
    assert_eq!(names, expected);
    for row in &CATALOGUE {
        check_family(row, &printed[&row.series("acme")]);
    }
}

fn check_family(row: &Row, printed: &Printed) {
    let name = row.series("acme");
    let kind = match row.kind {
        Kind::Counter => "counter",
        Kind::UpDown | Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    assert_eq!(printed.kind.as_deref(), Some(kind), "{name}");
    assert_eq!(printed.help.as_deref(), Some(row.help()), "{name}");
    let keys: BTreeSet<_> = row.labels.iter().map(|label| label.name).collect();
    let mut sets = BTreeSet::new();
    let mut bounds = BTreeSet::new();
    for (sample, labels, value) in &printed.samples {
        let mut labels = labels.clone();
        if let Some(bound) = labels.remove("le") {
            bounds.insert(bound);
        }
        let sample_keys: BTreeSet<_> = labels.keys().map(String::as_str).collect();
        assert_eq!(sample_keys, keys, "{sample}");
        sets.insert(labels);
        match sample.strip_prefix(&name).unwrap() {
            "" | "_sum" => assert_eq!(*value, 2, "{sample}"),
            "_count" => assert_eq!(*value, 1, "{sample}"),
            suffix => assert_eq!(suffix, "_bucket", "{sample}"),
        }
    }
    assert_eq!(sets.len(), label_sets(row).len(), "{name}");
    let expected: BTreeSet<_> = match row.kind {
        Kind::Histogram(buckets) => {
            let finite = buckets.bounds.iter().map(ToString::to_string);
            finite.chain(["+Inf".to_owned()]).collect()
        }
        Kind::Counter | Kind::UpDown | Kind::Gauge => BTreeSet::new(),
    };
    assert_eq!(bounds, expected, "{name}");
}

/// PLAT-51
#[test]
fn the_prefix_renames_every_series() {
    let (default, exposition) = adapter("mini_chat");
    record_everything(&default);
    let (renamed, renamed_exposition) = adapter("Acme2");
    record_everything(&renamed);
    let text = exposition.render();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    // Upper case sorts before lower case, so only the order may differ.
    let expected = lines(&text.replace("mini_chat_", "Acme2_"));
    assert_eq!(lines(&renamed_exposition.render()), expected);
    assert!(text.contains("mini_chat_"));
}

/// PLAT-55
#[test]
fn counters_of_closed_labels_and_gauges_start_at_zero() {
    let (_instruments, exposition) = adapter("mini_chat");
    let printed = parse(&exposition.render());
    for row in &CATALOGUE {
        let family = printed.get(&row.series("mini_chat"));
        let sets = match row.kind {
            Kind::Histogram(_) => None,
            Kind::Counter | Kind::UpDown | Kind::Gauge => row.label_sets(),
        };
        let samples = family.map_or(&[][..], |family| &family.samples);
        assert_eq!(
            samples.len(),
            sets.unwrap_or_default().len(),
            "{}",
            row.name
        );
        assert!(
            samples.iter().all(|(_, _, value)| *value == 0),
            "{}",
            row.name
        );
    }
}

/// PLAT-54: whatever tenants configure, series are bounded and the overflow
/// series of the SDK never appears.
#[test]
fn many_ids_end_up_in_other_and_never_overflow() {
    let (instruments, exposition) = adapter("mini_chat");
    for provider in 0..40 {
        for model in 0..40 {
            let (provider, model) = (format!("p{provider}"), format!("m{model}"));
            for code in ErrorLabel::ALL {
                instruments.stream_failed(&provider, &model, *code);
            }
            instruments.code_interpreter_calls(&model, 1);
        }
    }
    let text = exposition.render();
    assert!(!text.contains("overflow"), "{text}");
    let printed = parse(&text);
    let failed = &printed["mini_chat_stream_failed_total"].samples;
    let total: u64 = failed.iter().map(|(_, _, value)| value).sum();
    assert_eq!(total, 40 * 40 * 13);
    assert!(failed.len() <= (4 * MAX_LABEL_VALUES + 1) * 13);
    for key in ["provider", "model"] {
        let values: BTreeSet<_> = failed.iter().map(|(_, labels, _)| &labels[key]).collect();
        assert_eq!(values.len(), MAX_LABEL_VALUES + 1, "{values:?}");
        assert!(values.iter().any(|value| *value == "other"));
    }
    let calls = &printed["mini_chat_code_interpreter_calls_total"].samples;
    assert_eq!(calls.len(), MAX_LABEL_VALUES + 1);
}

/// Two facts about one stream meet in one series.
#[test]
fn recordings_of_the_same_labels_add_up() {
    let settings = MetricsSettings {
        prefix: "",
        max_label_values: 200,
    };
    let (metrics, exposition) = start(settings).unwrap();
    metrics.stream_started("openai", "gpt");
    metrics.stream_started("openai", "gpt");
    metrics.active_streams_inc();
    metrics.active_streams_inc();
    metrics.active_streams_dec();
    let text = exposition.render();
    let started = "mini_chat_stream_started_total{model=\"gpt\",provider=\"openai\"} 2\n";
    assert!(text.contains(started), "{text}");
    assert!(text.contains("\nmini_chat_active_streams 1\n"), "{text}");
}

/// K8S-15, K8S-44
#[test]
fn the_operator_prints_its_own_families_and_those_that_jobs_report() {
    let settings = MetricsSettings {
        prefix: "acme",
        max_label_values: MAX_LABEL_VALUES,
    };
    let (metrics, exposition) = start_operator(settings).unwrap();
    let job = minichat_metrics::JobMetrics::default();
    for model in ["a", "b", "c", "d"] {
        job.stream_failed("openai", model, ErrorLabel::of_code("orphan_timeout"));
        job.orphan_finalized();
    }
    metrics.job_reported(&job.report("watchdog"));
    let printed = parse(&exposition.render());
    let finalized = &printed["acme_orphan_finalized_total"].samples;
    assert_eq!(finalized.iter().map(|(_, _, value)| value).sum::<u64>(), 4);
    let failed = &printed["acme_stream_failed_total"].samples;
    let other = failed
        .iter()
        .find(|(_, labels, _)| labels["model"] == "other");
    assert_eq!(other.map(|(_, _, value)| *value), Some(1), "{failed:?}");
    assert!(printed.contains_key("acme_operator_leader"));
    assert!(!printed.contains_key("acme_active_streams"));
}
