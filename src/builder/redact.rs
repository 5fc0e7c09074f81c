//! Takes secrets out of what a builder says.

use std::borrow::Cow;

use launchway_workflows::secret::Secret;

/// Shorter texts are words of every build's output: replacing them would hide
/// nothing and spoil everything.
const SHORTEST: usize = 4;
/// Longest query of a presigned URL.
const URL: usize = 2048;

/// Knows the secrets of one build.
#[derive(Default)]
pub(crate) struct Redactor {
    /// Longest first, so that no secret is left over from a part of itself.
    texts: Vec<String>,
}

impl Redactor {
    /// Takes out these, line by line where one has several.
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut texts: Vec<String> = secrets
            .into_iter()
            .flat_map(|secret| secret.expose().lines())
            .map(str::trim)
            .filter(|line| line.len() >= SHORTEST)
            .map(str::to_owned)
            .collect();
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        texts.dedup();
        Self { texts }
    }

    /// The last place not after `wanted` where a text that goes on may be cut
    /// without hiding a secret from [`Redactor::clean`]: neither one that is in
    /// the text, nor one whose rest may still come.
    pub(crate) fn cut(&self, text: &str, wanted: usize) -> usize {
        let longest = self.texts.first().map_or(0, String::len);
        let mut at = text.floor_char_boundary(wanted.min(text.len().saturating_sub(longest)));
        // A URL ends at white space; one that has not may have a signature.
        let word = text[..at].rfind(char::is_whitespace).map_or(0, |space| space + 1);
        if let Some(begin) = signature(&text[word..at]).filter(|begin| at - word - begin < URL) {
            at = word + begin;
        }
        for secret in &self.texts {
            let from = text.floor_char_boundary(at.saturating_sub(secret.len()));
            let to = text.floor_char_boundary((at + secret.len()).min(text.len()));
            if let Some(begin) = text[from..to].find(secret.as_str())
                && from + begin < at
                && from + begin + secret.len() > at
            {
                at = from + begin;
            }
        }
        at
    }

    /// The text without secrets and without signatures of URLs.
    pub(crate) fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut cleaned = without_signatures(text);
        for secret in &self.texts {
            if cleaned.contains(secret.as_str()) {
                cleaned = Cow::Owned(cleaned.replace(secret.as_str(), "<secret>"));
            }
        }
        cleaned
    }
}

/// Where a signature begins.
fn signature(text: &str) -> Option<usize> {
    text.find("?X-Amz-").or_else(|| text.find("?x-id="))
}

/// Takes the signature out of presigned URLs.
fn without_signatures(text: &str) -> Cow<'_, str> {
    if signature(text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = signature(rest) {
        out.push_str(&rest[..at]);
        out.push_str("?<signature>");
        let query = &rest[at..];
        let end =
            query.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(query.len());
        rest = &query[end..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_leave_no_trace() {
        let text = Redactor::default().clean(
            "GET http://h/b/k?X-Amz-Signature=secret&x=y failed, http://h/k?x-id=GetObject&X-Amz-Signature=secret",
        ).into_owned();
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("http://h/b/k?<signature> failed"), "{text}");
    }

    #[test]
    fn no_line_of_a_secret_is_left_and_no_part_of_a_longer_one() {
        let secrets = [Secret::new("first line\nsecond line\n"), Secret::new("first line of two")];
        let redactor = Redactor::new(&secrets);
        assert_eq!(redactor.clean("a first line of two b"), "a <secret> b");
        assert_eq!(redactor.clean("second line"), "<secret>");
        assert_eq!(redactor.clean("nothing"), "nothing");
    }

    #[test]
    fn no_cut_goes_through_a_secret_or_a_character() {
        let redactor = Redactor::new(&[Secret::new("geheim")]);
        let text = "ä geheim und mehr Text danach";
        for wanted in 0..text.len() {
            let (left, right) = text.split_at(redactor.cut(text, wanted));
            let cleaned = format!("{}{}", redactor.clean(left), redactor.clean(right));
            assert_eq!(cleaned, "ä <secret> und mehr Text danach", "{wanted}");
        }
        // Its rest may still come.
        assert!(redactor.cut("so far gehe", 11) <= 7);
        let url = "GET http://h/k?X-Amz-Signature=abcdef";
        assert_eq!(redactor.cut(url, 34), 14);
    }
}
