//! Platforms of images: linux only, amd64 or arm64.

use std::{fmt, str::FromStr};

/// A platform an image is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// `linux/amd64`
    LinuxAmd64,
    /// `linux/arm64`
    LinuxArm64,
}

/// Not a platform we build for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "platform `{0}` is refused: give linux/amd64 or linux/arm64, or nothing for the builder's own"
)]
pub struct PlatformError(pub String);

impl Platform {
    /// What a request means: `None` is the builder's own. A leading slash, as
    /// some tools write it, is ignored.
    ///
    /// # Errors
    /// [`PlatformError`] with what was given.
    pub fn resolve(requested: Option<&str>) -> Result<Option<Self>, PlatformError> {
        match requested.map(|text| text.trim().trim_start_matches('/')) {
            None | Some("" | "dynamic") => Ok(None),
            Some(text) => text.parse().map(Some),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        match text {
            "linux/amd64" | "amd64" => Ok(Self::LinuxAmd64),
            "linux/arm64" | "linux/arm64/v8" | "arm64" => Ok(Self::LinuxArm64),
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinuxAmd64 => "linux/amd64",
            Self::LinuxArm64 => "linux/arm64",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checklist 17, 18, 34.
    #[test]
    fn only_a_resolved_platform_is_sent() {
        for none in [None, Some(""), Some("dynamic"), Some(" "), Some("/")] {
            assert_eq!(Platform::resolve(none), Ok(None), "{none:?}");
        }
        for amd64 in ["linux/amd64", "/linux/amd64", "amd64"] {
            assert_eq!(Platform::resolve(Some(amd64)), Ok(Some(Platform::LinuxAmd64)));
        }
        for other in ["windows/amd64", "linux/s390x", "linux/amd64,linux/arm64"] {
            let error = Platform::resolve(Some(other)).unwrap_err();
            assert!(error.to_string().contains(other), "{error}");
        }
    }
}
