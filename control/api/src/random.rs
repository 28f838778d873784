//! Random names: uids, suffixes of generated names, tokens. From the operating system, through the TLS provider.

use rustls::crypto::ring::default_provider;

use crate::pki::PkiError;

/// What generated names end in: no vowels and no digits that look like letters, so that no word comes out.
const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

fn fill(bytes: &mut [u8]) -> Result<(), PkiError> {
    default_provider().secure_random.fill(bytes).map_err(|_| PkiError::Random)
}

/// `bytes` random bytes in hexadecimal.
pub(crate) fn hex(bytes: usize) -> Result<String, PkiError> {
    let mut raw = vec![0; bytes];
    fill(&mut raw)?;
    Ok(raw.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A version 4 UUID (RFC 9562).
pub(crate) fn uuid() -> Result<String, PkiError> {
    let mut raw = [0u8; 16];
    fill(&mut raw)?;
    raw[6] = raw[6] & 0x0f | 0x40;
    raw[8] = raw[8] & 0x3f | 0x80;
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Five letters to end a generated name with.
pub(crate) fn suffix() -> Result<String, PkiError> {
    let mut raw = [0u8; 5];
    fill(&mut raw)?;
    Ok(raw
        .iter()
        .map(|byte| char::from(SUFFIX_ALPHABET[usize::from(*byte) % SUFFIX_ALPHABET.len()]))
        .collect())
}

/// A number below `bound`; 0 if `bound` is 0. (The bias is below 2⁻³² for the ranges allocated from.)
pub(crate) fn below(bound: u32) -> Result<u32, PkiError> {
    let mut raw = [0u8; 8];
    fill(&mut raw)?;
    let wide = u64::from_le_bytes(raw);
    Ok(u32::try_from(wide % u64::from(bound.max(1))).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_their_version_and_differ() {
        let (one, two) = (uuid().unwrap(), uuid().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 36);
        assert_eq!(&one[14..15], "4");
    }

    #[test]
    fn suffixes_are_five_letters_that_a_name_may_end_in() {
        let suffix = suffix().unwrap();
        assert_eq!(suffix.len(), 5);
        assert!(suffix.bytes().all(|letter| SUFFIX_ALPHABET.contains(&letter)));
    }
}
