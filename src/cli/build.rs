//! `build`: an image without a deployment.

use launchway_proto::ctrl::v1::CreateBuildRequest;

use super::{
    Exit, Failure,
    args::{BuildArgs, Global},
    connect::connect,
    deploy::{announce, environment, follow},
    project,
    render::Renderer,
    source::{BuildSource, branch, commit},
};
use crate::pack;

pub(super) async fn build(global: &Global, args: BuildArgs) -> Result<Exit, Failure> {
    let mut renderer = Renderer::of(global);
    let file = project::read(&args.path)?;
    let project = project::name(global, &file, &args.path)?;
    let source = BuildSource::new(&args.path, &args.build, &file)?;
    let mut api = connect(global).await?;
    let git = pack::git::detect(&args.path).await;
    let (context, hash) = source.upload(&mut api, &project, &renderer).await?;
    let request = CreateBuildRequest {
        build_context_path: context.build_context_path,
        dockerfile_path: context.dockerfile_path,
        unkey_project_id: project,
        deployment_id: String::new(),
        build_options: Some(source.options()),
        branch: branch(&args.build, git.as_ref()),
        git_commit: commit(&args.build, git),
        environment_slug: environment(global, false, &file),
        idempotency_key: args.build.idempotency_key.clone(),
        content_hash: Some(hash),
        // Followed as deployments are, so that the output is seen meanwhile.
        detach: true,
    };
    let created = api.builds.create_build(request).await;
    let created = created.map_err(|status| Failure::of_call(&status))?.into_inner();
    let id = created.deployment_id;
    if args.follow.detach {
        announce(global, &id, "pending");
        return Ok(Exit::Success);
    }
    renderer.note(&format!("build {id}"));
    follow(&mut api, &id, &mut renderer, args.follow.wait_timeout.get()).await
}
