//! A command that is written as one text.

/// Splits a command as a shell does: at white space, with quotes and
/// backslashes. There is no shell behind it: what only a shell could do is
/// refused, so that it is not passed on as a word.
///
/// # Errors
/// A sentence with the rule and the remedy.
pub fn split_words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"'), '\\') if matches!(rest.peek(), Some('"' | '\\' | '$' | '`')) => {
                word.get_or_insert_default().extend(rest.next());
            }
            (None, '\\') => match rest.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("it ends with a lone backslash: remove it".to_owned()),
            },
            (None | Some('"'), '$' | '`') => return Err(needs_shell(c)),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '|' | '&' | ';' | '<' | '>' | '(' | ')') => return Err(needs_shell(c)),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(format!("its quote {open} is not closed: close it"));
    }
    words.extend(word);
    Ok(words)
}

fn needs_shell(c: char) -> String {
    format!(
        "`{c}` needs a shell, and commands run without one: quote it with ' where it is meant as it \
         stands, or give [\"sh\", \"-c\", \"…\"]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        split_words(text).unwrap()
    }

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        assert_eq!(split("  bin/migrate   up\t--to 7 "), ["bin/migrate", "up", "--to", "7"]);
        assert_eq!(split(r#"echo "two words" 'a|b' c\ d"#), ["echo", "two words", "a|b", "c d"]);
        assert_eq!(split(r#"a"b"'c'd "" ''"#), ["abcd", "", ""]);
        assert_eq!(split(r#""say \"hi\" \$5 \n""#), [r#"say "hi" $5 \n"#]);
        assert_eq!(split(r"'no \escape'"), [r"no \escape"]);
        assert_eq!(split(""), Vec::<String>::new());
    }

    #[test]
    fn what_only_a_shell_could_do_is_refused_with_the_way_to_ask_for_one() {
        for text in ["a | b", "a && b", "a > out", "run $URL", "\"$URL\"", "a `date`", "(a)"] {
            let refused = split_words(text).unwrap_err();
            assert!(refused.contains("[\"sh\", \"-c\""), "{text}: {refused}");
        }
        assert!(split_words("a 'b").unwrap_err().contains("not closed"));
        assert!(split_words("a \\").unwrap_err().contains("backslash"));
    }
}
