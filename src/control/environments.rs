//! `ctrl.v1.EnvironmentService`.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use launchway_proto::ctrl::v1::{
    InstanceScale, ListVariablesRequest, ListVariablesResponse, ScaleRequest as AskedScale,
    ScaleResponse, SetVariablesRequest, SetVariablesResponse, UnsetVariablesRequest,
    UnsetVariablesResponse, Variable, environment_service_server::EnvironmentService,
};
use launchway_workflows::{
    app,
    engine::running::variable,
    error::ErrorCode,
    ids::EnvironmentId,
    model::Sealed,
    secret::Secret,
    services::scale::{ScaleRequest, Scaled},
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Control,
    actions::{failed, told},
    auth::Caller,
    deployments::{refusal, unavailable},
};
use crate::store::Act;

/// Variables set at once, and the bytes of one value.
const MAX_AT_ONCE: usize = 200;
const MAX_VALUE: usize = 32 * 1024;
/// Longest name.
const MAX_NAME: usize = 128;
/// New instances may have to be pulled, started and probed.
const SCALE_LIMIT: Duration = Duration::from_secs(5400);

#[tonic::async_trait]
impl EnvironmentService for Control {
    async fn set_variables(
        &self,
        request: Request<SetVariablesRequest>,
    ) -> Result<Response<SetVariablesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let SetVariablesRequest { project_id, environment_slug, variables } = request.into_inner();
        let sealed = self.sealed(variables)?;
        let act = Act { workspace: &self.workspace, actor: &caller.0 };
        let set = self.store.set_variables(act, &project_id, &environment_slug, &sealed).await;
        set.map_err(unavailable)?.map_err(Status::invalid_argument)?;
        let names: Vec<&String> = sealed.keys().collect();
        tracing::info!(
            project = project_id,
            environment = environment_slug,
            ?names,
            "variables set"
        );
        Ok(Response::new(SetVariablesResponse {}))
    }

    async fn unset_variables(
        &self,
        request: Request<UnsetVariablesRequest>,
    ) -> Result<Response<UnsetVariablesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let UnsetVariablesRequest { project_id, environment_slug, names } = request.into_inner();
        if names.is_empty() {
            return Err(Status::invalid_argument("names is empty: name a variable"));
        }
        let act = Act { workspace: &self.workspace, actor: &caller.0 };
        let unset = self.store.unset_variables(act, &project_id, &environment_slug, &names).await;
        unset.map_err(unavailable)?.map_err(Status::not_found)?;
        tracing::info!(
            project = project_id,
            environment = environment_slug,
            ?names,
            "variables removed"
        );
        Ok(Response::new(UnsetVariablesResponse {}))
    }

    async fn list_variables(
        &self,
        request: Request<ListVariablesRequest>,
    ) -> Result<Response<ListVariablesResponse>, Status> {
        let ListVariablesRequest { project_id, environment_slug } = request.into_inner();
        let found = self.store.variables(&self.workspace, &project_id, &environment_slug).await;
        let variables = found.map_err(unavailable)?.into_iter();
        let variables =
            variables.map(|found| Variable { name: found.name, updated_at: found.updated_at });
        Ok(Response::new(ListVariablesResponse { variables: variables.collect() }))
    }

    async fn scale(&self, request: Request<AskedScale>) -> Result<Response<ScaleResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let environment_id = self.environment_of(&asked).await?;
        let deployment = Some(asked.deployment_id).filter(|id| !id.is_empty());
        let request = ScaleRequest {
            deployment_id: deployment
                .map(|id| id.parse())
                .transpose()
                .map_err(|error| Status::invalid_argument(format!("{error}")))?,
            process: Some(asked.process).filter(|name| !name.is_empty()),
            replicas: asked.replicas,
            cpu_millicores: asked.cpu_millicores,
            memory_mib: asked.memory_mib,
            environment_id,
        };
        let handler = format!("Scale/{}/run", request.environment_id);
        let key = Uuid::new_v4().to_string();
        let call = self.ingress.call_within(&handler, &key, &request, SCALE_LIMIT);
        match call.await.map_err(refusal)? {
            Scaled::Done { deployment_id, process, from, to } => {
                let act = Act { workspace: &self.workspace, actor: &caller.0 };
                let subject = format!("{deployment_id}: {process} {}", to.replicas);
                self.store.note_act(act, "scale", &subject).await.map_err(unavailable)?;
                Ok(Response::new(ScaleResponse {
                    deployment_id: deployment_id.to_string(),
                    process,
                    from: Some(scale(from)),
                    to: Some(scale(to)),
                }))
            }
            Scaled::Refused(reason) => Err(Status::failed_precondition(reason)),
            Scaled::Failed(failure) => {
                let text = format!("{}; the scale is as it was", told(&failure));
                // What runs was healthy: that the runtime refuses the change, because
                // what it brings does not get ready, is the change's own fault.
                match failure.code {
                    ErrorCode::RuntimeRejected => Err(Status::aborted(text)),
                    _ => Err(failed(&failure, text)),
                }
            }
        }
    }
}

impl Control {
    /// Of the deployment, or by name.
    async fn environment_of(&self, asked: &AskedScale) -> Result<EnvironmentId, Status> {
        if !asked.deployment_id.is_empty() {
            let view = self.find(&asked.deployment_id).await?;
            return view
                .environment_id
                .parse()
                .map_err(|error| Status::internal(format!("{error}")));
        }
        let (project, environment) = (&asked.project_id, &asked.environment_slug);
        let found = self.store.environment_id(&self.workspace, project, environment).await;
        found.map_err(unavailable)?.ok_or_else(|| {
            Status::not_found(format!(
                "project `{project}` has no environment `{environment}`: `launchway project list` shows them"
            ))
        })
    }

    fn sealed(&self, given: HashMap<String, String>) -> Result<BTreeMap<String, Sealed>, Status> {
        if given.is_empty() || given.len() > MAX_AT_ONCE {
            return Err(Status::invalid_argument(format!(
                "{} variables: give from 1 to {MAX_AT_ONCE} at once",
                given.len()
            )));
        }
        let mut problems: Vec<String> =
            given.iter().filter_map(|(name, value)| problem(name, value)).collect();
        if !problems.is_empty() {
            problems.sort();
            return Err(Status::invalid_argument(problems.join("; ")));
        }
        let seal = |(name, value): (String, String)| {
            let bound = variable(&name);
            let sealed = self.vault.seal(&self.workspace, &bound, &Secret::new(value));
            Ok((name, sealed.map_err(Status::internal)?))
        };
        given.into_iter().map(seal).collect()
    }
}

/// What is wrong with a variable; the value is not shown.
fn problem(name: &str, value: &str) -> Option<String> {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
    let goes_on = |c: char| begins(c) || c.is_ascii_digit();
    if name.len() > MAX_NAME || !name.starts_with(begins) || !name.chars().all(goes_on) {
        return Some(format!(
            "variable `{name}`: give a name of at most {MAX_NAME} letters, digits and `_`, that does not \
             begin with a digit"
        ));
    }
    if name == "PORT" {
        return Some(
            "variable `PORT` is set by launchway: give `port` in launchway.toml, or --port"
                .to_owned(),
        );
    }
    if name.starts_with("LAUNCHWAY_") {
        return Some(format!(
            "variable `{name}`: names with LAUNCHWAY_ are launchway's own: give another"
        ));
    }
    if value.len() > MAX_VALUE {
        return Some(format!(
            "variable `{name}` has {} bytes: give at most {MAX_VALUE}",
            value.len()
        ));
    }
    value.contains('\0').then(|| {
        format!("variable `{name}` has a NUL character, which no variable can have: remove it")
    })
}

fn scale(scale: app::Scale) -> InstanceScale {
    InstanceScale {
        replicas: scale.replicas,
        cpu_millicores: scale.cpu_millicores,
        memory_mib: scale.memory_mib,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_that_no_process_can_have_are_refused_without_the_value() {
        for good in ["A", "_x1", "DATABASE_URL", "lower_case"] {
            assert_eq!(problem(good, "any value\nof two lines"), None, "{good}");
        }
        for bad in ["", "1A", "A-B", "A B", "Ä", "A=B", "PORT", "LAUNCHWAY_TOKEN"] {
            assert!(problem(bad, "").unwrap().contains(bad), "{bad}");
        }
        let large = problem("LARGE", &"s3cret".repeat(10_000)).unwrap();
        assert!(large.contains("LARGE") && !large.contains("s3cret"), "{large}");
        assert!(problem("NUL", "a\0b").unwrap().contains("NUL"));
    }
}
