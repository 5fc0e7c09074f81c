//! What a client can read, from its `Accept` header.

use hyper::{HeaderMap, header};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    Html,
    Json,
    Text,
}

impl Audience {
    /// Whichever of HTML and JSON is named with the higher quality, HTML when
    /// equal: browsers name it. What names neither is a person with curl.
    pub fn of(headers: &HeaderMap) -> Self {
        let (mut html, mut json) = (0, 0);
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in values.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or("");
            let quality = parts.find_map(quality).unwrap_or(1000);
            if kind.eq_ignore_ascii_case("text/html") {
                html = html.max(quality);
            } else if kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json") {
                json = json.max(quality);
            }
        }
        match (html, json) {
            (0, 0) => Self::Text,
            (html, json) if html >= json => Self::Html,
            _ => Self::Json,
        }
    }
}

/// The thousandths of a `q=` parameter; `None` for another parameter.
fn quality(parameter: &str) -> Option<u32> {
    let (name, value) = parameter.split_once('=')?;
    let quality: f32 =
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().ok())??;
    Some((quality.clamp(0.0, 1.0) * 1000.0) as u32)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn audience(accept: &'static str) -> Audience {
        Audience::of(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
    }

    #[test]
    fn each_client_gets_what_it_can_read() {
        assert_eq!(audience("text/html,application/xhtml+xml,*/*;q=0.8"), Audience::Html);
        assert_eq!(audience("application/json"), Audience::Json);
        assert_eq!(audience("application/problem+json"), Audience::Json);
        assert_eq!(audience("*/*"), Audience::Text);
        assert_eq!(Audience::of(&HeaderMap::new()), Audience::Text);
    }

    #[test]
    fn the_higher_quality_wins() {
        assert_eq!(audience("application/json, text/html;q=0.5"), Audience::Json);
        assert_eq!(audience("application/json;q=0.5, text/html;level=1;q=0.9"), Audience::Html);
        assert_eq!(audience("text/html;q=0, application/json"), Audience::Json);
        assert_eq!(audience("text/html;q=0"), Audience::Text);
    }
}
