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

/// The platforms of one build. None: the builder's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platforms(Vec<Platform>);

impl Platforms {
    /// What a request means: nothing or `dynamic` is the builder's own, several
    /// are separated by commas. A leading slash, as some tools write it, is
    /// ignored.
    ///
    /// # Errors
    /// [`PlatformError`] with the one that is refused.
    pub fn resolve(requested: Option<&str>) -> Result<Self, PlatformError> {
        let names = requested.unwrap_or_default().split(',');
        let names = names.map(|name| name.trim().trim_start_matches('/'));
        let mut platforms = Vec::new();
        for name in names.filter(|name| !matches!(*name, "" | "dynamic")) {
            let platform = name.parse()?;
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        Ok(Self(platforms))
    }

    /// What a builder is told; nothing when it is to take its own.
    pub fn sent(&self) -> Option<String> {
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        (!names.is_empty()).then(|| names.join(","))
    }

    /// Each of them.
    pub fn all(&self) -> &[Platform] {
        &self.0
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

    fn sent(requested: &str) -> Option<String> {
        Platforms::resolve(Some(requested)).unwrap().sent()
    }

    /// Checklist 17, 18, 34.
    #[test]
    fn only_a_resolved_platform_is_sent() {
        assert_eq!(Platforms::resolve(None).unwrap().sent(), None);
        for none in ["", "dynamic", " ", "/"] {
            assert_eq!(sent(none), None, "{none:?}");
        }
        for amd64 in ["linux/amd64", "/linux/amd64", "amd64", "linux/amd64,amd64"] {
            assert_eq!(sent(amd64).as_deref(), Some("linux/amd64"));
        }
        assert_eq!(sent("arm64, /linux/amd64").as_deref(), Some("linux/arm64,linux/amd64"));
        for other in ["windows/amd64", "linux/s390x"] {
            let error = Platforms::resolve(Some(&format!("amd64,{other}"))).unwrap_err();
            assert!(error.to_string().contains(other), "{error}");
        }
    }
}
