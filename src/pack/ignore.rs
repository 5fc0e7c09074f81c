//! `.dockerignore`, as Docker understands it: only the file at the root, or
//! the one that belongs to the Dockerfile; the last pattern that matches
//! decides; a pattern that matches a directory matches what is below it.

use std::{io, path::Path};

use regex::bytes::Regex;

use super::PackError;

/// Left out by default; an ignore file may bring them back with `!`.
const DEFAULTS: &str = ".git\n.env*\n**/.env*\n";

struct Pattern {
    matches: Regex,
    /// `!pattern`: what matches is kept.
    keeps: bool,
}

/// Which paths are left out.
pub(super) struct Ignore {
    patterns: Vec<Pattern>,
    /// Always sent: the builder reads them.
    needed: Vec<Vec<u8>>,
}

impl Ignore {
    /// Reads `<dockerfile>.dockerignore`, else `.dockerignore`, else none.
    pub(super) fn load(dir: &Path, dockerfile: &str) -> Result<Self, PackError> {
        let own = format!("{dockerfile}.dockerignore");
        let mut used = None;
        for name in [own.as_str(), ".dockerignore"] {
            let path = dir.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    used = Some((name.to_owned(), text));
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(PackError::Unreadable { path, source }),
            }
        }
        let (name, text) = used.unwrap_or_default();
        let mut patterns = parse("defaults", DEFAULTS)?;
        patterns.extend(parse(&name, &text)?);
        let names = [dockerfile, &name];
        let needed = names.iter().filter(|name| !name.is_empty());
        let needed = needed.map(|name| name.as_bytes().to_vec()).collect();
        Ok(Self { patterns, needed })
    }

    /// Whether this path, relative and with `/`, is left out.
    pub(super) fn excludes(&self, path: &[u8]) -> bool {
        if self.needed.iter().any(|needed| needed == path) {
            return false;
        }
        self.patterns
            .iter()
            .rev()
            .find(|pattern| pattern.matches.is_match(path))
            .is_some_and(|pattern| !pattern.keeps)
    }

    /// Whether something below an excluded directory may still be sent.
    pub(super) fn may_keep_below(&self, dir: &[u8]) -> bool {
        let needed = self
            .needed
            .iter()
            .any(|needed| needed.starts_with(dir) && needed.get(dir.len()) == Some(&b'/'));
        needed || self.patterns.iter().any(|pattern| pattern.keeps)
    }
}

fn parse(file: &str, text: &str) -> Result<Vec<Pattern>, PackError> {
    let mut patterns = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (keeps, pattern) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        let cleaned = clean(pattern);
        if cleaned.is_empty() {
            continue;
        }
        let invalid = |reason: String| PackError::Pattern {
            file: file.to_owned(),
            line: number + 1,
            pattern: line.to_owned(),
            reason,
        };
        let regex = expression(&cleaned).map_err(|reason| invalid(reason.to_owned()))?;
        let matches = Regex::new(&regex).map_err(|error| invalid(error.to_string()))?;
        patterns.push(Pattern { matches, keeps });
    }
    Ok(patterns)
}

/// The pattern without `.`, `..` and double slashes, relative to the root.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// `*` and `?` stay within a name, `**` goes over any number of directories.
fn expression(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::from("(?s-u)^");
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.peek() == Some(&'*') => {
                rest.next();
                if rest.peek() == Some(&'/') {
                    rest.next();
                    out.push_str("(?:.*/)?");
                } else {
                    out.push_str(".*");
                }
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '[' => class(&mut rest, &mut out)?,
            '\\' => match rest.next() {
                Some(escaped) => out.push_str(&regex::escape(&escaped.to_string())),
                None => return Err("it ends with a backslash"),
            },
            c => out.push_str(&regex::escape(&c.to_string())),
        }
    }
    // What is below a directory that matches, matches.
    out.push_str("(?:/.*)?$");
    Ok(out)
}

fn class(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    out: &mut String,
) -> Result<(), &'static str> {
    out.push('[');
    if matches!(rest.peek(), Some('^' | '!')) {
        rest.next();
        out.push('^');
    }
    let mut first = true;
    for c in rest.by_ref() {
        match c {
            ']' if !first => {
                out.push(']');
                return Ok(());
            }
            '-' => out.push('-'),
            c if c.is_ascii_alphanumeric() => out.push(c),
            c => out.push_str(&regex::escape(&c.to_string())),
        }
        first = false;
    }
    Err("a `[` has no `]`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(rules: &str, path: &str) -> bool {
        let mut patterns = parse("defaults", DEFAULTS).unwrap();
        patterns.extend(parse(".dockerignore", rules).unwrap());
        let needed = vec![b"Dockerfile".to_vec()];
        Ignore { patterns, needed }.excludes(path.as_bytes())
    }

    /// Checklist 10.
    #[test]
    fn git_and_env_files_are_left_out_unless_asked_for() {
        for path in [".git", ".git/config", ".env", ".env.production", "web/.env"] {
            assert!(excluded("", path), "{path}");
        }
        assert!(!excluded("!.env.example", ".env.example"));
        assert!(excluded("!.env.example", ".env"));
        assert!(!excluded("", "environment") && !excluded("", ".gitignore"));
    }

    #[test]
    fn patterns_mean_what_docker_means() {
        for (rules, path, expected) in [
            ("*.log", "a.log", true),
            ("*.log", "dir/a.log", false),
            ("**/*.log", "dir/deep/a.log", true),
            ("**/*.log", "a.log", true),
            ("/target", "target/debug/x", true),
            ("target/", "target", true),
            ("./target", "target", true),
            ("a/../target", "target", true),
            ("target", "src/target", false),
            ("src/*", "src/a", true),
            ("src/*", "src/a/b", true),
            ("src/**", "src/a/b", true),
            ("*/temp*", "some/temporary.txt", true),
            ("*/*/temp*", "some/sub/temporary.txt", true),
            ("*/*/temp*", "some/temporary.txt", false),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("[ab].txt", "a.txt", true),
            ("[^ab].txt", "a.txt", false),
            ("[a-c].txt", "b.txt", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("# comment\n\n  spaced  ", "spaced", true),
            ("*\n!README.md", "README.md", false),
            ("*\n!README.md", "other", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-public.md", false),
            ("docs\n!docs/keep.md", "docs/keep.md", false),
            ("docs\n!docs/keep.md", "docs/other.md", true),
            ("a.b", "axb", false),
            ("Dockerfile", "Dockerfile", false),
            ("*", "Dockerfile", false),
        ] {
            assert_eq!(excluded(rules, path), expected, "{rules:?} on {path}");
        }
    }

    #[test]
    fn a_broken_pattern_is_named_with_its_line() {
        let error = parse(".dockerignore", "ok\n[a").err().unwrap().to_string();
        assert!(error.contains("`.dockerignore` line 2") && error.contains("[a"), "{error}");
    }

    #[test]
    fn names_that_are_not_text_are_matched_by_bytes() {
        let ignore = Ignore { patterns: parse("f", "*.bin\n").unwrap(), needed: Vec::new() };
        assert!(ignore.excludes(b"\xff\xfe.bin"));
        assert!(!ignore.excludes(b"\xff\xfe.txt"));
    }
}
