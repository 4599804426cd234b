//! `postgres://…` of `database.url` and `database.listen_url` (D43).
//!
//! ```text
//! postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?sslmode=verify-full&sslrootcert=FILE
//! ```
//!
//! Of several hosts the one that can be written to is used. No fault quotes the
//! URL, which may hold a password.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use crate::Secret;

/// The port of PostgreSQL.
const PORT: u16 = 5432;

/// How PostgreSQL is reached. What is `None` is the driver's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    /// At least one.
    pub hosts: Vec<Host>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub database: Option<String>,
    pub application_name: Option<String>,
    /// Settings of each session.
    pub options: Vec<(String, String)>,
    pub tls: Tls,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name, an address, or the directory of a Unix socket.
    pub name: String,
    pub port: u16,
}

/// Whether and how the connection is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    pub mode: SslMode,
    /// Authorities that may have signed the server's certificate. `None`: those
    /// that browsers trust.
    pub root_cert: Option<PathBuf>,
    /// Certificate and key of the client.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// `sslmode`, as PostgreSQL's own clients understand it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    Disable,
    /// Encrypted if the server can; nothing is verified.
    #[default]
    Prefer,
    /// Encrypted; nothing is verified.
    Require,
    /// Encrypted; an authority of `sslrootcert` signed the certificate.
    VerifyCa,
    /// The same, and the certificate is for the host's name.
    VerifyFull,
}

const MODES: [(&str, SslMode); 5] = [
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

/// What is wrong with a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PostgresUrlError(pub &'static str);

type Result<T> = std::result::Result<T, PostgresUrlError>;

const NO_PORT: &str = "has a port that is no number from 1 to 65535; in a password, write `?` as %3F, `@` as %40 and `/` as %2F";

const IN_DATABASE: &str = "has a `/` or `@` in the name of the database; in a password, write `?` as %3F, `@` as %40 and `/` as %2F";

const UNKNOWN: &str = "has a parameter that is not known; known are sslmode, sslrootcert, sslcert, sslkey, host, port, \
    dbname, user, password, application_name and options; in a password, write `?` as %3F, `@` as %40 and `/` as %2F";

/// Whether `url` is meant for PostgreSQL.
pub fn is_postgres(url: &str) -> bool {
    without_scheme(url).is_some()
}

fn without_scheme(url: &str) -> Option<&str> {
    url.strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
}

impl PostgresUrl {
    /// Reads a URL and checks what can be checked without a server and files.
    pub fn parse(url: &str) -> Result<Self> {
        let Parts {
            user,
            password,
            hosts,
            database,
            parameters,
        } = Parts::of(url)?;
        let given = |text: &str| -> Result<Option<String>> {
            let text = decode(text)?;
            Ok((!text.is_empty()).then_some(text))
        };
        let mut parsed = Self {
            hosts: hosts.split(',').map(host).collect::<Result<_>>()?,
            user: given(user)?,
            password: given(password)?.map(Secret::new),
            database: given(database)?,
            application_name: None,
            options: Vec::new(),
            tls: Tls::default(),
        };
        let mut files = Files::default();
        for (name, value) in parameters {
            parsed.set(&mut files, name, decode(value)?)?;
        }
        parsed.tls = files.tls(parsed.tls.mode)?;
        let is_complete = parsed.hosts.iter().all(|host| !host.name.is_empty());
        if !is_complete {
            return Err(PostgresUrlError(
                "names no host; write postgres://USER:PASSWORD@HOST/DATABASE",
            ));
        }
        Ok(parsed)
    }

    fn set(&mut self, files: &mut Files, name: &str, value: String) -> Result<()> {
        match name {
            "sslmode" => self.tls.mode = mode(&value)?,
            "sslrootcert" => files.root_cert = Some(value),
            "sslcert" => files.cert = Some(value.into()),
            "sslkey" => files.key = Some(value.into()),
            "host" => self.only_host()?.name = value,
            "port" => self.only_host()?.port = port(&value)?,
            "dbname" => self.database = Some(value),
            "user" => self.user = Some(value),
            "password" => self.password = Some(Secret::new(value)),
            "application_name" => self.application_name = Some(value),
            "options" => self.options.extend(options(&value)?),
            _ => return Err(PostgresUrlError(UNKNOWN)),
        }
        Ok(())
    }

    fn only_host(&mut self) -> Result<&mut Host> {
        match self.hosts.as_mut_slice() {
            [host] => Ok(host),
            _ => Err(PostgresUrlError(
                "several hosts stand before the `/`, each with its port, not in `host` or `port`",
            )),
        }
    }
}

/// The URL as it is shown to people, and whether it has a password, which is left
/// out.
pub fn without_password(url: &str) -> Result<(String, bool)> {
    let Parts {
        user,
        password,
        hosts,
        database,
        parameters,
    } = Parts::of(url)?;
    let (secret, open): (Vec<_>, Vec<_>) = parameters
        .into_iter()
        .partition(|(name, _)| *name == "password");
    let at = if user.is_empty() { "" } else { "@" };
    let open: Vec<_> = open
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mark = if open.is_empty() { "" } else { "?" };
    let shown = format!(
        "postgres://{user}{at}{hosts}/{database}{mark}{}",
        open.join("&")
    );
    Ok((shown, !password.is_empty() || !secret.is_empty()))
}

/// A URL taken apart, each part as it is written.
struct Parts<'u> {
    user: &'u str,
    password: &'u str,
    hosts: &'u str,
    database: &'u str,
    parameters: Vec<(&'u str, &'u str)>,
}

impl<'u> Parts<'u> {
    fn of(url: &'u str) -> Result<Self> {
        let rest = without_scheme(url).ok_or(PostgresUrlError("must begin with postgres://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        if database.contains(['/', '@']) {
            return Err(PostgresUrlError(IN_DATABASE));
        }
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Ok(Self {
            user,
            password,
            hosts,
            database,
            parameters: pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .collect(),
        })
    }
}

/// Files, before it is known whether the mode needs them.
#[derive(Default)]
struct Files {
    root_cert: Option<String>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Files {
    fn tls(self, mode: SslMode) -> Result<Tls> {
        let Self {
            root_cert,
            cert,
            key,
        } = self;
        let is_public = root_cert.as_deref().is_none_or(|file| file == "system");
        let fault = match mode {
            SslMode::VerifyCa if is_public => {
                "sslmode=verify-ca needs sslrootcert, the file of the authority that signed the server's certificate"
            }
            SslMode::Disable | SslMode::Prefer if root_cert.is_some() => {
                "sslrootcert has no effect unless sslmode is require, verify-ca or verify-full"
            }
            SslMode::Disable if cert.is_some() || key.is_some() => {
                "sslcert and sslkey have no effect with sslmode=disable"
            }
            _ => "",
        };
        if !fault.is_empty() {
            return Err(PostgresUrlError(fault));
        }
        let client = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(PostgresUrlError("sslcert and sslkey belong together")),
        };
        // As PostgreSQL's own clients do.
        let mode = match mode {
            SslMode::Require if root_cert.is_some() && is_public => SslMode::VerifyFull,
            SslMode::Require if root_cert.is_some() => SslMode::VerifyCa,
            mode => mode,
        };
        Ok(Tls {
            mode,
            root_cert: root_cert.filter(|_| !is_public).map(PathBuf::from),
            client,
        })
    }
}

fn mode(value: &str) -> Result<SslMode> {
    let known = MODES.iter().find(|(name, _)| *name == value);
    known.map(|(_, mode)| *mode).ok_or(PostgresUrlError(
        "sslmode must be disable, prefer, require, verify-ca or verify-full",
    ))
}

fn host(text: &str) -> Result<Host> {
    let (name, number) = match text.rsplit_once(':') {
        // The last group of an address in brackets is no port.
        Some((name, number)) if !number.ends_with(']') => (name, Some(number)),
        _ => (text, None),
    };
    let name = match name.strip_prefix('[') {
        Some(inner) => inner
            .strip_suffix(']')
            .filter(|address| address.parse::<Ipv6Addr>().is_ok())
            .ok_or(PostgresUrlError(
                "has brackets around what is no IPv6 address",
            ))?
            .to_owned(),
        None => decode(name)?,
    };
    Ok(Host {
        name,
        port: number.map_or(Ok(PORT), port)?,
    })
}

fn port(text: &str) -> Result<u16> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or(PostgresUrlError(NO_PORT))
}

/// `-c NAME=VALUE` and `--NAME=VALUE`, separated by spaces; `\` makes the next
/// character an ordinary one.
fn options(text: &str) -> Result<Vec<(String, String)>> {
    let mut words = words(text).into_iter();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--") {
            Some(setting) => Some(setting.to_owned()),
            None if word == "-c" => words.next(),
            None => word.strip_prefix("-c").map(str::to_owned),
        };
        let setting = setting.as_deref().and_then(|it| it.split_once('='));
        let (name, value) = setting.ok_or(PostgresUrlError(
            "options must be like `-c NAME=VALUE`, with spaces written as %20",
        ))?;
        found.push((name.to_owned(), value.to_owned()));
    }
    Ok(found)
}

fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        let last = words.len() - 1;
        match c {
            '\\' => words[last].extend(characters.next()),
            c if c.is_whitespace() => words.push(String::new()),
            c => words[last].push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| PostgresUrlError("has bytes that are not UTF-8"))?;
    if decoded.contains('\0') {
        return Err(PostgresUrlError("has a byte 0"));
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(rest: &str) -> PostgresUrl {
        PostgresUrl::parse(&format!("postgres://{rest}")).unwrap()
    }

    fn fault(rest: &str) -> String {
        let fault = PostgresUrl::parse(&format!("postgres://{rest}")).unwrap_err();
        let fault = fault.to_string();
        assert!(!fault.contains("secret"), "{fault}");
        fault
    }

    fn hosts(url: &PostgresUrl) -> Vec<(&str, u16)> {
        let hosts = url.hosts.iter();
        hosts.map(|host| (host.name.as_str(), host.port)).collect()
    }

    #[test]
    fn a_url_is_taken_apart() {
        let url = parsed(
            "u%40x:p%3Aw%2F%3F@h:6000/d%20b?application_name=a&options=-c%20a%3Db%20--c%3Dd%5C%20e",
        );
        assert_eq!(hosts(&url), [("h", 6000)]);
        assert_eq!(url.user.as_deref(), Some("u@x"));
        assert_eq!(url.password.as_ref().map(Secret::expose), Some("p:w/?"));
        assert_eq!(url.database.as_deref(), Some("d b"));
        assert_eq!(url.application_name.as_deref(), Some("a"));
        let options = [("a", "b"), ("c", "d e")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(url.options, options);
        assert_eq!(url.tls, Tls::default());
    }

    #[test]
    fn hosts_are_names_addresses_and_sockets() {
        assert_eq!(hosts(&parsed("a,b:1/d")), [("a", PORT), ("b", 1)]);
        assert_eq!(
            hosts(&parsed("[::1]:7,[fe80::2]/d")),
            [("::1", 7), ("fe80::2", PORT)]
        );
        assert_eq!(
            hosts(&parsed("%2Frun%2Fpostgresql/d")),
            [("/run/postgresql", PORT)]
        );
        assert_eq!(
            hosts(&parsed("/d?host=/run/postgresql&port=9")),
            [("/run/postgresql", 9)]
        );
        assert_eq!(hosts(&parsed("u:p@w@h/d")), [("h", PORT)]);
    }

    /// D43.
    #[test]
    fn every_sslmode_is_known() {
        let tls = |query: &str| parsed(&format!("h/d?{query}")).tls;
        assert_eq!(tls("").mode, SslMode::Prefer);
        assert_eq!(tls("sslmode=disable").mode, SslMode::Disable);
        assert_eq!(tls("sslmode=prefer").mode, SslMode::Prefer);
        assert_eq!(tls("sslmode=require").mode, SslMode::Require);
        let verified = tls("sslmode=verify-ca&sslrootcert=/ca.pem&sslcert=/c&sslkey=/k");
        assert_eq!(verified.mode, SslMode::VerifyCa);
        assert_eq!(verified.root_cert, Some("/ca.pem".into()));
        assert_eq!(verified.client, Some(("/c".into(), "/k".into())));
        assert_eq!(
            tls("sslrootcert=/ca.pem&sslmode=verify-full").mode,
            SslMode::VerifyFull
        );
        let public = tls("sslmode=verify-full&sslrootcert=system");
        assert_eq!((public.mode, public.root_cert), (SslMode::VerifyFull, None));
    }

    /// Whoever names an authority wants it to count.
    #[test]
    fn require_with_an_authority_verifies() {
        let tls = |query: &str| parsed(&format!("h/d?sslmode=require&{query}")).tls.mode;
        assert_eq!(tls("sslrootcert=/ca.pem"), SslMode::VerifyCa);
        assert_eq!(tls("sslrootcert=system"), SslMode::VerifyFull);
    }

    /// PLAT-165
    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("postgres://u:p@h:5432/d", "postgres://u@h:5432/d"),
            (
                "postgres://u:p@p@h,i:1/d?sslmode=require",
                "postgres://u@h,i:1/d?sslmode=require",
            ),
            (
                "postgresql://h/d?user=u&password=p&a=b",
                "postgres://h/d?user=u&a=b",
            ),
        ] {
            assert_eq!(without_password(url), Ok((shown.to_owned(), true)), "{url}");
        }
        let open = "postgres://u@h/d?sslmode=require";
        assert_eq!(without_password(open), Ok((open.to_owned(), false)));
    }

    #[test]
    fn faults_say_what_to_write() {
        for (url, words) in [
            ("u:secret@h:port/d", "port"),
            ("u:secret@h:0/d", "port"),
            ("u:s@secret/secret@h/d", "%2F"),
            ("u:secret@/d", "names no host"),
            ("u:secret@h,/d", "names no host"),
            ("u:secret@[h]/d", "IPv6"),
            ("u:%ff@h/d", "UTF-8"),
            ("u:%00@h/d", "byte 0"),
            ("u:a?secret@h/d", "%3F"),
            ("u:secret@h/d?sslmod=require", "sslmode"),
            ("u:secret@h/d?sslmode=secret", "verify-full"),
            ("u:secret@h/d?sslmode=allow", "verify-full"),
            ("u:secret@h/d?sslmode=verify-ca", "sslrootcert"),
            (
                "u:secret@h/d?sslmode=verify-ca&sslrootcert=system",
                "sslrootcert",
            ),
            ("u:secret@h/d?sslrootcert=/ca", "no effect"),
            (
                "u:secret@h/d?sslmode=disable&sslcert=/c&sslkey=/k",
                "no effect",
            ),
            ("u:secret@h/d?sslmode=require&sslcert=/c", "belong together"),
            ("u:secret@h/d?options=secret", "-c NAME=VALUE"),
            ("u:secret@h,i/d?port=1", "each with its port"),
        ] {
            let told = fault(url);
            assert!(told.contains(words), "{url}: {told}");
        }
    }
}
