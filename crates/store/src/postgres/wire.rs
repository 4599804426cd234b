//! Values in PostgreSQL's binary formats. The type of every parameter and
//! column comes from the prepared statement, so nothing is guessed.

use std::error::Error;
use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};
use minichat_core::{Date, Timestamp};
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use crate::StoreError;
use crate::value::{Param, Value};

type BoxError = Box<dyn Error + Sync + Send>;

/// 2000-01-01T00:00:00Z, from which PostgreSQL counts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;
/// The version that precedes the text of a `jsonb`.
const JSONB_VERSION: u8 = 1;

impl ToSql for Param<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        match (self, ty) {
            (Self::Null, _) => return Ok(IsNull::Yes),
            (Self::Uuid(id), &Type::UUID) => out.put_slice(id.as_bytes()),
            (Self::Text(text), &Type::TEXT | &Type::VARCHAR) => out.put_slice(text.as_bytes()),
            (Self::Text(text), &Type::JSONB) => {
                out.put_u8(JSONB_VERSION);
                out.put_slice(text.as_bytes());
            }
            (Self::Int(value), &Type::INT8) => out.put_i64(*value),
            (Self::Int(value), &Type::INT4) => out.put_i32(i32::try_from(*value)?),
            (Self::Bool(value), &Type::BOOL) => out.put_u8(u8::from(*value)),
            (Self::Time(at), &Type::TIMESTAMPTZ) => {
                out.put_i64(at.as_micros().saturating_sub(EPOCH_MICROS));
            }
            (Self::Date(date), &Type::DATE) => {
                out.put_i32(date.days_since_epoch().saturating_sub(EPOCH_DAYS));
            }
            (Self::Micros(micros), &Type::INTERVAL) => {
                out.put_i64(*micros);
                out.put_i32(0);
                out.put_i32(0);
            }
            _ => return Err(Box::new(StoreError::Parameter(type_name(ty)))),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn type_name(ty: &Type) -> &'static str {
    match *ty {
        Type::UUID => "uuid",
        Type::TEXT | Type::VARCHAR => "text",
        Type::JSONB => "jsonb",
        Type::INT8 => "bigint",
        Type::INT4 => "integer",
        Type::BOOL => "boolean",
        Type::TIMESTAMPTZ => "timestamptz",
        Type::DATE => "date",
        Type::INTERVAL => "interval",
        _ => "of another kind",
    }
}

/// A value as text, whose type the server finds out.
#[derive(Debug)]
pub(super) struct AsText<'a>(pub(super) &'a Param<'a>);

impl ToSql for AsText<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        match self.0 {
            Param::Null => return Ok(IsNull::Yes),
            Param::Text(text) => out.put_slice(text.as_bytes()),
            Param::Uuid(id) => write!(out, "{id}")?,
            Param::Int(value) => write!(out, "{value}")?,
            Param::Bool(value) => write!(out, "{value}")?,
            Param::Time(at) => write!(out, "{at}")?,
            Param::Date(date) => write!(out, "{date}")?,
            Param::Micros(micros) => write!(out, "{micros} microseconds")?,
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// The column at `index`.
pub(crate) fn value(row: &tokio_postgres::Row, index: usize) -> Result<Value<'_>, StoreError> {
    row.try_get(index).map_err(|_| StoreError::Column {
        index,
        expected: "a value of its type",
    })
}

impl<'a> FromSql<'a> for Value<'a> {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, BoxError> {
        Ok(match *ty {
            Type::UUID => Self::Uuid(Uuid::from_slice(raw)?),
            Type::TEXT | Type::VARCHAR => Self::Text(std::str::from_utf8(raw)?),
            Type::JSONB => Self::Text(std::str::from_utf8(raw.get(1..).unwrap_or_default())?),
            Type::INT8 => Self::Int(i64::from_be_bytes(raw.try_into()?)),
            Type::INT4 => Self::Int(i32::from_be_bytes(raw.try_into()?).into()),
            Type::BOOL => Self::Bool(raw != [0]),
            Type::TIMESTAMPTZ => {
                let micros = i64::from_be_bytes(raw.try_into()?);
                Self::Time(Timestamp::from_micros(micros.saturating_add(EPOCH_MICROS)))
            }
            Type::DATE => {
                let days = i32::from_be_bytes(raw.try_into()?);
                Self::Date(Date::from_days_since_epoch(days.saturating_add(EPOCH_DAYS)))
            }
            _ => return Err(Box::new(StoreError::Parameter(type_name(ty)))),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, BoxError> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
