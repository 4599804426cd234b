//! Converts quota rows of the database for the pure quota rules.

use minichat_core::quota::{Bucket, Cell, Cells, Period};
use minichat_store::QuotaCells;

/// The cells of one scope for preflight and status. A missing row is zero
/// (QUOTA-78).
pub(crate) fn cells(rows: &QuotaCells) -> Cells {
    let mut cells = Cells::default();
    for bucket in Bucket::ALL {
        for period in Period::ALL {
            if let Some(row) = rows.get(period, bucket) {
                *cells.of_mut(bucket, period) = Cell {
                    spent: signed(row.spent_credits_micro),
                    reserved: signed(row.reserved_credits_micro),
                };
            }
        }
    }
    if let Some(today) = rows.get(Period::Daily, Bucket::Total) {
        cells.web_search_calls = signed(today.web_search_calls);
        cells.code_interpreter_calls = signed(today.code_interpreter_calls);
    }
    cells
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
