//! Reads a table of `launchway.toml` key by key. Whatever is wrong is collected,
//! so that all of it is named at once.

use toml::{Table, Value};

use crate::config::Period;
use launchway_workflows::app::split_words;

/// A table, and what is wrong with the file so far.
pub(super) struct Section<'a> {
    /// The keys that lead to it, with a dot at the end; empty at the top.
    at: String,
    table: Table,
    known: Vec<&'static str>,
    problems: &'a mut Vec<String>,
}

impl<'a> Section<'a> {
    pub(super) fn new(at: &str, table: Table, problems: &'a mut Vec<String>) -> Self {
        let at = if at.is_empty() { String::new() } else { format!("{at}.") };
        Self { at, table, known: Vec::new(), problems }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn wrong(&mut self, key: &str, given: &Value, rule: &str) {
        self.problems.push(format!("{}{key} = {given}: {rule}", self.at));
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.wrong(key, &other, "give a text in quotes");
                None
            }
        }
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        match self.take(key)? {
            Value::Boolean(flag) => Some(flag),
            other => {
                self.wrong(key, &other, "give true or false");
                None
            }
        }
    }

    /// A whole number that fits; `example` is a good one.
    pub(super) fn number<T: TryFrom<i64>>(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<T> {
        let given = self.take(key)?;
        let number = given.as_integer().filter(|number| *number > 0);
        let number = number.and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            self.wrong(key, &given, &format!("give a whole number above 0, e.g. {example}"));
        }
        number
    }

    /// A time with its unit, in milliseconds.
    pub(super) fn millis(&mut self, key: &'static str, example: &str) -> Option<u32> {
        let given = self.take(key)?;
        let period = given.as_str().and_then(|text| text.parse::<Period>().ok());
        let millis = period.and_then(|period| u32::try_from(period.get().as_millis()).ok());
        if millis.is_none() {
            let rule =
                format!("give a time with its unit, in quotes: ms, s, m or h, e.g. \"{example}\"");
            self.wrong(key, &given, &rule);
        }
        millis
    }

    /// A command: a text that is split like a shell does, or a list of words.
    pub(super) fn words(&mut self, key: &'static str) -> Option<Vec<String>> {
        let given = self.take(key)?;
        let words = match &given {
            Value::String(text) => split_words(text),
            Value::Array(words) => {
                let words: Option<Vec<String>> =
                    words.iter().map(|word| word.as_str().map(str::to_owned)).collect();
                words.ok_or_else(|| "every word of the list must be a text in quotes".to_owned())
            }
            _ => {
                Err("give a text, or a list of texts, such as [\"bin/run\", \"--all\"]".to_owned())
            }
        };
        match words {
            Ok(words) if words.is_empty() => {
                self.wrong(key, &given, "give a command, or leave it out");
                None
            }
            Ok(words) => Some(words),
            Err(rule) => {
                self.wrong(key, &given, &rule);
                None
            }
        }
    }

    pub(super) fn table(&mut self, key: &'static str) -> Option<Table> {
        match self.take(key)? {
            Value::Table(table) => Some(table),
            other => {
                self.wrong(key, &other, &format!("give a table: [{}{key}]", self.at));
                None
            }
        }
    }

    /// A key that is wrong as a whole.
    pub(super) fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// For a table below this one.
    pub(super) fn problems(&mut self) -> &mut Vec<String> {
        self.problems
    }

    /// Whatever is left is no key of ours.
    pub(super) fn end(self) {
        for key in self.table.keys() {
            self.problems.push(format!(
                "{}{key} is not a key of launchway.toml: there are {}",
                self.at,
                self.known.join(", ")
            ));
        }
    }
}
