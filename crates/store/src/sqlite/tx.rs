//! A connection of one database thread and the transaction on it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use minichat_core::Clock;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement};

use crate::StoreError;
use crate::tx::Query;
use crate::value::{Param, Row, Value};

pub(crate) struct SqliteTx {
    connection: Connection,
    clock: Arc<dyn Clock>,
    /// The instant of the running job in microseconds: `statement_timestamp()`.
    now: Arc<AtomicI64>,
    /// Why the database rolled the open transaction back itself, as it does
    /// when the disk is full. Further statements would each be committed
    /// separately.
    lost: RefCell<Option<Arc<StoreError>>>,
    #[cfg(any(test, feature = "testing"))]
    faults: Option<crate::testing::WriterFaults>,
}

/// The statements that begin and end transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(any(test, feature = "testing")),
    expect(unreachable_pub, reason = "only the faults of tests name it")
)]
pub enum Control {
    Begin,
    BeginReading,
    Savepoint,
    RollbackTo,
    Release,
    Commit,
    Rollback,
}

impl Control {
    const fn sql(self) -> &'static str {
        match self {
            Self::Begin => "BEGIN IMMEDIATE",
            Self::BeginReading => "BEGIN DEFERRED",
            Self::Savepoint => "SAVEPOINT job",
            Self::RollbackTo => "ROLLBACK TO job",
            Self::Release => "RELEASE job",
            Self::Commit => "COMMIT",
            Self::Rollback => "ROLLBACK",
        }
    }

    const fn begins(self) -> bool {
        matches!(self, Self::Begin | Self::BeginReading)
    }
}

impl SqliteTx {
    /// Registers the PostgreSQL functions that the SQL uses.
    pub(super) fn new(connection: Connection, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let now = Arc::new(AtomicI64::new(0));
        let shared = Arc::clone(&now);
        connection.create_scalar_function(
            "statement_timestamp",
            0,
            FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS,
            move |_| Ok(shared.load(Ordering::Relaxed)),
        )?;
        connection.create_scalar_function(
            "greatest",
            2,
            FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC,
            |arguments| Ok(arguments.get::<i64>(0)?.max(arguments.get(1)?)),
        )?;
        // Every commit is written to the disk.
        connection.create_scalar_function(
            "set_config",
            3,
            FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS,
            |arguments| arguments.get::<String>(1),
        )?;
        connection.create_scalar_function(
            "strpos",
            2,
            FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC,
            |arguments| {
                let text: Option<String> = arguments.get(0)?;
                let part: Option<String> = arguments.get(1)?;
                let position = text.zip(part).map(|(text, part)| {
                    text.find(&part)
                        .map_or(0, |byte| text[..byte].chars().count() + 1)
                });
                Ok(position.map(|position| i64::try_from(position).unwrap_or(i64::MAX)))
            },
        )?;
        // SQLite's own `lower` supports only ASCII.
        connection.create_scalar_function(
            "unicode_lower",
            1,
            FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC,
            |arguments| {
                Ok(arguments
                    .get::<Option<String>>(0)?
                    .map(|s| s.to_lowercase()))
            },
        )?;
        Ok(Self {
            connection,
            clock,
            now,
            lost: RefCell::default(),
            #[cfg(any(test, feature = "testing"))]
            faults: None,
        })
    }

    /// The transaction statements of this connection fail as `faults` plan.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn failing_as(mut self, faults: crate::testing::WriterFaults) -> Self {
        self.faults = Some(faults);
        self
    }

    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether a transaction is open.
    pub(super) fn is_open(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// Begins or ends a transaction or a savepoint. The time of the transaction
    /// stays the same until the next call.
    pub(super) fn control(&self, control: Control) -> Result<(), StoreError> {
        if control.begins() {
            self.lost.take();
        } else if control != Control::Rollback {
            self.check_open()?;
        }
        let now = self.clock.now().as_micros();
        self.now.store(now, Ordering::Relaxed);
        #[cfg(any(test, feature = "testing"))]
        if let Some(faults) = &self.faults {
            faults.strike(control, &self.connection)?;
        }
        self.connection
            .prepare_cached(control.sql())?
            .raw_execute()?;
        Ok(())
    }

    pub(crate) fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<(), StoreError> {
        if self.connection.is_readonly("main")? {
            return Err(StoreError::ReadOnly);
        }
        self.within_transaction(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            bind(&mut statement, params)?;
            statement.raw_execute()?;
            Ok(())
        })
    }

    pub(crate) fn query<T>(&self, query: &Query<'_, T>) -> Result<Vec<T>, StoreError> {
        self.within_transaction(|connection| {
            let mut statement = connection.prepare_cached(query.sql)?;
            rows(&mut statement, query.params, query.map)
        })
    }

    pub(crate) fn query_page<T>(
        &self,
        sql: &str,
        keep: bool,
        params: &[Param<'_>],
        map: fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.within_transaction(|connection| {
            if keep {
                rows(&mut *connection.prepare_cached(sql)?, params, map)
            } else {
                rows(&mut connection.prepare(sql)?, params, map)
            }
        })
    }

    /// Runs a statement in the open transaction and records if it ended the
    /// transaction.
    fn within_transaction<T>(
        &self,
        statement: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.check_open()?;
        statement(&self.connection).map_err(|error| {
            if self.is_open() {
                return error;
            }
            let cause = Arc::new(error);
            *self.lost.borrow_mut() = Some(Arc::clone(&cause));
            StoreError::RolledBack(cause)
        })
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.is_open() {
            return Ok(());
        }
        let cause = self.lost.borrow().clone();
        Err(StoreError::RolledBack(
            cause.unwrap_or_else(|| Arc::new(StoreError::Closed)),
        ))
    }
}

fn rows<T>(
    statement: &mut Statement<'_>,
    params: &[Param<'_>],
    map: fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    bind(statement, params)?;
    let mut rows = statement.raw_query();
    let mut mapped = Vec::new();
    while let Some(row) = rows.next()? {
        mapped.push(map(&Row::sqlite(row))?);
    }
    Ok(mapped)
}

/// Binds `$n` to the n-th value. `SQLite` treats `$n` as a name and numbers the
/// names in the order of their appearance.
pub(crate) fn bind(statement: &mut Statement<'_>, params: &[Param<'_>]) -> Result<(), StoreError> {
    for index in 1..=statement.parameter_count() {
        let number = statement
            .parameter_name(index)
            .and_then(|name| name.strip_prefix('$'))
            .and_then(|number| number.parse::<usize>().ok());
        let param = number
            .and_then(|number| params.get(number.wrapping_sub(1)))
            .ok_or(StoreError::Parameter("that is missing"))?;
        statement.raw_bind_parameter(index, param)?;
    }
    Ok(())
}

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Self::Uuid(id) => id.as_hyphenated().to_string().into(),
            Self::Text(text) | Self::Json(text) => {
                ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes()))
            }
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Self::Int(value) | Self::Micros(value) => (*value).into(),
            Self::Bool(value) => (*value).into(),
            Self::Time(at) => at.as_micros().into(),
            Self::Date(date) => date.to_string().into(),
        })
    }
}

/// The column at `index`.
pub(crate) fn value<'a>(row: &'a rusqlite::Row<'_>, index: usize) -> Result<Value<'a>, StoreError> {
    match row.get_ref(index)? {
        ValueRef::Null => Ok(Value::Null),
        ValueRef::Integer(value) => Ok(Value::Int(value)),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Value::Text(text)),
            Err(_) => Err(StoreError::Column {
                index,
                expected: "UTF-8",
            }),
        },
        ValueRef::Blob(bytes) => Ok(Value::Bytes(bytes)),
        ValueRef::Real(_) => Err(StoreError::Column {
            index,
            expected: "an integer, text or bytes",
        }),
    }
}
