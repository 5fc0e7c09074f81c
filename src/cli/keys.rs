//! `keys`: who may use the control API.

use launchway_proto::ctrl::v1::{CreateKeyRequest, Key, ListKeysRequest, RevokeKeyRequest};
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    args::{Global, KeysCommand},
    connect::connect,
    render::{Renderer, emit, print, table},
    time::{ago, now_ms},
};

pub(super) async fn keys(global: &Global, command: KeysCommand) -> Result<Exit, Failure> {
    match command {
        KeysCommand::Create { role, name } => create(global, role.as_str(), name).await,
        KeysCommand::List => list(global).await,
        KeysCommand::Revoke { id } => revoke(global, id).await,
    }
}

async fn create(global: &Global, role: &str, name: String) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let answer = api.keys.create_key(CreateKeyRequest { role: role.to_owned(), name }).await;
    let made = answer.map_err(|status| Failure::of_call(&status))?.into_inner();
    let key = made.key.unwrap_or_default();
    if global.json {
        let mut result = key_json(&key);
        result["type"] = json!("result");
        result["secret"] = json!(made.secret);
        emit(&result);
        return Ok(Exit::Success);
    }
    let (id, role) = (&key.id, &key.role);
    Renderer::for_people().note(&format!(
        "{id} may {}; its secret is shown this once (use it with --token or LAUNCHWAY_TOKEN)",
        may(role)
    ));
    print(&made.secret);
    Ok(Exit::Success)
}

fn may(role: &str) -> &'static str {
    match role {
        "admin" => "do everything",
        "deploy" => "look and deploy",
        _ => "look",
    }
}

async fn list(global: &Global) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let answer = api.keys.list_keys(ListKeysRequest {}).await;
    let keys = answer.map_err(|status| Failure::of_call(&status))?.into_inner().keys;
    if global.json {
        let keys: Vec<Value> = keys.iter().map(key_json).collect();
        emit(&json!({"type": "result", "keys": keys}));
        return Ok(Exit::Success);
    }
    let now = now_ms();
    let row = |key: Key| {
        let revoked = key.revoked_at.map(|at| format!("revoked {}", ago(at, now)));
        let state = revoked.unwrap_or_else(|| "good".to_owned());
        vec![key.id, key.role, state, ago(key.created_at, now), key.name]
    };
    let rows: Vec<Vec<String>> = keys.into_iter().map(row).collect();
    table(&["ID", "ROLE", "STATE", "CREATED", "FOR"], &rows);
    Ok(Exit::Success)
}

async fn revoke(global: &Global, id: String) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let answer = api.keys.revoke_key(RevokeKeyRequest { id: id.clone() }).await;
    answer.map_err(|status| Failure::of_call(&status))?;
    match global.json {
        true => emit(&json!({"type": "result", "revoked": id})),
        false => print(&format!("revoked {id}")),
    }
    Ok(Exit::Success)
}

fn key_json(key: &Key) -> Value {
    json!({
        "key_id": key.id, "role": key.role, "name": key.name, "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    })
}
