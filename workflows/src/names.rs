//! Names that become part of hostnames, image references and object keys.

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
