//! Reads who a verified client certificate names.

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, X509Certificate};

/// The common name and the organisations of a DER certificate; `None` if it names nobody.
pub(crate) fn subject_names(der: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .map(|group| group.as_str().map(str::to_owned))
        .collect::<Result<_, _>>()
        .ok()?;
    (!name.is_empty()).then_some((name, groups))
}

/// Seconds until a DER certificate ends; negative if it has.
pub(crate) fn seconds_left(der: &[u8]) -> Option<f64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(certificate.validity().not_after.timestamp() as f64 - now.as_secs_f64())
}
