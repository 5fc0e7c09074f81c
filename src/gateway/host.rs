//! Which host a request is for.

use std::borrow::Cow;

use hyper::http::{header::HOST, request::Parts};

/// Longest DNS name.
const MAX_HOST: usize = 253;

/// Why a request's host cannot be told; the text goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHost {
    #[error("the request has no Host header; HTTP/1.1 requires one")]
    Missing,
    #[error("the request has more than one Host header; send exactly one")]
    Duplicate,
    #[error("the Host header is not a host name with an optional port")]
    Invalid,
    #[error("the request target and the Host header name different hosts; send the same one")]
    Mismatch,
}

/// The authority as the client wrote it, for `X-Forwarded-Host` and the
/// instance. [`routed`] makes it comparable.
pub(super) fn authority(parts: &Parts) -> Result<&str, BadHost> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(BadHost::Duplicate),
        (Some(value), None) => Some(value.to_str().map_err(|_| BadHost::Invalid)?),
        (None, _) => None,
    };
    // HTTP/2 names the host in `:authority`, HTTP/1.1's absolute form in the
    // target. A second, different name could be routed differently behind us.
    match (parts.uri.authority().map(|authority| authority.as_str()), header) {
        (Some(target), Some(header)) => match (routed(target), routed(header)) {
            (Some(a), Some(b)) if a == b => Ok(header),
            (Some(_), Some(_)) => Err(BadHost::Mismatch),
            _ => Err(BadHost::Invalid),
        },
        (Some(target), None) if parts.version == hyper::Version::HTTP_2 => Ok(target),
        (None, Some(header)) => Ok(header),
        (_, None) => Err(BadHost::Missing),
    }
}

/// The name that routes are looked up by: lower case, no port, no trailing
/// dot. `None` when the text is not a host.
pub(super) fn routed(authority: &str) -> Option<Cow<'_, str>> {
    let host = without_port(authority)?;
    if let Some(literal) = host.strip_prefix('[') {
        literal.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok()?;
        return Some(Cow::Borrowed(host));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let valid = (1..=MAX_HOST).contains(&host.len())
        && host.bytes().all(allowed)
        && !host.starts_with('.')
        && !host.ends_with('.')
        && !host.contains("..");
    if !valid {
        return None;
    }
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// The host for people to read: empty when the request names none.
pub(super) fn asked(parts: &Parts) -> Cow<'_, str> {
    authority(parts).ok().and_then(routed).unwrap_or_default()
}

fn without_port(authority: &str) -> Option<&str> {
    let from = authority.rfind(']').unwrap_or(0);
    let Some(colon) = authority[from..].find(':') else { return Some(authority) };
    let (host, port) = authority.split_at(from + colon);
    let digits = &port[1..];
    let numeric = digits.bytes().all(|b| b.is_ascii_digit());
    (digits.is_empty() || numeric && digits.parse::<u16>().is_ok()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_port_and_trailing_dot_do_not_matter() {
        for same in ["app.localhost", "App.LOCALHOST", "app.localhost:8000", "app.localhost.:80"] {
            assert_eq!(routed(same).as_deref(), Some("app.localhost"), "{same}");
        }
        assert_eq!(routed("[::1]:8000").as_deref(), Some("[::1]"));
    }

    #[test]
    fn refuses_what_is_not_a_host() {
        for bad in [
            "",
            ".",
            ":80",
            "a..b",
            "a.localhost..",
            ".a",
            "a/b",
            "user@a",
            "a:b",
            "a:80:90",
            "a:65536",
            "a:+80",
            "ä",
        ] {
            assert_eq!(routed(bad), None, "{bad}");
        }
        assert_eq!(routed("[::1"), None);
        assert_eq!(routed("[x]:80"), None);
        assert_eq!(routed(&"a".repeat(254)), None);
    }
}
