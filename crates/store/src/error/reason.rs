//! Why a database cannot serve, for whoever may know that it does not, but nothing of where it is or who uses it.

use rusqlite::ffi::ErrorCode;

use super::StoreError;

const UNREACHABLE: &str = "it cannot be reached";
const SILENT: &str = "it did not answer in time";
const FULL: &str = "its disk is full";
const READ_ONLY: &str = "it can only be read";
const BUSY: &str = "another session held what was to be written";
const REFUSED: &str = "it refused a small write";

/// SQLSTATE classes and codes, the longer ones first.
const OF_POSTGRES: [(&str, &str); 11] = [
    ("25006", READ_ONLY),
    ("53100", FULL),
    ("53300", "all its connections are in use"),
    ("55P03", BUSY),
    ("57014", SILENT),
    ("57P03", "it is starting or stopping"),
    ("08", UNREACHABLE),
    ("28", "it accepts neither user nor password"),
    ("3D000", "it has no database of that name"),
    ("53", "it lacks memory or other resources"),
    ("57", "it is stopping"),
];

impl StoreError {
    /// The kind of failure in words of our own: no text of a driver, a server or a
    /// file, which may tell addresses, names and users.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connection(_) | Self::Closed => UNREACHABLE,
            Self::Tls(_) => "TLS with it fails",
            Self::AcquireTimeout => "all connections to it were in use",
            Self::Deadline => SILENT,
            Self::InDoubt(cause) | Self::RolledBack(cause) => cause.reason(),
            Self::NoRoom(_) => FULL,
            Self::Contended(_) => BUSY,
            Self::Postgres(refused) => of_postgres(&refused.code),
            Self::Sqlite(refused) => refused.sqlite.map_or(REFUSED, of_sqlite),
            Self::Io(_) => "its file cannot be used",
            _ => REFUSED,
        }
    }
}

fn of_postgres(code: &str) -> &'static str {
    let mut known = OF_POSTGRES.iter();
    let found = known.find(|(prefix, _)| code.starts_with(prefix));
    found.map_or(REFUSED, |(_, reason)| *reason)
}

const fn of_sqlite(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::DiskFull => FULL,
        ErrorCode::ReadOnly => READ_ONLY,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => BUSY,
        ErrorCode::CannotOpen | ErrorCode::SystemIoFailure | ErrorCode::PermissionDenied => {
            "its file cannot be used"
        }
        _ => REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::testing::{refused_by_postgres, refused_by_sqlite};

    /// PLAT-161
    #[test]
    fn a_reason_has_no_words_of_a_driver() {
        for (error, reason) in [
            (
                StoreError::Connection("10.0.0.7:5432 refused minichat".to_owned()),
                UNREACHABLE,
            ),
            (
                StoreError::Tls("certificate for db.internal".to_owned()),
                "TLS with it fails",
            ),
            (
                StoreError::InDoubt(std::sync::Arc::new(StoreError::Deadline)),
                SILENT,
            ),
            (refused_by_postgres("25006"), READ_ONLY),
            (
                refused_by_postgres("53300"),
                "all its connections are in use",
            ),
            (
                refused_by_postgres("53200"),
                "it lacks memory or other resources",
            ),
            (refused_by_postgres("57P01"), "it is stopping"),
            (refused_by_postgres("XX000"), REFUSED),
            (refused_by_sqlite(rusqlite::ffi::SQLITE_FULL), FULL),
            (refused_by_sqlite(rusqlite::ffi::SQLITE_CORRUPT), REFUSED),
        ] {
            assert_eq!(error.reason(), reason, "{error}");
        }
    }
}
