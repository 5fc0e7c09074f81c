//! `gc`: what is past its retention.

use launchway_proto::ctrl::v1::{
    CollectGarbageRequest, GarbageAmount, GarbageItem, ListGarbageRequest,
};
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    args::Global,
    connect::connect,
    render::{emit, some, table},
};

pub(super) async fn gc(global: &Global, dry_run: bool) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let (items, amounts) = if dry_run {
        let listed = api.cleanup.list_garbage(ListGarbageRequest {}).await;
        let listed = listed.map_err(|status| Failure::of_call(&status))?.into_inner();
        (listed.items, listed.amounts)
    } else {
        let removed = api.cleanup.collect_garbage(CollectGarbageRequest {}).await;
        let removed = removed.map_err(|status| Failure::of_call(&status))?.into_inner();
        (removed.items, removed.amounts)
    };
    if global.json {
        emit(&result(dry_run, &items, &amounts));
        return Ok(Exit::Success);
    }
    if dry_run && !items.is_empty() {
        let rows: Vec<_> = items
            .iter()
            .map(|item| {
                let (name, id) = (item.name.clone(), item.deployment_id.clone());
                vec![item.kind.clone(), bytes(item.size), name, id]
            })
            .collect();
        table(&["KIND", "SIZE", "NAME", "DEPLOYMENT"], &rows);
    }
    eprintln!("{}", summary(dry_run, &amounts));
    Ok(Exit::Success)
}

fn result(dry_run: bool, items: &[GarbageItem], amounts: &[GarbageAmount]) -> Value {
    let items: Vec<_> = items
        .iter()
        .map(|item| {
            json!({
                "kind": item.kind, "name": item.name, "size": item.size,
                "deployment_id": some(&item.deployment_id),
            })
        })
        .collect();
    let amounts: Vec<_> = amounts
        .iter()
        .map(|one| json!({"kind": one.kind, "count": one.count, "bytes": one.bytes}))
        .collect();
    json!({"type": "result", "dry_run": dry_run, "items": items, "amounts": amounts})
}

fn summary(dry_run: bool, amounts: &[GarbageAmount]) -> String {
    if amounts.is_empty() {
        return "nothing is past its retention".to_owned();
    }
    let of = |one: &GarbageAmount| match one.bytes {
        0 => format!("{} of kind {}", one.count, one.kind),
        size => format!("{} of kind {} ({})", one.count, one.kind, bytes(size)),
    };
    let all = amounts.iter().map(of).collect::<Vec<_>>().join(", ");
    match dry_run {
        true => format!("would be removed: {all}"),
        false => format!("removed: {all}"),
    }
}

fn bytes(size: u64) -> String {
    indicatif::HumanBytes(size).to_string()
}
