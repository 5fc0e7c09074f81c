//! `ctrl.v1.KeyService`.

use launchway_proto::ctrl::v1::{
    CreateKeyRequest, CreateKeyResponse, Key, ListKeysRequest, ListKeysResponse, RevokeKeyRequest,
    RevokeKeyResponse, key_service_server::KeyService,
};
use rand::RngCore;
use tonic::{Request, Response, Status};

use super::{Control, auth::Caller, deployments::unavailable};
use crate::store::{Act, ApiKeyView};

/// What a key begins with, so that scanners know one.
const PREFIX: &str = "lwk_";
/// Random bytes of a key.
const BYTES: usize = 32;
/// Characters of what it is for.
const MAX_NAME: usize = 100;

#[tonic::async_trait]
impl KeyService for Control {
    async fn create_key(
        &self,
        request: Request<CreateKeyRequest>,
    ) -> Result<Response<CreateKeyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let CreateKeyRequest { role, name } = request.into_inner();
        let role = role.parse().map_err(Status::invalid_argument)?;
        if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "name is refused: give at most {MAX_NAME} characters on one line"
            )));
        }
        let mut random = [0; BYTES];
        rand::rng().fill_bytes(&mut random);
        let secret = format!("{PREFIX}{}", bs58::encode(random).into_string());
        let act = Act { workspace: &self.workspace, actor: &caller.0 };
        let made = self.store.create_api_key(act, role, &name, &secret).await;
        let made = made.map_err(unavailable)?;
        tracing::info!(key = %made.id, role = role.as_str(), by = %caller.0, "API key created");
        Ok(Response::new(CreateKeyResponse { key: Some(key(made)), secret }))
    }

    async fn list_keys(
        &self,
        _request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        let found = self.store.api_keys(&self.workspace).await.map_err(unavailable)?;
        Ok(Response::new(ListKeysResponse { keys: found.into_iter().map(key).collect() }))
    }

    async fn revoke_key(
        &self,
        request: Request<RevokeKeyRequest>,
    ) -> Result<Response<RevokeKeyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = request.into_inner().id;
        let id = id.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let act = Act { workspace: &self.workspace, actor: &caller.0 };
        let revoked = self.store.revoke_api_key(act, &id).await;
        revoked.map_err(unavailable)?.map_err(Status::failed_precondition)?;
        tracing::info!(key = %id, by = %caller.0, "API key revoked");
        Ok(Response::new(RevokeKeyResponse {}))
    }
}

fn key(view: ApiKeyView) -> Key {
    Key {
        id: view.id.to_string(),
        role: view.role.as_str().to_owned(),
        name: view.name,
        created_at: view.created_at,
        revoked_at: view.revoked_at,
    }
}
