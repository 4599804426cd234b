//! `server.tls.*` (PLAT-168).

use super::Settings;
use crate::process::types::TlsFiles;

const CERTIFICATE: &str = "server.tls.cert_file";
const KEY: &str = "server.tls.key_file";

/// Both files or none.
pub(super) fn tls(settings: &mut Settings) -> Option<TlsFiles> {
    let [certificate, key] = [CERTIFICATE, KEY].map(|name| settings.text(name));
    let (alone, missing) = match (certificate.is_empty(), key.is_empty()) {
        (true, true) => return None,
        (false, false) => {
            return Some(TlsFiles {
                certificate: certificate.into(),
                key: key.into(),
            });
        }
        (false, true) => (CERTIFICATE, KEY),
        (true, false) => (KEY, CERTIFICATE),
    };
    settings.faults.add(alone, format!("needs `{missing}`"));
    None
}
