//! The token with which a machine joins, before it has a certificate.

use weir_proto::status::ApiError;

/// Compares in a time that does not tell how much of the token was right.
pub(crate) fn check(presented: Option<&str>, expected: &str) -> Result<(), ApiError> {
    let presented = presented
        .and_then(|header| header.strip_prefix("Bearer ").or_else(|| header.strip_prefix("bearer ")))
        .ok_or_else(|| ApiError::unauthorized("joining takes a bootstrap token or the node's certificate"))?;
    let (presented, expected) = (presented.trim().as_bytes(), expected.as_bytes());
    let differences = presented.iter().zip(expected).fold(0, |found, (one, other)| found | (one ^ other));
    if presented.len() != expected.len() || differences != 0 {
        return Err(ApiError::unauthorized("the bootstrap token is not valid"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        assert!(check(Some("Bearer secret"), "secret").is_ok());
        for wrong in [None, Some("secret"), Some("Bearer secre"), Some("Bearer secrets"), Some("Bearer ")] {
            assert!(check(wrong, "secret").is_err(), "{wrong:?}");
        }
    }
}
