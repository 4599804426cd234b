//! Values to bind ([`Param`]) and values read ([`Row`]), the same for both
//! databases.

use std::borrow::Cow;
use std::cell::Cell;

use minichat_core::{
    AttachmentId, ChatId, Date, MessageId, NamespacedName, ProcessId, RequestId, TenantId,
    Timestamp, TurnId, UserId,
};
use uuid::Uuid;

use crate::StoreError;
use crate::postgres::types;

/// A value bound to `$n`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Param<'a> {
    Null,
    Uuid(Uuid),
    Text(Cow<'a, str>),
    Json(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// An integer of any width.
    Int(i64),
    Bool(bool),
    Time(Timestamp),
    Date(Date),
    /// A duration added to an instant, in microseconds.
    Micros(i64),
}

/// A value read from a column, as the drivers return it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Value<'a> {
    Null,
    Uuid(Uuid),
    Text(&'a str),
    Bytes(&'a [u8]),
    Int(i64),
    Bool(bool),
    Time(Timestamp),
    Date(Date),
}

impl<'a> Param<'a> {
    pub(crate) const fn json(text: &'a str) -> Self {
        Self::Json(Cow::Borrowed(text))
    }

    pub(crate) fn into_owned(self) -> Param<'static> {
        match self {
            Self::Null => Param::Null,
            Self::Uuid(v) => Param::Uuid(v),
            Self::Text(v) => Param::Text(Cow::Owned(v.into_owned())),
            Self::Json(v) => Param::Json(Cow::Owned(v.into_owned())),
            Self::Bytes(v) => Param::Bytes(Cow::Owned(v.into_owned())),
            Self::Int(v) => Param::Int(v),
            Self::Bool(v) => Param::Bool(v),
            Self::Time(v) => Param::Time(v),
            Self::Date(v) => Param::Date(v),
            Self::Micros(v) => Param::Micros(v),
        }
    }
}

/// `params![a, b, c]` binds `$1, $2, $3`.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        [$($crate::value::Param::from($value)),*]
    };
}
pub(crate) use params;

impl<'a> From<&'a str> for Param<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(Cow::Borrowed(value))
    }
}

impl<'a> From<&'a [u8]> for Param<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(Cow::Borrowed(value))
    }
}

impl From<u32> for Param<'_> {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<i64> for Param<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Param<'_> {
    /// Counts and credits stay far below 2^63. A larger value is clamped, not
    /// wrapped.
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Param<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Timestamp> for Param<'_> {
    fn from(value: Timestamp) -> Self {
        Self::Time(value)
    }
}

impl From<Date> for Param<'_> {
    fn from(value: Date) -> Self {
        Self::Date(value)
    }
}

impl From<Uuid> for Param<'_> {
    fn from(value: Uuid) -> Self {
        Self::Uuid(value)
    }
}

impl<'a, T: Into<Param<'a>>> From<Option<T>> for Param<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Types that a column can be read as.
pub(crate) trait FromValue: Sized {
    /// The type's name in the error if the column has another type.
    const EXPECTED: &'static str;

    fn from_value(value: Value<'_>) -> Option<Self>;
}

macro_rules! from_value {
    ($type:ty, $expected:literal, $($pattern:pat => $read:expr),+ $(,)?) => {
        impl FromValue for $type {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: Value<'_>) -> Option<Self> {
                match value {
                    $($pattern => $read,)+
                    _ => None,
                }
            }
        }
    };
}

from_value!(i64, "an integer", Value::Int(v) => Some(v));
from_value!(u64, "a count", Value::Int(v) => u64::try_from(v).ok());
from_value!(u32, "a small count", Value::Int(v) => u32::try_from(v).ok());
from_value!(bool, "a boolean", Value::Bool(v) => Some(v), Value::Int(v) => Some(v != 0));
from_value!(String, "text", Value::Text(v) => Some(v.to_owned()));
from_value!(Vec<u8>, "bytes", Value::Bytes(v) => Some(v.to_owned()));
from_value!(NamespacedName, "namespace/name", Value::Text(v) => v.parse().ok());
from_value!(Uuid, "a uuid", Value::Uuid(v) => Some(v), Value::Text(v) => v.parse().ok());
from_value!(
    Timestamp,
    "an instant",
    Value::Time(v) => Some(v),
    Value::Int(v) => Some(Timestamp::from_micros(v)),
);
from_value!(Date, "a date", Value::Date(v) => Some(v), Value::Text(v) => v.parse().ok());

impl<T: FromValue> FromValue for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

macro_rules! id_values {
    ($($id:ty),+) => {$(
        impl From<$id> for Param<'_> {
            fn from(id: $id) -> Self {
                Self::Uuid(id.0)
            }
        }

        impl FromValue for $id {
            const EXPECTED: &'static str = "a uuid";

            fn from_value(value: Value<'_>) -> Option<Self> {
                Uuid::from_value(value).map(Self::from)
            }
        }
    )+};
}

id_values!(
    TenantId,
    UserId,
    ChatId,
    MessageId,
    TurnId,
    ProcessId,
    RequestId,
    AttachmentId
);

/// One row, read column by column in the order of the SELECT list.
pub(crate) struct Row<'a> {
    source: Source<'a>,
    next: Cell<usize>,
}

enum Source<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a sqlx::postgres::PgRow),
}

impl<'a> Row<'a> {
    pub(crate) fn sqlite(row: &'a rusqlite::Row<'a>) -> Self {
        Self::new(Source::Sqlite(row))
    }

    pub(crate) fn postgres(row: &'a sqlx::postgres::PgRow) -> Self {
        Self::new(Source::Postgres(row))
    }

    fn new(source: Source<'a>) -> Self {
        Self {
            source,
            next: Cell::new(0),
        }
    }

    /// The next column, without taking it.
    pub(crate) fn peek<T: FromValue>(&self) -> Result<T, StoreError> {
        let index = self.next.get();
        let value = self.take();
        self.next.set(index);
        value
    }

    /// The next column.
    pub(crate) fn take<T: FromValue>(&self) -> Result<T, StoreError> {
        let index = self.next.replace(self.next.get() + 1);
        T::from_value(self.value(index)?).ok_or(StoreError::Column {
            index,
            expected: T::EXPECTED,
        })
    }

    /// The next column, a list on PostgreSQL; absent is empty.
    pub(crate) fn list<T: FromValue>(&self) -> Result<Vec<T>, StoreError> {
        let index = self.next.replace(self.next.get() + 1);
        match self.source {
            Source::Sqlite(_) => Err(StoreError::Column {
                index,
                expected: "a list",
            }),
            Source::Postgres(row) => types::list(row, index),
        }
    }

    fn value(&self, index: usize) -> Result<Value<'a>, StoreError> {
        match self.source {
            Source::Sqlite(row) => crate::sqlite::value(row, index),
            Source::Postgres(row) => types::value(row, index),
        }
    }
}
