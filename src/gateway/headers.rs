//! What is taken off and put on a message on its way through.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Method, Uri, Version,
    header::{self, HeaderName, HeaderValue},
    http::request::Parts,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Ties a request's log lines together, here and in the application.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer id from a client is replaced.
const MAX_REQUEST_ID: usize = 128;

/// The client's end of one connection, formatted once.
pub(super) struct Client {
    ip: HeaderValue,
    /// `for=…;proto=http;host=` of a `Forwarded` element.
    forwarded: String,
}

impl Client {
    pub fn new(ip: IpAddr) -> Self {
        let node = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        Self {
            ip: HeaderValue::try_from(ip.to_string())
                .unwrap_or(HeaderValue::from_static("unknown")),
            forwarded: format!("for={node};proto=http;host="),
        }
    }

    /// Its address, for people to read.
    pub fn ip(&self) -> &str {
        self.ip.to_str().unwrap_or("")
    }
}

/// Whether a proxy says that it sent the request on for somebody else.
pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    [X_FORWARDED_FOR, X_REAL_IP, header::FORWARDED].iter().any(|name| headers.contains_key(name))
}

/// The client's request id when it is one, else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let usable = |value: &&HeaderValue| {
        (1..=MAX_REQUEST_ID).contains(&value.len())
            && value
                .as_bytes()
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    headers.get(X_REQUEST_ID).filter(usable).cloned().unwrap_or_else(|| {
        HeaderValue::from_bytes(&hex(rand::random())).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// As `{:032x}` writes it, which takes ten times as long.
fn hex(bytes: [u8; 16]) -> [u8; 32] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

/// The protocol a client asks to switch to. `h2c` is not one: forwarded, it
/// would be a tunnel around every rule here.
pub(super) fn upgrade(parts: &Parts) -> Option<HeaderValue> {
    let protocol = parts.headers.get(header::UPGRADE)?;
    let asked = parts.version == Version::HTTP_11
        && names(&parts.headers).any(|name| name.eq_ignore_ascii_case("upgrade"))
        && !protocol.as_bytes().to_ascii_lowercase().starts_with(b"h2c");
    asked.then(|| protocol.clone())
}

/// gRPC needs HTTP/2 to the instance, for its trailers.
pub(super) fn is_grpc(parts: &Parts) -> bool {
    parts.version == Version::HTTP_2
        && parts
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Turns a client's request into the one for the instance, except its target.
pub(super) fn prepare_request(
    parts: &mut Parts,
    client: &Client,
    authority: &HeaderValue,
    request_id: &HeaderValue,
    upgrade: Option<&HeaderValue>,
    trust_forwarded: bool,
) {
    let headers = &mut parts.headers;
    let trailers = headers.get(header::TE).is_some_and(|te| {
        te.to_str().is_ok_and(|te| te.split(',').any(|coding| coding.trim() == "trailers"))
    });
    strip_hop_by_hop(headers);
    strip_lookalikes(headers);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    // The gateway itself answers `100 Continue`, when the instance reads.
    headers.remove(header::EXPECT);
    headers.remove(header::PROXY_AUTHORIZATION);
    headers.insert(header::HOST, authority.clone());
    headers.insert(X_REQUEST_ID, request_id.clone());
    add_forwarded(headers, client, authority, trust_forwarded);
    if parts.version == Version::HTTP_2 {
        join_cookies(headers);
    }
}

/// Points the request at the instance: origin form over HTTP/1.1, with scheme
/// and authority over HTTP/2.
pub(super) fn retarget(parts: &mut Parts, authority: &HeaderValue, h2: bool) {
    if h2 {
        parts.version = Version::HTTP_2;
        parts.headers.remove(header::HOST);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        if let Ok(uri) = Uri::builder()
            .scheme("http")
            .authority(authority.as_bytes())
            .path_and_query(path)
            .build()
        {
            parts.uri = uri;
        }
        return;
    }
    parts.version = Version::HTTP_11;
    if parts.uri.authority().is_none() {
        return;
    }
    let asterisk = parts.method == Method::OPTIONS && parts.uri.path() == "*";
    parts.uri = match parts.uri.path_and_query() {
        Some(path) if !asterisk => Uri::from(path.clone()),
        Some(_) => Uri::from_static("*"),
        None => Uri::from_static("/"),
    };
}

/// Turns an instance's response into the one for the client.
pub(super) fn prepare_response(headers: &mut HeaderMap, request_id: &HeaderValue) {
    strip_hop_by_hop(headers);
    headers.entry(X_REQUEST_ID).or_insert_with(|| request_id.clone());
}

/// Removes what RFC 9110 7.6.1 binds to one connection. `Trailer` stays: it
/// announces what travels on with the body.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // What frames or addresses the message is never a connection's own, even
    // where a client says so.
    let listed: Vec<HeaderName> = names(headers)
        .filter(|name| !name.eq_ignore_ascii_case("close"))
        .filter_map(|name| name.parse().ok())
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
        .collect();
    for name in listed {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// `X_Forwarded_For` reads as `X-Forwarded-For` in applications behind CGI's
/// naming: a client must not say through it what only we may say.
fn strip_lookalikes(headers: &mut HeaderMap) {
    let ours = |name: &HeaderName| {
        let name = name.as_str().replace('_', "-");
        name.starts_with("x-forwarded-") || ["x-real-ip", "x-request-id"].contains(&name.as_str())
    };
    let lookalikes: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().contains('_') && ours(name)).cloned().collect();
    for name in lookalikes {
        headers.remove(name);
    }
}

fn names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive"))
}

fn add_forwarded(headers: &mut HeaderMap, client: &Client, authority: &HeaderValue, trust: bool) {
    let element = forwarded_element(client, authority);
    if !trust {
        headers.remove(X_FORWARDED_PORT);
        headers.insert(X_REAL_IP, client.ip.clone());
        headers.insert(X_FORWARDED_FOR, client.ip.clone());
        headers.insert(X_FORWARDED_HOST, authority.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
        headers.insert(header::FORWARDED, element);
        return;
    }
    headers.append(X_FORWARDED_FOR, client.ip.clone());
    headers.append(header::FORWARDED, element);
    headers.entry(X_FORWARDED_HOST).or_insert_with(|| authority.clone());
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    headers.entry(X_REAL_IP).or_insert_with(|| client.ip.clone());
}

fn forwarded_element(client: &Client, authority: &HeaderValue) -> HeaderValue {
    let mut element = Vec::with_capacity(client.forwarded.len() + authority.len() + 2);
    element.extend_from_slice(client.forwarded.as_bytes());
    // A checked authority holds no quote; with a port or brackets it needs them.
    let plain = !authority.as_bytes().iter().any(|b| matches!(b, b':' | b'[' | b']'));
    if plain {
        element.extend_from_slice(authority.as_bytes());
    } else {
        element.push(b'"');
        element.extend_from_slice(authority.as_bytes());
        element.push(b'"');
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(element))
        .unwrap_or(HeaderValue::from_static("for=unknown"))
}

/// HTTP/2 may split cookies into several fields, HTTP/1.1 may not (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn prepared(request: hyper::http::request::Builder, trust: bool) -> HeaderMap {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let client = Client::new("192.0.2.7".parse().unwrap());
        let authority = HeaderValue::from_static("app.localhost:8000");
        let id = request_id(&parts.headers);
        prepare_request(&mut parts, &client, &authority, &id, None, trust);
        parts.headers
    }

    #[test]
    fn connection_headers_end_here_and_the_rest_travels_on() {
        let headers = prepared(
            Request::get("/")
                .header("connection", "keep-alive, x-secret, host, content-length")
                .header("connection", "close")
                .header("keep-alive", "timeout=5")
                .header("x-secret", "1")
                .header("transfer-encoding", "chunked")
                .header("te", "gzip, trailers")
                .header("upgrade", "h2c")
                .header("expect", "100-continue")
                .header("content-length", "3")
                .header("accept", "text/html"),
            false,
        );
        for gone in
            ["connection", "keep-alive", "x-secret", "transfer-encoding", "upgrade", "expect"]
        {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["content-length"], "3");
        assert_eq!(headers["accept"], "text/html");
    }

    #[test]
    fn a_client_cannot_forge_where_it_comes_from() {
        let forged = Request::get("/")
            .header("x-forwarded-for", "10.0.0.1")
            .header("x-forwarded-for", "10.0.0.2")
            .header("x-forwarded-proto", "https")
            .header("x-real-ip", "10.0.0.1")
            .header("x_forwarded_for", "10.0.0.1")
            .header("x-forwarded_proto", "https")
            .header("x_own", "1")
            .header("forwarded", "for=10.0.0.1");
        let headers = prepared(forged, false);
        assert!(!headers.contains_key("x_forwarded_for"));
        assert!(!headers.contains_key("x-forwarded_proto"));
        assert_eq!(headers["x_own"], "1");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-real-ip"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "app.localhost:8000");
        assert_eq!(headers["forwarded"], "for=192.0.2.7;proto=http;host=\"app.localhost:8000\"");
    }

    #[test]
    fn a_trusted_proxy_is_appended_to() {
        let headers = prepared(
            Request::get("/")
                .header("x-forwarded-for", "10.0.0.1")
                .header("x-forwarded-proto", "https"),
            true,
        );
        let chain: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(chain, ["10.0.0.1", "192.0.2.7"]);
        assert_eq!(headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn a_request_id_is_kept_when_it_is_one_and_replaced_when_not() {
        let kept = prepared(Request::get("/").header("x-request-id", "abc-1"), false);
        assert_eq!(kept["x-request-id"], "abc-1");
        let long = "a".repeat(129);
        for bad in ["", "a b", "<script>", &long] {
            let replaced = prepared(Request::get("/").header("x-request-id", bad), false);
            assert_eq!(replaced["x-request-id"].len(), 32, "{bad}");
        }
    }

    #[test]
    fn cookies_of_http2_become_one_header() {
        let headers = prepared(
            Request::get("/")
                .version(Version::HTTP_2)
                .header("cookie", "a=1")
                .header("cookie", "b=2"),
            false,
        );
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn h2c_is_not_an_upgrade_that_travels_on() {
        let asks = |protocol: &str, version| {
            let request = Request::get("/")
                .version(version)
                .header("connection", "Upgrade")
                .header("upgrade", protocol);
            upgrade(&request.body(()).unwrap().into_parts().0)
        };
        assert_eq!(asks("websocket", Version::HTTP_11).unwrap(), "websocket");
        assert_eq!(asks("H2C", Version::HTTP_11), None);
        assert_eq!(asks("websocket", Version::HTTP_10), None);
    }
}
