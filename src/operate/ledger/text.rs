//! The text in an object of a ledger, and the annotation that tells whether an operator wrote it.
//!
//! Every write puts the hash of the text beside it. Who edits a ledger by hand does not, and is not believed: less would be used
//! by it than was, and nobody would know. That guards against mistakes. Who may write the operator's ConfigMaps and wants to
//! deceive it can write the annotation too.

use k8s_openapi::api::core::v1::ConfigMap;
use sha2::{Digest as _, Sha256};

use super::gzip::{DecodeError, decode};

/// The entry of `binaryData` that the text is in, compressed.
pub const ENTRY: &str = "ledger";

/// The annotation with the SHA-256 of the text, as hexadecimal digits; an object that was emptied has none. Later versions have to
/// write it as well: without it nothing tells their ledgers from one that was edited.
pub const DIGEST: &str = "quartermaster.dev/ledger-sha256";

/// What stands in an object is not gone by.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// It is no text.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It is not what an operator wrote.
    #[error("it was changed by somebody else: it is not the text whose hash the annotation {DIGEST} should have")]
    Foreign,
}

/// What stands in an object; none in one that was emptied.
///
/// # Errors
///
/// It cannot be read, or was changed by somebody else than an operator.
pub fn text_of(object: &ConfigMap) -> Result<Option<String>, TextError> {
    let said = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DIGEST));
    let Some(binary) = object.binary_data.as_ref().and_then(|data| data.get(ENTRY)) else {
        return if said.is_none() { Ok(None) } else { Err(TextError::Foreign) };
    };
    let text = decode(&binary.0)?;
    if said.is_some_and(|said| *said == digest(&text)) { Ok(Some(text)) } else { Err(TextError::Foreign) }
}

/// The value of [`DIGEST`] for a text.
pub fn digest(text: &str) -> String {
    shown(&hash(text))
}

pub(super) fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// A hash as an annotation has it.
pub(super) fn shown(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;
    use kube::api::ObjectMeta;
    use rstest::rstest;

    use super::super::encode;
    use super::*;

    fn object(binary: Option<&[u8]>, said: Option<&str>) -> ConfigMap {
        let annotations = said.map(|said| BTreeMap::from([(DIGEST.to_owned(), said.to_owned())]));
        let data = binary.map(|binary| BTreeMap::from([(ENTRY.to_owned(), ByteString(binary.to_vec()))]));
        ConfigMap { metadata: ObjectMeta { annotations, ..ObjectMeta::default() }, binary_data: data, ..ConfigMap::default() }
    }

    #[test]
    fn hashes_that_are_stored_in_clusters_stay_what_they_are() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_text_with_its_hash_is_read_and_an_object_with_neither_is_empty() {
        let binary = encode("{}").unwrap();
        assert_eq!(text_of(&object(Some(&binary), Some(&digest("{}")))).unwrap().as_deref(), Some("{}"));
        assert_eq!(text_of(&object(None, None)).unwrap(), None);
        assert_eq!(text_of(&ConfigMap::default()).unwrap(), None);
    }

    #[rstest]
    #[case::another_text(Some("{ }"), Some(digest("{}")))]
    #[case::no_hash(Some("{}"), None)]
    #[case::something_else_for_a_hash(Some("{}"), Some(String::new()))]
    #[case::no_text(None, Some(digest("{}")))]
    fn what_has_another_hash_or_none_was_changed_by_somebody_else(#[case] text: Option<&str>, #[case] said: Option<String>) {
        let binary = text.map(|text| encode(text).unwrap());
        let error = text_of(&object(binary.as_deref(), said.as_deref())).unwrap_err();
        assert!(matches!(error, TextError::Foreign), "{error}");
        assert!(error.to_string().contains("changed by somebody else"), "{error}");
    }

    #[test]
    fn what_is_no_text_is_told_as_that_whatever_is_said_of_it() {
        let error = text_of(&object(Some(b"nonsense"), Some(&digest("nonsense")))).unwrap_err();
        assert!(matches!(error, TextError::Decode(DecodeError::Gzip(_))), "{error}");
    }
}
