//! Names that become part of hostnames, image references and object keys.

/// The environment where none is named.
pub const DEFAULT_ENVIRONMENT: &str = "preview";
/// The environment that is for users: built first, never stopped unless it says so itself.
pub const PRODUCTION: &str = "production";

/// Tasks that are gone with their caller are named so.
const ATTENDED_TASK: &str = "run-";

/// The id of a task that is gone with its caller.
pub fn attended_task(unique: &str) -> String {
    format!("{ATTENDED_TASK}{unique}")
}

/// Whether a task is to go with its caller; others are kept as the record of
/// their start.
pub fn is_attended_task(id: &str) -> bool {
    id.starts_with(ATTENDED_TASK)
}

/// A name breaks the rule for names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} name `{input}` is refused: use 1 to {max} lower-case letters, digits and inner hyphens, \
     starting with a letter"
)]
pub struct InvalidName {
    /// What is named, e.g. `project`.
    pub what: &'static str,
    /// What was given.
    pub input: String,
    /// Most characters allowed.
    pub max: usize,
}

/// Checks a slug: a DNS label in lower case that starts with a letter.
///
/// # Errors
/// [`InvalidName`] with the input and the rule.
pub fn check_slug(what: &'static str, input: &str, max: usize) -> Result<(), InvalidName> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let valid = (1..=max).contains(&input.len())
        && input.chars().all(allowed)
        && input.starts_with(|c: char| c.is_ascii_lowercase())
        && !input.ends_with('-');
    if valid { Ok(()) } else { Err(InvalidName { what, input: input.to_owned(), max }) }
}

/// Longest hostname.
const MAX_HOSTNAME: usize = 253;
/// Longest label of a hostname.
const MAX_LABEL: usize = 63;

/// The one form of a hostname: lower case, without a trailing dot.
pub fn canonical_hostname(input: &str) -> String {
    input.trim_end_matches('.').to_ascii_lowercase()
}

/// A hostname of somebody's own, as it is stored.
///
/// # Errors
/// A sentence with the input, the rule and the remedy. Names under `apex` are
/// launchway's to give.
pub fn custom_hostname(input: &str, apex: &str) -> Result<String, String> {
    let name = canonical_hostname(input);
    let refused = |rule: &str| Err(format!("domain `{input}` is refused: {rule}"));
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.contains("://") || name.contains('/') {
        return refused(
            "give the hostname only, such as `www.example.com`, without scheme and path",
        );
    }
    if name.contains(':') {
        return refused("give the hostname without a port: it holds for every port");
    }
    if name.contains('*') {
        return refused("wildcards are not supported: add each hostname by itself");
    }
    if !name.is_ascii() {
        return refused("give the ASCII form of an international name (`xn--...`)");
    }
    let labels: Vec<&str> = name.split('.').collect();
    if name.len() > MAX_HOSTNAME || labels.len() < 2 || !labels.iter().all(|part| label(part)) {
        return refused(
            "a hostname has at least two labels of letters, digits and inner hyphens, with at most \
             63 characters each and 253 in all",
        );
    }
    if labels.last().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit())) {
        return refused("an address is not a hostname: requests to it carry no name to route by");
    }
    if name == apex || name.ends_with(&format!(".{apex}")) {
        return refused(&format!("names under `{apex}` are given by launchway itself"));
    }
    Ok(name)
}

/// Turns any text into a label: lower case, other characters become one
/// hyphen. Empty when nothing usable is left.
pub fn slugify(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(out.trim_end_matches('-').len());
    out
}

/// At most `max` characters of `text`, never cutting one in two.
pub fn truncate_chars(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_dns_labels() {
        for good in ["a", "hello", "my-app-2"] {
            assert!(check_slug("project", good, 40).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "2fast", "Hello", "a_b", "a/b", "ä"] {
            assert!(check_slug("project", bad, 40).is_err(), "{bad}");
        }
    }

    #[test]
    fn custom_hostnames_are_stored_in_one_form_and_refused_with_a_remedy() {
        let checked = |input: &str| custom_hostname(input, "apps.example.org");
        assert_eq!(checked("WWW.Example.com.").unwrap(), "www.example.com");
        assert_eq!(checked("example.org").unwrap(), "example.org");
        let long = format!("{}.com", "a".repeat(64));
        for (bad, says) in [
            ("https://example.com", "without scheme"),
            ("example.com/path", "without scheme"),
            ("example.com:8000", "without a port"),
            ("[::1]", "without a port"),
            ("*.example.com", "wildcards"),
            ("größe.de", "xn--"),
            ("localhost", "two labels"),
            ("", "two labels"),
            ("a..b", "two labels"),
            ("-a.com", "two labels"),
            ("a_b.com", "two labels"),
            (long.as_str(), "63"),
            ("10.0.0.1", "address"),
            ("apps.example.org", "launchway itself"),
            ("shop.apps.example.org", "launchway itself"),
        ] {
            let refused = checked(bad).unwrap_err();
            assert!(refused.contains(says) && refused.contains(bad), "{bad}: {refused}");
        }
    }

    #[test]
    fn any_text_becomes_a_label() {
        assert_eq!(slugify("feature/Größe (2)"), "feature-gr-e-2");
        assert_eq!(slugify("///"), "");
    }

    /// Checklist 48.
    #[test]
    fn truncation_counts_characters_not_bytes() {
        assert_eq!(truncate_chars("äöü", 2), "äö");
    }
}
