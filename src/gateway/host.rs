//! Which host a request is for.

use hyper::{Request, header};

/// A request whose host is missing or ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadHost(pub(super) &'static str);

/// The host, lower case, without port and trailing dot. Ambiguity is refused:
/// two readings of one request are how requests are smuggled.
pub(super) fn host_of<B>(request: &Request<B>) -> Result<String, BadHost> {
    let mut headers = request.headers().get_all(header::HOST).iter();
    let header = headers.next();
    if headers.next().is_some() {
        return Err(BadHost("the request has more than one Host header"));
    }
    let header = header
        .map(|value| value.to_str().map_err(|_| BadHost("the Host header is not ASCII")))
        .transpose()?;
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = match (authority, header) {
        (Some(target), Some(header)) if !same(target, header) => {
            return Err(BadHost("the request's target and its Host header differ"));
        }
        (Some(target), _) => target,
        (None, Some(header)) => header,
        (None, None) => return Err(BadHost("the request has no Host header")),
    };
    normalise(host).ok_or(BadHost("the Host header is not a host name"))
}

fn same(one: &str, other: &str) -> bool {
    normalise(one) == normalise(other)
}

fn normalise(authority: &str) -> Option<String> {
    if authority.contains('@') {
        return None;
    }
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return None,
        None => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.' || byte == b'_';
    (!host.is_empty() && host.bytes().all(allowed)).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, hosts: &[&str]) -> Request<()> {
        let mut builder = Request::builder().uri(uri);
        for host in hosts {
            builder = builder.header("host", *host);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn case_port_and_trailing_dot_do_not_matter() {
        for host in [
            "app.localhost",
            "APP.Localhost",
            "app.localhost:8000",
            "app.localhost.",
            "app.localhost.:80",
        ] {
            assert_eq!(host_of(&request("/", &[host])).unwrap(), "app.localhost", "{host}");
        }
        assert_eq!(
            host_of(&request("http://app.localhost:8000/", &["APP.localhost:8000"])).unwrap(),
            "app.localhost"
        );
    }

    #[test]
    fn ambiguous_requests_are_refused() {
        assert!(host_of(&request("/", &[])).is_err());
        assert!(host_of(&request("/", &["a", "b"])).is_err());
        assert!(host_of(&request("/", &["a", "a"])).is_err());
        assert!(host_of(&request("http://a/", &["b"])).is_err());
        for host in ["", "a b", "user@a", "a:b", "a/b", "[::1]"] {
            assert!(host_of(&request("/", &[host])).is_err(), "{host}");
        }
    }
}
