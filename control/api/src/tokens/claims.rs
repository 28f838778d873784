//! What a token says, and whether it holds now for a given audience. Pure.

use serde::{Deserialize, Serialize};

use super::bearer::Refused;

/// How far clocks may differ, in seconds; and how long a pod that should be gone may still speak.
pub(super) const LEEWAY: i64 = 60;

/// A token's payload, as Kubernetes writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(super) aud: Vec<String>,
    pub(super) exp: i64,
    pub(super) iat: i64,
    pub(super) iss: String,
    pub(super) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(super) private: Private,
    pub(super) nbf: i64,
    pub(super) sub: String,
}

/// Of whom, and bound to what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Private {
    pub(super) namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Reference>,
    pub(super) serviceaccount: Reference,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) uid: String,
}

impl Claims {
    /// Whether the time is right and somebody of `audiences` is meant: which of them.
    pub(super) fn check(&self, now: i64, audiences: &[String]) -> Result<Vec<String>, Refused> {
        if now > self.exp.saturating_add(LEEWAY) {
            return Err(Refused::Expired);
        }
        if now < self.nbf.saturating_sub(LEEWAY) || now < self.iat.saturating_sub(LEEWAY) {
            return Err(Refused::NotYet);
        }
        let expected = user_name(&self.private.namespace, &self.private.serviceaccount.name);
        if self.sub != expected {
            return Err(Refused::Subject);
        }
        let meant: Vec<_> = audiences.iter().filter(|one| self.aud.contains(one)).cloned().collect();
        if meant.is_empty() { Err(Refused::Audience(self.aud.clone())) } else { Ok(meant) }
    }
}

pub(super) fn user_name(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
    use serde_json::{Value, json};

    use super::*;
    use crate::tokens::ISSUER;
    use crate::tokens::keys::Keys;

    const MADE: i64 = 1_700_000_000;

    pub(crate) fn keys() -> Keys {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Keys::read(pair.serialize_pem().as_bytes()).unwrap()
    }

    fn claims() -> Claims {
        let reference = |name: &str, uid: &str| Reference { name: name.to_owned(), uid: uid.to_owned() };
        Claims {
            aud: vec![ISSUER.to_owned(), "vault".to_owned()],
            exp: MADE + 3607,
            iat: MADE,
            iss: ISSUER.to_owned(),
            jti: "4f1e".to_owned(),
            private: Private {
                namespace: "shop".to_owned(),
                node: Some(reference("n1", "u3")),
                pod: Some(reference("web-1", "u2")),
                secret: None,
                serviceaccount: reference("web", "u1"),
            },
            nbf: MADE,
            sub: "system:serviceaccount:shop:web".to_owned(),
        }
    }

    fn ours() -> Vec<String> {
        vec![ISSUER.to_owned()]
    }

    /// A token of parts that nobody signed.
    fn unsigned(header: &Value, payload: &Value, signature: &str) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.{signature}", part(header), part(payload))
    }

    #[test]
    fn the_payload_is_kubernetes() {
        let expected = json!({
            "aud": [ISSUER, "vault"],
            "exp": MADE + 3607, "iat": MADE, "iss": ISSUER, "jti": "4f1e",
            "kubernetes.io": {
                "namespace": "shop",
                "node": {"name": "n1", "uid": "u3"},
                "pod": {"name": "web-1", "uid": "u2"},
                "serviceaccount": {"name": "web", "uid": "u1"},
            },
            "nbf": MADE, "sub": "system:serviceaccount:shop:web",
        });
        assert_eq!(serde_json::to_value(claims()).unwrap(), expected);
    }

    #[test]
    fn what_was_signed_is_believed_and_nothing_else() {
        let (keys, token) = (keys(), keys().sign(&claims()).unwrap());
        assert!(matches!(keys.verify(&token), Err(Refused::Signature(_))), "another cluster's key");
        let token = keys.sign(&claims()).unwrap();
        assert_eq!(keys.verify(&token).unwrap(), claims());

        let parts: Vec<&str> = token.split('.').collect();
        let mut other = claims();
        other.sub = "system:serviceaccount:kube-system:admin".to_owned();
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_string(&other).unwrap());
        let swapped = format!("{}.{payload}.{}", parts[0], parts[2]);
        let none = unsigned(&json!({"alg": "none"}), &json!(claims()), "");
        // A public key taken for a shared secret.
        let shared = unsigned(&json!({"alg": "HS256"}), &json!(claims()), parts[2]);
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        for forged in [
            swapped,
            none,
            shared,
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}", parts[0], parts[1]),
            format!("{token}.{token}"),
            String::new(),
            "...".to_owned(),
            "\u{0}.é.🦀".to_owned(),
            format!("{}.{}.x", URL_SAFE_NO_PAD.encode(&deep), URL_SAFE_NO_PAD.encode(&deep)),
        ] {
            assert!(matches!(keys.verify(&forged), Err(Refused::Signature(_))), "{forged:.60}");
        }
    }

    #[test]
    fn another_issuer_is_not_believed_even_by_the_same_key() {
        let keys = keys();
        let foreign = Claims { iss: "https://elsewhere".to_owned(), ..claims() };
        assert!(keys.verify(&keys.sign(&foreign).unwrap()).is_err());
    }

    #[test]
    fn times_count_with_a_minute_of_leeway_for_clocks() {
        for (now, right) in [
            (MADE - 61, false),
            (MADE - 59, true),
            (MADE, true),
            (MADE + 3607, true),
            (MADE + 3607 + 59, true),
            (MADE + 3607 + 61, false),
            (i64::MAX, false),
            (i64::MIN, false),
        ] {
            assert_eq!(
                claims().check(now, &ours()).is_ok(),
                right,
                "{:?}",
                Duration::from_secs(now.unsigned_abs())
            );
        }
        let forever = Claims { exp: i64::MAX, ..claims() };
        assert!(forever.check(i64::MAX - 1, &ours()).is_ok());
    }

    #[test]
    fn a_token_is_for_its_audience_alone() {
        let asked = |audiences: &[&str]| {
            let audiences: Vec<_> = audiences.iter().map(|one| (*one).to_owned()).collect();
            claims().check(MADE, &audiences)
        };
        assert_eq!(asked(&["x", "vault"]).unwrap(), ["vault"]);
        assert!(matches!(asked(&["x"]), Err(Refused::Audience(_))));
        assert!(matches!(asked(&[]), Err(Refused::Audience(_))));
    }

    #[test]
    fn the_subject_must_be_who_the_rest_names() {
        let other = Claims { sub: "system:serviceaccount:shop:admin".to_owned(), ..claims() };
        assert!(matches!(other.check(MADE, &ours()), Err(Refused::Subject)));
    }

    proptest! {
        #[test]
        fn no_text_is_a_token_by_chance(text in "\\PC{0,200}") {
            prop_assert!(keys().verify(&text).is_err());
        }

        #[test]
        fn one_changed_byte_breaks_a_token(at in 0..400_usize, to in b'0'..=b'9') {
            let keys = keys();
            let token = keys.sign(&claims()).unwrap();
            let mut bytes = token.clone().into_bytes();
            let at = at % (bytes.len() - 2);
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert!(keys.verify(&changed).is_err(), "{}", changed);
        }
    }
}
