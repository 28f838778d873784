//! The signer: issues certificates for key pairs it makes itself, and for the public key of a signing request.

use std::path::{Path, PathBuf};

use jiff::{ToSpan, Zoned, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};

use super::files;

const AUTHORITY_DAYS: i64 = 3650;
const MEMBER_DAYS: i64 = 365;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{operation} {path}: {source}")]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} is there but {other} is not: restore it, or remove both to make a new authority")]
    Half { path: PathBuf, other: PathBuf },
    #[error("{operation}: {source}")]
    Certificate { operation: &'static str, source: rcgen::Error },
    #[error("the bootstrap token in {path} is shorter than 16 characters")]
    ShortToken { path: PathBuf },
    #[error("the system gives no random bytes")]
    Random,
    #[error("{path} is not the cluster's, which the store holds: move it away to take that one")]
    Other { path: PathBuf },
    #[error(
        "the store's key {key} is missing or cannot be read, while others of the cluster's authority are there"
    )]
    Unreadable { key: &'static str },
    #[error("share the cluster's authority: {0}")]
    Store(#[from] weir_store::Error),
    #[error("compute the validity of a certificate: {0}")]
    Time(#[from] jiff::Error),
}

fn certificate(operation: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Certificate { operation, source }
}

/// Whom a certificate names: `name` is the user, `group` its group.
#[derive(Debug, Clone)]
pub struct Subject {
    pub name: String,
    pub group: Option<String>,
    /// DNS names and IP addresses that the holder serves on.
    pub serves_on: Vec<String>,
    client: bool,
}

impl Subject {
    pub fn client(name: &str, group: &str) -> Self {
        Subject { name: name.to_owned(), group: Some(group.to_owned()), serves_on: Vec::new(), client: true }
    }

    pub fn server(name: &str, serves_on: Vec<String>) -> Self {
        Subject { name: name.to_owned(), group: None, serves_on, client: false }
    }

    /// A node: a client of the API, and a server of logs at its addresses.
    pub fn node(node_name: &str, addresses: &[String]) -> Self {
        let mut serves_on = vec![node_name.to_owned()];
        serves_on.extend(addresses.iter().cloned());
        Subject {
            name: format!("system:node:{node_name}"),
            group: Some("system:nodes".to_owned()),
            serves_on,
            client: true,
        }
    }

    fn params(&self) -> Result<CertificateParams, PkiError> {
        let mut params = CertificateParams::new(self.serves_on.clone())
            .map_err(certificate("name a certificate's holder"))?;
        let mut names = DistinguishedName::new();
        names.push(DnType::CommonName, self.name.as_str());
        if let Some(group) = &self.group {
            names.push(DnType::OrganizationName, group.as_str());
        }
        params.distinguished_name = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if self.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if !self.serves_on.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        limit_validity(&mut params, MEMBER_DAYS)?;
        Ok(params)
    }
}

/// Valid from yesterday, so that members whose clocks are a little behind accept it.
fn limit_validity(params: &mut CertificateParams, days: i64) -> Result<(), PkiError> {
    let today = Zoned::now().with_time_zone(TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(today.checked_sub(1.day())?);
    params.not_after = day(today.checked_add(days.days())?);
    Ok(())
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct KeyedCertificate {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for KeyedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedCertificate")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

impl KeyedCertificate {
    pub(super) fn write(&self, dir: &Path, name: &str) -> Result<(), PkiError> {
        files::write_private(&dir.join(format!("{name}.key")), self.key_pem.as_bytes())?;
        files::write_public(&dir.join(format!("{name}.crt")), self.certificate_pem.as_bytes())
    }
}

/// The certificate authority.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads `ca.crt` and `ca.key`, or makes them when neither exists.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let (crt, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        match (files::read_optional(&crt)?, files::read_optional(&key)?) {
            (Some(certificate_pem), Some(key_pem)) => {
                let key = KeyPair::from_pem(&key_pem).map_err(certificate("read the authority's key"))?;
                let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)
                    .map_err(certificate("read the authority's certificate"))?;
                Ok(Authority { certificate_pem, issuer })
            }
            (None, None) => {
                let made = Self::make()?;
                files::write_private(&key, made.issuer.key().serialize_pem().as_bytes())?;
                files::write_public(&crt, made.certificate_pem.as_bytes())?;
                Ok(made)
            }
            (Some(_), None) => Err(PkiError::Half { path: crt, other: key }),
            (None, Some(_)) => Err(PkiError::Half { path: key, other: crt }),
        }
    }

    pub(super) fn make() -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(certificate("make the authority's key"))?;
        let mut params = CertificateParams::new(Vec::new())
            .map_err(certificate("describe the authority's certificate"))?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "weir-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        limit_validity(&mut params, AUTHORITY_DAYS)?;
        let signed = params.self_signed(&key).map_err(certificate("sign the authority's certificate"))?;
        Ok(Authority { certificate_pem: signed.pem(), issuer: Issuer::new(params, key) })
    }

    pub(super) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a key pair and a certificate for `subject`.
    pub fn issue(&self, subject: &Subject) -> Result<KeyedCertificate, PkiError> {
        let key = KeyPair::generate().map_err(certificate("make a key"))?;
        Ok(KeyedCertificate { certificate_pem: self.sign(subject, &key)?, key_pem: key.serialize_pem() })
    }

    /// Signs the public key of a signing request, whose own signature is checked, for `subject`; PEM.
    pub fn sign_request(&self, csr_pem: &str, subject: &Subject) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(certificate("read the certificate signing request"))?;
        self.sign(subject, &request.public_key)
    }

    fn sign(&self, subject: &Subject, key: &impl PublicKeyData) -> Result<String, PkiError> {
        let signed =
            subject.params()?.signed_by(key, &self.issuer).map_err(certificate("sign a certificate"))?;
        Ok(signed.pem())
    }
}
