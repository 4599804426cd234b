//! Failures of TLS with PostgreSQL, and what a person can do about them.

use std::io;

use rustls::{CertificateError, Error};

/// The failure of TLS in a failure to read or write.
pub(super) fn failure(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

pub(super) fn advised(error: &Error) -> String {
    let advice = match error {
        // The second: another authority of the same name did not sign it.
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "name the file of the authority that signed the server's certificate in sslrootcert",
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "write the host as the server's certificate names it",
        Error::InvalidCertificate(_) => "the server needs another certificate",
        Error::AlertReceived(_) => "the server may want a certificate: sslcert and sslkey",
        _ => return error.to_string(),
    };
    format!("{error}; {advice}")
}

/// A failure before TLS began.
pub(super) fn not_offered(error: &str) -> String {
    format!("{error}; the server must have `ssl = on`, or sslmode be prefer or disable")
}
