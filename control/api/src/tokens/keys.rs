//! The key that signs: ECDSA on P-256, made once for the cluster and kept in the store, where only servers look.

use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use weir_proto::status::ApiError;
use weir_store::{Store, Txn};

use super::ISSUER;
use super::bearer::Refused;
use super::claims::Claims;
use crate::store_error;

/// Beside the authority; PEM (PKCS #8).
const KEY: &str = "/weir/cluster/service-account.key";
/// How often to look again when others are faster.
const ATTEMPTS: usize = 5;

pub(crate) struct Keys {
    private: EncodingKey,
    public: DecodingKey,
    jwk: Jwk,
    id: String,
}

impl Keys {
    /// The cluster's key: of servers that start together for the first time, one makes it.
    pub(super) async fn share(store: &dyn Store) -> Result<Self, ApiError> {
        for _ in 0..ATTEMPTS {
            let found = store.get(KEY).await.map_err(store_error::during("read"))?;
            if let Some(kv) = found.value {
                return Keys::read(&kv.value).map_err(|error| {
                    tracing::error!(key = KEY, %error, "cannot read the key of service accounts' tokens");
                    ApiError::internal(format!("the store's {KEY} is not a key for tokens: {error}"))
                });
            }
            let made = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                .map_err(|error| ApiError::internal(format!("make a key for tokens: {error}")))?;
            let txn = Txn::new().absent(KEY).put(KEY, made.serialize_pem());
            // Whoever wrote first is right: what is there is read back.
            store.txn(txn).await.map_err(store_error::during("write"))?;
        }
        Err(ApiError::unavailable("the key of service accounts' tokens cannot be made yet"))
    }

    pub(super) fn read(pem: &[u8]) -> jsonwebtoken::errors::Result<Self> {
        let private = EncodingKey::from_ec_pem(pem)?;
        let mut jwk = Jwk::from_encoding_key(&private, Algorithm::ES256)?;
        let id = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_algorithm = Some(KeyAlgorithm::ES256);
        let public = DecodingKey::from_jwk(&jwk)?;
        Ok(Keys { private, public, jwk, id })
    }

    /// The public half, for whoever checks tokens.
    pub(super) fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    pub(super) fn sign(&self, claims: &Claims) -> Result<String, ApiError> {
        let header = Header { typ: None, kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.private)
            .map_err(|error| ApiError::internal(format!("sign a token: {error}")))
    }

    /// What a token of ours says; times, audience and objects are still to be looked at.
    pub(super) fn verify(&self, token: &str) -> Result<Claims, Refused> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // `Claims::check` does, against a time that can be set.
        validation.validate_exp = false;
        validation.validate_aud = false;
        match jsonwebtoken::decode::<Claims>(token, &self.public, &validation) {
            Ok(data) => Ok(data.claims),
            Err(error) => Err(Refused::Signature(error.to_string())),
        }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use weir_store::embedded;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn servers_that_start_together_sign_with_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = embedded::open(dir.path().join("store")).unwrap();
        let keys = futures::future::try_join_all((0..6).map(|_| Keys::share(&store))).await.unwrap();
        assert!(keys.iter().all(|key| key.id == keys[0].id && key.jwk == keys[0].jwk));
        assert_eq!(Keys::share(&store).await.unwrap().id, keys[0].id, "and so does one that comes later");
    }

    #[tokio::test]
    async fn a_damaged_key_is_an_error_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = embedded::open(dir.path().join("store")).unwrap();
        store.txn(Txn::new().put(KEY, "no key")).await.unwrap();
        let error = Keys::share(&store).await.unwrap_err();
        assert!(error.message().contains(KEY), "{error}");
        assert_eq!(&store.get(KEY).await.unwrap().value.unwrap().value[..], b"no key");
    }
}
