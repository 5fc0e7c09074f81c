//! `domains`: hostnames, and which of them are one's own.

use launchway_proto::ctrl::v1::{
    AddDomainRequest, Domain, ListDomainsRequest, RemoveDomainRequest,
};
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    args::{DomainsCommand, Global},
    connect::connect,
    project,
    render::{emit, print, table},
};

pub(super) async fn domains(global: &Global, command: DomainsCommand) -> Result<Exit, Failure> {
    match command {
        DomainsCommand::List => list(global).await,
        DomainsCommand::Add { name } => add(global, name).await,
        DomainsCommand::Remove { name } => remove(global, name).await,
    }
}

async fn list(global: &Global) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let request = ListDomainsRequest {
        project_id: global.project.clone().unwrap_or_default(),
        environment_slug: global.environment.clone().unwrap_or_default(),
    };
    let answer = api.domains.list_domains(request).await;
    let domains = answer.map_err(|status| Failure::of_call(&status))?.into_inner().domains;
    if global.json {
        let domains: Vec<Value> = domains.iter().map(domain_json).collect();
        emit(&json!({"type": "result", "domains": domains}));
        return Ok(Exit::Success);
    }
    let rows: Vec<Vec<String>> = domains.into_iter().map(row).collect();
    table(&["DOMAIN", "FOLLOWS", "PROJECT", "ENVIRONMENT", "DEPLOYMENT"], &rows);
    Ok(Exit::Success)
}

fn row(domain: Domain) -> Vec<String> {
    let follows = match domain.kind.as_str() {
        "commit" => "nothing: it stays",
        "branch" => "its branch",
        "environment" => "its environment",
        _ => "what is live (custom)",
    };
    vec![
        domain.name,
        follows.to_owned(),
        domain.project_slug,
        domain.environment_slug,
        domain.deployment_id,
    ]
}

async fn add(global: &Global, name: String) -> Result<Exit, Failure> {
    let (project_id, environment_slug) = project::environment_here(global)?;
    let request = AddDomainRequest { project_id, environment_slug, name };
    let mut api = connect(global).await?;
    let answer = api.domains.add_domain(request).await;
    let added = answer.map_err(|status| Failure::of_call(&status))?.into_inner().domain;
    let added = added.unwrap_or_default();
    match global.json {
        true => emit(&json!({"type": "result", "domain": domain_json(&added)})),
        false => {
            eprintln!("point the DNS record of {} to the gateway", added.name);
            print(&format!("{} serves {}", added.name, added.deployment_id));
        }
    }
    Ok(Exit::Success)
}

async fn remove(global: &Global, name: String) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let answer = api.domains.remove_domain(RemoveDomainRequest { name: name.clone() }).await;
    answer.map_err(|status| Failure::of_call(&status))?;
    match global.json {
        true => emit(&json!({"type": "result", "removed": name})),
        false => print(&format!("removed {name}")),
    }
    Ok(Exit::Success)
}

fn domain_json(domain: &Domain) -> Value {
    json!({
        "name": domain.name, "kind": domain.kind, "project": domain.project_slug,
        "environment": domain.environment_slug, "deployment_id": domain.deployment_id,
    })
}
