//! Values as PostgreSQL's types.
//!
//! Each parameter is declared as the widest type of its kind, which PostgreSQL
//! casts to the column's; what is absent has no type, and the statement decides.

use minichat_core::{Date, Timestamp};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::{Oid, PgInterval};
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgRow, PgTypeInfo, PgValueRef};
use sqlx::{
    Arguments as _, Decode, Encode, Postgres, Row as _, Type, TypeInfo as _, ValueRef as _,
};
use uuid::Uuid;

use crate::StoreError;
use crate::value::{FromValue, Param, Value};

/// 2000-01-01T00:00:00Z, from which PostgreSQL counts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;
/// The version that precedes the text of a `jsonb`.
const JSONB_VERSION: u8 = 1;

const UNSPECIFIED: Oid = Oid(0);
const BOOL: Oid = Oid(16);
const BYTEA: Oid = Oid(17);
const INT8: Oid = Oid(20);
const INT4: Oid = Oid(23);
const TEXT: Oid = Oid(25);
const VARCHAR: Oid = Oid(1043);
const DATE: Oid = Oid(1082);
const TIMESTAMPTZ: Oid = Oid(1184);
const UUID: Oid = Oid(2950);
const JSONB: Oid = Oid(3802);

pub(crate) fn arguments(params: &[Param<'_>]) -> Result<PgArguments, StoreError> {
    let mut arguments = PgArguments::default();
    for param in params {
        let added = arguments.add(param);
        added.map_err(|error| StoreError::Connection(error.to_string()))?;
    }
    Ok(arguments)
}

impl Type<Postgres> for Param<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(UNSPECIFIED)
    }
}

impl Encode<'_, Postgres> for Param<'_> {
    fn encode_by_ref(&self, out: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Uuid(id) => {
                out.extend_from_slice(id.as_bytes());
                Ok(IsNull::No)
            }
            Self::Text(text) => Encode::<Postgres>::encode_by_ref(&&**text, out),
            Self::Json(text) => {
                out.push(JSONB_VERSION);
                Encode::<Postgres>::encode_by_ref(&&**text, out)
            }
            Self::Bytes(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            Self::Int(value) => value.encode_by_ref(out),
            Self::Bool(value) => value.encode_by_ref(out),
            Self::Time(at) => at
                .as_micros()
                .saturating_sub(EPOCH_MICROS)
                .encode_by_ref(out),
            Self::Date(date) => {
                let days = date.days_since_epoch().saturating_sub(EPOCH_DAYS);
                days.encode_by_ref(out)
            }
            Self::Micros(micros) => interval(*micros).encode_by_ref(out),
        }
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(match self {
            Self::Null => Self::type_info(),
            Self::Uuid(_) => PgTypeInfo::with_oid(UUID),
            Self::Text(_) => <str as Type<Postgres>>::type_info(),
            Self::Json(_) => PgTypeInfo::with_oid(JSONB),
            Self::Bytes(_) => PgTypeInfo::with_oid(BYTEA),
            Self::Int(_) => <i64 as Type<Postgres>>::type_info(),
            Self::Bool(_) => <bool as Type<Postgres>>::type_info(),
            Self::Time(_) => PgTypeInfo::with_oid(TIMESTAMPTZ),
            Self::Date(_) => PgTypeInfo::with_oid(DATE),
            Self::Micros(_) => PgInterval::type_info(),
        })
    }
}

const fn interval(microseconds: i64) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds,
    }
}

/// The column at `index`.
pub(crate) fn value(row: &PgRow, index: usize) -> Result<Value<'_>, StoreError> {
    let raw = row.try_get_raw(index).map_err(drop);
    raw.and_then(|raw| Value::decode(raw).map_err(drop))
        .map_err(|()| StoreError::Column {
            index,
            expected: "a value of its type",
        })
}

/// The list at `index`.
pub(crate) fn list<T: FromValue>(row: &PgRow, index: usize) -> Result<Vec<T>, StoreError> {
    let raw = row.try_get_raw(index).map_err(drop);
    let items = raw.and_then(|raw| {
        if raw.is_null() {
            return Ok(Vec::new());
        }
        Vec::<Item<T>>::decode(raw).map_err(drop)
    });
    let items = items.map_err(|()| StoreError::Column {
        index,
        expected: T::EXPECTED,
    })?;
    Ok(items.into_iter().map(|Item(item)| item).collect())
}

/// A value in a list.
struct Item<T>(T);

impl<T> Type<Postgres> for Item<T> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(UNSPECIFIED)
    }
}

impl<T: FromValue> Decode<'_, Postgres> for Item<T> {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let item = T::from_value(Value::decode(value)?);
        item.map(Self).ok_or_else(|| T::EXPECTED.into())
    }
}

impl<'r> Decode<'r, Postgres> for Value<'r> {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.is_null() {
            return Ok(Self::Null);
        }
        let oid = value.type_info().oid().unwrap_or(UNSPECIFIED);
        Ok(match oid {
            UUID => Self::Uuid(Uuid::from_slice(value.as_bytes()?)?),
            TEXT | VARCHAR => Self::Text(<&str>::decode(value)?),
            JSONB => {
                let text = value.as_bytes()?.get(1..).unwrap_or_default();
                Self::Text(std::str::from_utf8(text)?)
            }
            BYTEA => Self::Bytes(value.as_bytes()?),
            INT8 => Self::Int(i64::decode(value)?),
            INT4 => Self::Int(i32::decode(value)?.into()),
            BOOL => Self::Bool(bool::decode(value)?),
            TIMESTAMPTZ => {
                let micros = i64::decode(value)?;
                Self::Time(Timestamp::from_micros(micros.saturating_add(EPOCH_MICROS)))
            }
            DATE => {
                let days = i32::decode(value)?;
                Self::Date(Date::from_days_since_epoch(days.saturating_add(EPOCH_DAYS)))
            }
            _ => return Err(value.type_info().name().to_owned().into()),
        })
    }
}
