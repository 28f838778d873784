//! One authority and one bootstrap token for all servers of a store: kept in the store, where only servers look, and
//! cached in each server's data directory.
//!
//! They appear in one transaction that insists on their absence, so of servers that start together for the first
//! time one wins and the others take what it made. A data directory that brings its own (from before the store held them)
//! gives it to a store that has none; where the store has another, the server refuses to start rather than replace a key.
//!
//! Whoever can read the store can sign certificates: it holds every Secret as well.

use std::path::Path;

use weir_store::{ListOptions, Store, Txn};

use super::authority::{Authority, PkiError};
use super::files;

/// Not under `/registry/`: no request reaches it.
const ROOT: &str = "/weir/cluster/";
const CERTIFICATE: &str = "/weir/cluster/ca.crt";
const KEY: &str = "/weir/cluster/ca.key";
const TOKEN: &str = "/weir/cluster/bootstrap-token";

/// How often to look again when others are faster, or an answer was lost.
const ATTEMPTS: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Shared {
    certificate_pem: String,
    key_pem: String,
    token: String,
}

/// Makes the authority and the token in `data_dir` those of the cluster. To be called before they are opened.
pub async fn share(store: &dyn Store, data_dir: &Path) -> Result<(), PkiError> {
    let pki = data_dir.join("pki");
    files::make_private_dir(&pki)?;
    let mut tried = 0;
    loop {
        if let Some(shared) = read(store).await? {
            return adopt(&shared, data_dir);
        }
        let offer = offer(data_dir)?;
        let txn = Txn::new().absent(CERTIFICATE).absent(KEY).absent(TOKEN);
        let txn = txn.put(CERTIFICATE, offer.certificate_pem).put(KEY, offer.key_pem).put(TOKEN, offer.token);
        tried += 1;
        match store.txn(txn).await {
            // Read back what there is now, whoever made it.
            Ok(_) => {}
            Err(error) if tried < ATTEMPTS => tracing::warn!(%error, "cannot share the authority yet"),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn read(store: &dyn Store) -> Result<Option<Shared>, PkiError> {
    let found = store.list(ROOT, ListOptions::default()).await?.items;
    let value = |key: &'static str| -> Result<Option<String>, PkiError> {
        let Some(kv) = found.iter().find(|kv| kv.key == key) else { return Ok(None) };
        String::from_utf8(kv.value.to_vec()).map(Some).map_err(|_| PkiError::Unreadable { key })
    };
    match (value(CERTIFICATE)?, value(KEY)?, value(TOKEN)?) {
        (Some(certificate_pem), Some(key_pem), Some(token)) => {
            Ok(Some(Shared { certificate_pem, key_pem, token }))
        }
        (None, None, None) => Ok(None),
        (certificate, key, _) => {
            let missing = if certificate.is_none() {
                CERTIFICATE
            } else if key.is_none() {
                KEY
            } else {
                TOKEN
            };
            Err(PkiError::Unreadable { key: missing })
        }
    }
}

/// What this server brings to a store that has nothing: what its data directory holds, or something new.
fn offer(data_dir: &Path) -> Result<Shared, PkiError> {
    let pki = data_dir.join("pki");
    let local = files::read_optional(&pki.join("ca.crt"))?.zip(files::read_optional(&pki.join("ca.key"))?);
    let (certificate_pem, key_pem) = match local {
        Some(local) => local,
        // Half of one is an error that `open` names; a whole new one stays in memory until the store has it.
        None if pki.join("ca.crt").exists() || pki.join("ca.key").exists() => {
            let opened = Authority::open(&pki)?;
            (opened.certificate_pem().to_owned(), opened.key_pem())
        }
        None => {
            let made = Authority::make()?;
            (made.certificate_pem().to_owned(), made.key_pem())
        }
    };
    let token = match super::read_token(&data_dir.join("bootstrap-token"))? {
        Some(token) => token,
        None => crate::random::hex(16)?,
    };
    Ok(Shared { certificate_pem, key_pem, token })
}

fn adopt(shared: &Shared, data_dir: &Path) -> Result<(), PkiError> {
    let files = [
        (data_dir.join("pki/ca.key"), &shared.key_pem, true),
        (data_dir.join("pki/ca.crt"), &shared.certificate_pem, false),
        (data_dir.join("bootstrap-token"), &shared.token, true),
    ];
    for (path, content, _) in &files {
        if files::read_optional(path)?.is_some_and(|present| present.trim() != content.trim()) {
            return Err(PkiError::Other { path: path.clone() });
        }
    }
    for (path, content, private) in files {
        match private {
            true => files::write_private(&path, content.as_bytes())?,
            false => files::write_public(&path, content.as_bytes())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use tempfile::TempDir;
    use weir_store::embedded;

    use super::*;
    use crate::pki::{Pki, bootstrap_token};

    fn store(dir: &TempDir) -> Arc<dyn Store> {
        Arc::new(embedded::open(dir.path().join("store")).unwrap())
    }

    fn opened(dir: &TempDir) -> (String, String) {
        let pki = Pki::open(&dir.path().join("pki"), &[]).unwrap();
        let token = bootstrap_token(&dir.path().join("bootstrap-token")).unwrap();
        (pki.authority.certificate_pem().to_owned(), token)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn servers_that_start_together_agree_on_one_authority() {
        let dirs: Vec<TempDir> = (0..6).map(|_| TempDir::new().unwrap()).collect();
        let store = store(&dirs[0]);
        let starts = dirs.iter().map(|dir| share(store.as_ref(), dir.path()));
        futures::future::try_join_all(starts).await.unwrap();
        let first = opened(&dirs[0]);
        for dir in &dirs {
            assert_eq!(opened(dir), first);
            // Again, as at the next start.
            share(store.as_ref(), dir.path()).await.unwrap();
            assert_eq!(opened(dir), first);
        }
    }

    #[tokio::test]
    async fn a_data_directory_from_before_gives_its_authority_to_the_store() {
        let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let before = opened(&old);
        let store = store(&new);
        share(store.as_ref(), old.path()).await.unwrap();
        share(store.as_ref(), new.path()).await.unwrap();
        assert_eq!((opened(&old), opened(&new)), (before.clone(), before));
    }

    #[tokio::test]
    async fn another_authority_is_refused_and_nothing_is_replaced() {
        let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let store = store(&one);
        share(store.as_ref(), one.path()).await.unwrap();
        let before = opened(&other);
        let error = share(store.as_ref(), other.path()).await.unwrap_err().to_string();
        assert!(error.contains("ca.key is not the cluster's"), "{error}");
        assert_eq!(opened(&other), before);

        fs::write(one.path().join("bootstrap-token"), "something else entirely").unwrap();
        let error = share(store.as_ref(), one.path()).await.unwrap_err().to_string();
        assert!(error.contains("bootstrap-token is not the cluster's"), "{error}");
    }

    #[tokio::test]
    async fn half_an_authority_is_an_error_not_a_reason_to_make_one() {
        let dir = TempDir::new().unwrap();
        let store = store(&dir);
        opened(&dir);
        fs::remove_file(dir.path().join("pki/ca.key")).unwrap();
        assert!(matches!(share(store.as_ref(), dir.path()).await, Err(PkiError::Half { .. })));
        store.txn(Txn::new().put(CERTIFICATE, "x")).await.unwrap();
        let error = share(store.as_ref(), dir.path()).await.unwrap_err().to_string();
        assert!(error.contains(KEY), "{error}");
    }
}
