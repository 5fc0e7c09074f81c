//! `env`: an environment's variables. What is set comes from the command line, a
//! file or stdin; what is shown are names.

use std::{
    collections::HashMap,
    io::{self, Read},
};

use launchway_proto::ctrl::v1::{
    ListVariablesRequest, SetVariablesRequest, UnsetVariablesRequest, Variable,
};
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    args::{EnvCommand, Global},
    connect::connect,
    project,
    render::{Renderer, emit, print, table},
    time::{ago, now_ms},
};

/// Bytes read of a value: the server takes less.
const MAX_READ: u64 = 1024 * 1024;

pub(super) async fn environment(global: &Global, command: EnvCommand) -> Result<Exit, Failure> {
    match command {
        EnvCommand::Set { variables } => set(global, &variables).await,
        EnvCommand::List => list(global).await,
        EnvCommand::Unset { names } => unset(global, names).await,
    }
}

async fn set(global: &Global, given: &[String]) -> Result<Exit, Failure> {
    let variables = read_all(given, io::stdin()).map_err(Failure::usage)?;
    let (project_id, environment_slug) = project::environment_here(global)?;
    let mut names: Vec<String> = variables.keys().cloned().collect();
    names.sort();
    let request =
        SetVariablesRequest { project_id, environment_slug: environment_slug.clone(), variables };
    let mut api = connect(global).await?;
    let answer = api.environments.set_variables(request).await;
    answer.map_err(|status| Failure::of_call(&status))?;
    applies(global, "set", &environment_slug, &names);
    Ok(Exit::Success)
}

async fn unset(global: &Global, names: Vec<String>) -> Result<Exit, Failure> {
    let (project_id, environment_slug) = project::environment_here(global)?;
    let request = UnsetVariablesRequest {
        project_id,
        environment_slug: environment_slug.clone(),
        names: names.clone(),
    };
    let mut api = connect(global).await?;
    let answer = api.environments.unset_variables(request).await;
    answer.map_err(|status| Failure::of_call(&status))?;
    applies(global, "removed", &environment_slug, &names);
    Ok(Exit::Success)
}

/// What runs keeps what it has: that must not come as a surprise.
fn applies(global: &Global, what: &str, environment: &str, names: &[String]) {
    if global.json {
        return emit(&json!({
            "type": "result", "environment": environment, what: names,
            "applies_to": "the next deployments",
        }));
    }
    let note = format!(
        "what runs in {environment} keeps its variables: this is for the next deployments (`launchway deploy`, \
         or `redeploy`)"
    );
    Renderer::for_people().note(&note);
    names.iter().for_each(|name| print(name));
}

async fn list(global: &Global) -> Result<Exit, Failure> {
    let (project_id, environment_slug) = project::environment_here(global)?;
    let mut api = connect(global).await?;
    let request = ListVariablesRequest { project_id, environment_slug };
    let answer = api.environments.list_variables(request).await;
    let variables = answer.map_err(|status| Failure::of_call(&status))?.into_inner().variables;
    if global.json {
        let variables: Vec<Value> = variables
            .iter()
            .map(|variable| json!({"name": variable.name, "updated_at": variable.updated_at}))
            .collect();
        emit(&json!({"type": "result", "variables": variables}));
        return Ok(Exit::Success);
    }
    let now = now_ms();
    let row = |variable: Variable| vec![variable.name, ago(variable.updated_at, now)];
    let rows: Vec<Vec<String>> = variables.into_iter().map(row).collect();
    table(&["VARIABLE", "SET"], &rows);
    Ok(Exit::Success)
}

/// The variables of the command line, with the values that stand elsewhere.
fn read_all(given: &[String], mut stdin: impl Read) -> Result<HashMap<String, String>, String> {
    let mut variables = HashMap::new();
    let mut stdin_of: Option<&str> = None;
    for text in given {
        // Whatever follows may be a secret: it is not shown.
        let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or(
            "give NAME=VALUE, NAME=@FILE, or NAME=- for stdin: one of the variables has no `=`, or no name",
        )?;
        let value = match value {
            "-" => {
                if let Some(first) = stdin_of.replace(name) {
                    return Err(format!(
                        "both `{first}` and `{name}` are to come on stdin: give one of them as a file"
                    ));
                }
                read(&mut stdin).map_err(|error| format!("`{name}` from stdin: {error}"))?
            }
            value => match value.strip_prefix('@') {
                Some(path) => std::fs::File::open(path)
                    .and_then(read)
                    .map_err(|error| format!("`{name}` from `{path}`: {error}"))?,
                None => value.to_owned(),
            },
        };
        if variables.insert(name.to_owned(), value).is_some() {
            return Err(format!("`{name}` is given twice: give it once"));
        }
    }
    Ok(variables)
}

/// Without the one line end that editors and `echo` put behind it.
fn read(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(MAX_READ).read_to_string(&mut text)?;
    let end = text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).map(str::len);
    text.truncate(end.unwrap_or(text.len()));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_given(given: &[&str], stdin: &str) -> Result<HashMap<String, String>, String> {
        let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
        read_all(&given, stdin.as_bytes())
    }

    #[test]
    fn values_come_from_the_line_a_file_or_stdin() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "two\nlines\n").unwrap();
        let from_file = format!("FILE=@{}", file.path().display());
        let read = read_given(&["A=b=c", "EMPTY=", &from_file, "IN=-"], "secret\n").unwrap();
        assert_eq!(read["A"], "b=c");
        assert_eq!(read["EMPTY"], "");
        assert_eq!(read["FILE"], "two\nlines");
        assert_eq!(read["IN"], "secret");
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_showing_a_value() {
        for given in [&["s3cret"][..], &["=s3cret"], &["A=s3cret", "A=s3cret"]] {
            let refused = read_given(given, "").unwrap_err();
            assert!(!refused.contains("s3cret"), "{refused}");
        }
        assert!(read_given(&["A=-", "B=-"], "x").unwrap_err().contains("both `A` and `B`"));
        assert!(read_given(&["A=@/no/such"], "").unwrap_err().contains("/no/such"));
    }
}
