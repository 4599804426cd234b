//! Reads as much of the Prometheus text format as is needed to show which metrics changed.

use std::collections::BTreeMap;

/// Value by series, without the buckets of histograms, whose sum and count are enough.
pub(super) fn series(text: &str) -> BTreeMap<String, f64> {
    let samples = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
    samples
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// Series whose value differs, with the value before and after.
pub(super) fn moved<'a>(
    before: &BTreeMap<String, f64>,
    after: &'a BTreeMap<String, f64>,
) -> Vec<(&'a str, f64, f64)> {
    after
        .iter()
        .map(|(series, &now)| {
            (
                series.as_str(),
                before.get(series).copied().unwrap_or_default(),
                now,
            )
        })
        .filter(|(_, was, now)| was.total_cmp(now).is_ne())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_moved_is_shown_and_no_buckets() {
        let before = series("# HELP a\na_total{x=\"1\"} 1\nb 5\n");
        let after = series("a_total{x=\"1\"} 2\nb 5\nc_bucket{le=\"1\"} 1\nc_sum 0.5\n");
        assert_eq!(
            moved(&before, &after),
            [("a_total{x=\"1\"}", 1.0, 2.0), ("c_sum", 0.0, 0.5)]
        );
    }
}
