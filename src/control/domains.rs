//! `ctrl.v1.DomainService`.

use launchway_proto::ctrl::v1::{
    AddDomainRequest, AddDomainResponse, Domain, ListDomainsRequest, ListDomainsResponse,
    RemoveDomainRequest, RemoveDomainResponse, domain_service_server::DomainService,
};
use launchway_workflows::names::{canonical_hostname, custom_hostname};
use tonic::{Request, Response, Status};

use super::{Control, deployments::unavailable};
use crate::store::DomainView;

#[tonic::async_trait]
impl DomainService for Control {
    async fn add_domain(
        &self,
        request: Request<AddDomainRequest>,
    ) -> Result<Response<AddDomainResponse>, Status> {
        let AddDomainRequest { project_id, environment_slug, name } = request.into_inner();
        let name = custom_hostname(&name, &self.apex).map_err(Status::invalid_argument)?;
        let added =
            self.store.add_domain(&self.workspace, &project_id, &environment_slug, &name).await;
        let added = added.map_err(unavailable)?.map_err(Status::failed_precondition)?;
        tracing::info!(domain = name, deployment = %added.deployment_id, "domain added");
        Ok(Response::new(AddDomainResponse { domain: Some(domain(added)) }))
    }

    async fn remove_domain(
        &self,
        request: Request<RemoveDomainRequest>,
    ) -> Result<Response<RemoveDomainResponse>, Status> {
        let name = canonical_hostname(&request.into_inner().name);
        if !self.store.remove_domain(&self.workspace, &name).await.map_err(unavailable)? {
            return Err(Status::not_found(format!(
                "there is no custom domain `{name}`: `launchway domains list` shows them; the others \
                 belong to their deployments"
            )));
        }
        tracing::info!(domain = name, "domain removed");
        Ok(Response::new(RemoveDomainResponse {}))
    }

    async fn list_domains(
        &self,
        request: Request<ListDomainsRequest>,
    ) -> Result<Response<ListDomainsResponse>, Status> {
        let ListDomainsRequest { project_id, environment_slug } = request.into_inner();
        let found = self.store.domains(&self.workspace, &project_id, &environment_slug).await;
        let domains = found.map_err(unavailable)?.into_iter().map(domain).collect();
        Ok(Response::new(ListDomainsResponse { domains }))
    }
}

fn domain(view: DomainView) -> Domain {
    Domain {
        name: view.name,
        kind: view.kind.as_str().to_owned(),
        project_slug: view.project_slug,
        environment_slug: view.environment_slug,
        deployment_id: view.deployment_id.to_string(),
    }
}
