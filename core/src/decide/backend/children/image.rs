//! References of images.

/// An image reference that does not say which version it means.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It has neither tag nor digest.
    #[error("image {0} has neither tag nor digest, so that two pods may run different versions: append :<tag> or @sha256:<digest>")]
    NameVersion(String),
    /// It is not a reference at all.
    #[error("image {0} is not an image reference: write [registry/]repository:tag or [registry/]repository@sha256:digest")]
    Parse(String),
}

/// Whether an image reference has a tag or a digest.
///
/// # Errors
///
/// It has neither, or is no reference.
pub fn check_image(image: &str) -> Result<(), ImageError> {
    let malformed = || ImageError::Parse(image.to_owned());
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    if let Some(digest) = digest {
        let hexadecimal =
            digest.strip_prefix("sha256:").map(|hex| (hex, 64)).or(digest.strip_prefix("sha512:").map(|hex| (hex, 128)));
        let valid = hexadecimal
            .is_some_and(|(hex, length)| hex.len() == length && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        if !valid {
            return Err(malformed());
        }
    }
    // A colon before the last slash belongs to a registry's port.
    let (directory, last) = rest.rsplit_once('/').map_or(("", rest), |(directory, last)| (directory, last));
    let (name, tag) = last.split_once(':').map_or((last, None), |(name, tag)| (name, Some(tag)));
    let name_is_valid = !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
    let directory_is_valid = rest.len() == last.len()
        || directory.split('/').all(|part| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'[' | b']'))
        });
    let tag_is_valid = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    });
    if !(name_is_valid && directory_is_valid && tag_is_valid) {
        return Err(malformed());
    }
    if tag.is_none() && digest.is_none() {
        return Err(ImageError::NameVersion(image.to_owned()));
    }
    Ok(())
}

/// Whether the tags of two images name the same version, whatever the repository and what follows the version, such as
/// `-cu130`. A digest alone names none.
pub fn same_version(one: &str, other: &str) -> bool {
    version(one).is_some_and(|found| version(other) == Some(found))
}

/// `v0.33.0-cu130` is 0.33.0.
fn version(image: &str) -> Option<&str> {
    let reference = image.split('@').next()?;
    let (_, tag) = reference.rsplit('/').next()?.split_once(':')?;
    tag.strip_prefix('v').unwrap_or(tag).split('-').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_or_a_digest_says_which_version_is_meant() {
        let digest = "a".repeat(64);
        for image in [
            "vllm/vllm-openai:v0.33.0",
            "registry.example:5000/mirror/vllm:1",
            &format!("vllm/vllm-openai@sha256:{digest}"),
            &format!("registry.example/vllm:1@sha256:{digest}"),
            "vllm:latest",
        ] {
            assert_eq!(check_image(image), Ok(()), "{image}");
        }
    }

    #[test]
    fn an_image_without_either_is_refused_also_behind_a_port() {
        for image in ["vllm/vllm-openai", "registry.example:5000/vllm", "vllm"] {
            assert_eq!(check_image(image), Err(ImageError::NameVersion(image.into())), "{image}");
        }
    }

    #[test]
    fn a_version_is_what_the_tag_says_before_a_dash() {
        for (image, same) in [
            ("vllm/vllm-openai:v0.33.0", true),
            ("registry.example:5000/mirror/vllm:0.33.0-cu130", true),
            (&format!("vllm/vllm-openai:v0.33.0@sha256:{}", "a".repeat(64)), true),
            (&format!("vllm/vllm-openai@sha256:{}", "a".repeat(64)), false),
            ("vllm/vllm-openai:v0.33.1", false),
            ("vllm/vllm-openai:latest", false),
            ("registry.example:5000/vllm", false),
        ] {
            assert_eq!(same_version(image, "vllm/vllm-openai:v0.33.0"), same, "{image}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for image in ["", ":v1", "vllm:", "Vllm:1", "a//b:1", "/a:1", "vllm@sha256:abc", "vllm:1 ", "https://r.example/vllm:1"] {
            assert_eq!(check_image(image), Err(ImageError::Parse(image.into())), "{image}");
        }
    }
}
