//! The values of file and environment by key, and the errors found while they are read.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::fault::Faults;
use crate::process::key::{self, KEYS, Key, Kind};
use crate::process::prefix;
use crate::process::types::IpNetwork;
use crate::yaml;

/// Values by key as text, and the errors found so far. Reading an invalid value
/// returns the default, so that further errors are found too.
pub(super) struct Settings {
    pub(super) given: BTreeMap<String, String>,
    pub(super) env: HashMap<String, String>,
    pub(super) faults: Faults,
}

impl Settings {
    pub(super) fn read(
        yaml: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let mut settings = Self {
            given: BTreeMap::new(),
            env: env.into_iter().collect(),
            faults: Faults::default(),
        };
        settings.read_file(yaml)?;
        settings.read_environment();
        Ok(settings)
    }

    fn read_file(&mut self, text: &str) -> Result<(), Faults> {
        match yaml::document(text)? {
            Value::Null => {}
            Value::Object(map) => {
                for (name, value) in map {
                    self.read_value(&name, value);
                }
            }
            _ => self.faults.add("", "the file must be a mapping of keys"),
        }
        Ok(())
    }

    fn read_value(&mut self, name: &str, value: Value) {
        let list = matches!(
            key::find(name),
            Some(Key {
                kind: Kind::Networks | Kind::Texts,
                ..
            })
        );
        match value {
            Value::Object(map) if key::find(name).is_none() => {
                let section = format!("{name}.");
                if !KEYS.iter().any(|key| key.name.starts_with(&section)) {
                    self.faults.add(name, "there is no such section");
                    return;
                }
                for (child, value) in map {
                    self.read_value(&format!("{section}{child}"), value);
                }
            }
            _ if key::find(name).is_none() => self.faults.add(name, "there is no such key"),
            Value::Array(items) if list => {
                let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
                self.given.insert(name.to_owned(), items.join(","));
            }
            Value::Object(_) | Value::Array(_) => self.faults.add(name, "must be a single value"),
            Value::Null => {}
            Value::String(text) => {
                self.given.insert(name.to_owned(), text);
            }
            scalar => {
                self.given.insert(name.to_owned(), scalar.to_string());
            }
        }
    }

    /// Variables take precedence over the file. Unknown variables with the prefix are
    /// ignored, because Kubernetes creates some for every Service.
    fn read_environment(&mut self) {
        for key in KEYS {
            if let Some(value) = self.env.get(&key.variable()) {
                self.given.insert(key.name.to_owned(), value.clone());
            }
        }
    }

    pub(super) fn require(&mut self, holds: bool, key: &str, message: &str) {
        self.faults.require(holds, key, message);
    }

    pub(super) fn default(name: &str) -> &'static str {
        key::find(name).map_or("", |key| key.default)
    }

    pub(super) fn text(&mut self, name: &str) -> String {
        let value = self
            .given
            .get(name)
            .map_or(Self::default(name), String::as_str)
            .to_owned();
        if let Some(Key {
            kind: Kind::Choice(words),
            ..
        }) = key::find(name)
            && !value.is_empty()
            && !words.contains(&value.as_str())
        {
            self.faults
                .add(name, format!("must be one of `{}`", words.join("`, `")));
            // Checks that compare several keys would only repeat the error.
            return String::new();
        }
        value
    }

    /// The parsed value. If `parse` fails, adds an error and parses the default.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        message: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        if let Some(text) = self.given.get(name) {
            match parse(text.trim()) {
                Some(value) => return Some(value),
                None => self.faults.add(name, message),
            }
        }
        parse(Self::default(name))
    }

    pub(super) fn parse_or_default<T: FromStr + Default>(
        &mut self,
        name: &str,
        message: &str,
    ) -> T {
        self.parsed(name, message, |text| text.parse().ok())
            .unwrap_or_default()
    }

    pub(super) fn boolean(&mut self, name: &str) -> bool {
        self.parse_or_default(name, "must be `true` or `false`")
    }

    pub(super) fn address(&mut self, name: &str) -> SocketAddr {
        self.parsed(
            name,
            "must be an IP address and a port such as `127.0.0.1:8087`",
            |text| text.parse().ok(),
        )
        .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    pub(super) fn integer(&mut self, name: &str) -> u64 {
        let (low, high) = match key::find(name) {
            Some(Key {
                kind: Kind::Integer(low, high),
                ..
            }) => (*low, *high),
            _ => (0, u64::MAX),
        };
        self.parsed(
            name,
            &format!("must be a whole number from {low} to {high}"),
            |text| text.parse().ok().filter(|n| (low..=high).contains(n)),
        )
        .unwrap_or_default()
    }

    pub(super) fn small(&mut self, name: &str) -> u32 {
        u32::try_from(self.integer(name)).unwrap_or(u32::MAX)
    }

    pub(super) fn size(&mut self, name: &str) -> usize {
        usize::try_from(self.integer(name)).unwrap_or(usize::MAX)
    }

    pub(super) fn seconds(&mut self, name: &str) -> Duration {
        Duration::from_secs(self.integer(name))
    }

    pub(super) fn number(&mut self, name: &str) -> f64 {
        let (low, high) = match key::find(name) {
            Some(Key {
                kind: Kind::Number(low, high),
                ..
            }) => (*low, *high),
            _ => (f64::MIN, f64::MAX),
        };
        self.parsed(
            name,
            &format!("must be a number from {low} to {high}"),
            |text| text.parse().ok().filter(|n| (low..=high).contains(n)),
        )
        .unwrap_or_default()
    }

    pub(super) fn uuid(&mut self, name: &str) -> Option<Uuid> {
        if self
            .given
            .get(name)
            .is_some_and(|text| text.trim().is_empty())
        {
            return None;
        }
        self.parsed(name, "must be a UUID", |text| text.parse().ok())
    }

    pub(super) fn networks(&mut self, name: &str) -> Vec<IpNetwork> {
        self.parsed(
            name,
            "must be networks such as `10.0.0.0/8`, separated by commas",
            |text| {
                text.split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(|part| part.parse().ok())
                    .collect()
            },
        )
        .unwrap_or_default()
    }

    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        self.text(name)
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn prefix(&mut self, name: &str) -> String {
        match prefix::normalise(&self.text(name)) {
            Ok(path) => path,
            Err(message) => {
                self.faults.add(name, message);
                String::new()
            }
        }
    }

    /// The text with `${VAR}` replaced (PLAT-150).
    pub(super) fn secret(&mut self, name: &str) -> String {
        let text = self.text(name);
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let Some((variable, after)) = after.split_once('}') else {
                self.faults.add(name, "has `${` without `}`");
                return out;
            };
            match self.env.get(variable) {
                Some(value) => out.push_str(value),
                None => self
                    .faults
                    .add(name, format!("the variable `{variable}` is not set")),
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }
}
