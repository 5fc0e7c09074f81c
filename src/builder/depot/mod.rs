//! Depot: a machine with a cache of its own for every project, over the same
//! BuildKit path as the others.

mod api;
mod ledger;
mod machine;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use launchway_proto::depot::cli::v1::BuilderPlatform;
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ids::BuildId,
    model::BuiltImage,
    ports::{BuildEvent, BuildSpec, Builder, Push},
    secret::Secret,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{
    buildkit::{Output, Solve, find_pushed, made, made_before, pushed_digest, solve, unreachable},
    platform::{Platform, Platforms},
};
use crate::registry::{Login, Registry};
use api::Api;
pub use ledger::{Claim, Ledger, Outcome, Registered};

/// Between two looks whether somebody else has created the project, and the
/// longest wait for that: a claim is given up after a minute.
const PROJECT_PAUSE: Duration = Duration::from_millis(500);
const PROJECT_LIMIT: Duration = Duration::from_secs(90);
/// Tries to tell Depot the end at once; after them it is told in the
/// background.
const FINISH_TRIES: u32 = 3;
const FINISH_PAUSE: Duration = Duration::from_millis(500);
/// How often ends are told that could not be.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// How long is waited for a machine, and how often Depot hears of a build.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until Depot has one.
    pub machine: Duration,
    /// Until its BuildKit answers.
    pub ready: Duration,
    /// How often Depot is told that the build goes on.
    pub health: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let five_minutes = Duration::from_secs(300);
        Self { machine: five_minutes, ready: five_minutes, health: Duration::from_secs(5) }
    }
}

/// An account of Depot's.
#[derive(Debug, Clone)]
pub struct DepotAccount {
    /// Without a slash at its end.
    pub api_url: String,
    /// Of the organisation; never the registry's password.
    pub token: Secret,
    /// Where there are several.
    pub organization: Option<String>,
    /// Where projects are made.
    pub region: String,
    /// Depot's own, or another.
    pub registry: Registry,
}

/// Builds on machines of Depot's and pushes inside the build.
pub struct DepotBuilder {
    api: Api,
    account: DepotAccount,
    ledger: Arc<dyn Ledger>,
    limits: Limits,
    owner: String,
    _telling: AbortOnDropHandle<()>,
}

impl DepotBuilder {
    /// Images are labelled as `owner`'s. Begins to tell Depot, in the
    /// background, the ends that it was not told.
    ///
    /// # Errors
    /// The API's URL cannot be used.
    pub fn start(
        account: DepotAccount,
        ledger: Arc<dyn Ledger>,
        limits: Limits,
        owner: &str,
    ) -> Result<Self, String> {
        let api = Api::new(&account.api_url, account.token.clone())?;
        let telling = tokio::spawn(tell_for_ever(api.clone(), Arc::clone(&ledger)));
        let _telling = AbortOnDropHandle::new(telling);
        Ok(Self { api, account, ledger, limits, owner: owner.to_owned(), _telling })
    }

    /// The order of registry and project matters: Depot declines any other.
    fn reference(&self, depot_project: &str, spec: &BuildSpec) -> String {
        let host = &self.account.registry.host;
        format!("{host}/{depot_project}:{}-{}", spec.project_id, spec.deployment_id)
    }

    /// Depot's project of the project, created once.
    async fn project(&self, spec: &BuildSpec) -> Result<String, StepError> {
        let begun = Instant::now();
        while begun.elapsed() < PROJECT_LIMIT {
            match self.ledger.claim_depot_project(&spec.project_id).await? {
                Claim::Exists(depot) => return Ok(depot),
                Claim::Yours => {
                    let name = format!("launchway {} {}", spec.project_slug, spec.project_id);
                    let organization = self.account.organization.as_deref();
                    let created =
                        self.api.create_project(&name, &self.account.region, organization);
                    let depot = created.await?;
                    tracing::info!(project = %spec.project_id, depot, "created a project at Depot");
                    return Ok(self.ledger.set_depot_project(&spec.project_id, &depot).await?);
                }
                Claim::Taken => tokio::time::sleep(PROJECT_PAUSE).await,
            }
        }
        Err(unreachable("another worker does not get Depot's project created".to_owned()))
    }

    async fn on_machine(
        &self,
        spec: &BuildSpec,
        build: &Registered,
        reference: &str,
        events: &mpsc::Sender<BuildEvent>,
    ) -> Result<BuiltImage, StepError> {
        let platform = platform(spec)?;
        // Before the machine is asked for: Depot ends builds that say nothing.
        if let Err(error) = self.api.report_health(build, platform).await {
            tracing::warn!(build = build.id, error = %error.failure(), "Depot was not told");
        }
        let building = async {
            let machine = machine::acquire(&self.api, build, platform, self.limits).await?;
            let registry = &self.account.registry;
            let login = registry.login.clone().unwrap_or_else(|| Login {
                host: registry.host.clone(),
                username: "x-token".to_owned(),
                password: build.token.clone(),
            });
            let options = Solve {
                output: &Output::push(registry, reference.to_owned()),
                logins: vec![login],
                // The machine keeps its own.
                cache: None,
                labels: &[("launchway.owner", &self.owner)],
                gzip: machine.gzip,
                made: &|| made(self, spec),
            };
            let Some(response) = solve(machine.channel, spec, options, events).await? else {
                return made_before(self, spec).await;
            };
            let digest = pushed_digest(&response)?;
            Ok(BuiltImage { reference: reference.to_owned(), digest, local_only: false })
        };
        tokio::select! {
            built = building => built,
            ended = machine::keep(&self.api, build, platform, self.limits.health) => Err(ended),
        }
    }

    /// Tells Depot; what it could not be told is told in the background.
    async fn finish(&self, build: &Registered, outcome: &Outcome) -> Result<(), StepError> {
        self.ledger.ended(&build.id, outcome).await?;
        for _ in 1..FINISH_TRIES {
            if tell(&self.api, &*self.ledger, build, outcome).await {
                return Ok(());
            }
            tokio::time::sleep(FINISH_PAUSE).await;
        }
        tell(&self.api, &*self.ledger, build, outcome).await;
        Ok(())
    }
}

#[async_trait]
impl Builder for DepotBuilder {
    async fn find_image(&self, spec: &BuildSpec) -> Result<Option<BuiltImage>, StepError> {
        match self.ledger.depot_project(&spec.project_id).await? {
            Some(depot) => find_pushed(&self.account.registry, self.reference(&depot, spec)).await,
            None => Ok(None),
        }
    }

    async fn has_image(&self, image: &BuiltImage) -> Result<bool, StepError> {
        Ok(self.account.registry.digest_of(&image.pinned()).await?.is_some())
    }

    async fn build(
        &self,
        spec: &BuildSpec,
        events: mpsc::Sender<BuildEvent>,
    ) -> Result<BuiltImage, StepError> {
        let depot_project = self.project(spec).await?;
        let reference = self.reference(&depot_project, spec);
        let build = self.api.create_build(&depot_project, &reference).await?;
        if let Err(error) = self.ledger.opened(&spec.build_id, &build).await {
            // Nobody would find it again.
            let outcome = Outcome::Error(error.to_string());
            if let Err(error) = self.api.finish(&build, &outcome).await {
                tracing::warn!(build = build.id, error = %error.failure(), "Depot was not told");
            }
            return Err(error.into());
        }
        let built = self.on_machine(spec, &build, &reference, &events).await;
        let outcome = match &built {
            Ok(_) => Outcome::Success,
            Err(error) => Outcome::Error(error.failure().message.clone()),
        };
        self.finish(&build, &outcome).await?;
        built
    }

    /// Ends every build at Depot that an earlier run of this build has left.
    async fn abort(&self, build_id: &BuildId) -> Result<(), StepError> {
        for build in self.ledger.open(build_id).await? {
            tracing::info!(build = %build_id, depot = build.id, "ending a build that was left");
            self.finish(&build, &Outcome::Canceled).await?;
        }
        Ok(())
    }

    async fn push(&self, image: &BuiltImage) -> Result<Push, StepError> {
        self.account.registry.verify(&image.reference, &image.digest).await?;
        Ok(Push::Pushed(image.clone()))
    }
}

/// Whether the API takes the token: a project that cannot exist is asked for.
pub(super) async fn check(account: &DepotAccount) -> Result<(), String> {
    let api = Api::new(&account.api_url, account.token.clone())?;
    api.check().await.map_err(|error| error.failure().message.clone())
}

/// The machine's own platform: several are all built on the first one's.
fn platform(spec: &BuildSpec) -> Result<BuilderPlatform, StepError> {
    let platforms = Platforms::resolve(spec.options.platform.as_deref())
        .map_err(|error| StepError::permanent(ErrorCode::BuildFailed, error.to_string()))?;
    Ok(match platforms.all().first() {
        Some(Platform::LinuxArm64) => BuilderPlatform::Arm64,
        None | Some(Platform::LinuxAmd64) => BuilderPlatform::Amd64,
    })
}

/// Whether Depot knows the end now.
async fn tell(api: &Api, ledger: &dyn Ledger, build: &Registered, outcome: &Outcome) -> bool {
    if let Err(error) = api.finish(build, outcome).await {
        tracing::warn!(build = build.id, error = %error.failure(), "Depot was not told the end");
        return false;
    }
    match ledger.told(&build.id).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(build = build.id, %error, "Depot will be told the end again");
            false
        }
    }
}

async fn tell_for_ever(api: Api, ledger: Arc<dyn Ledger>) {
    loop {
        match ledger.untold().await {
            Ok(untold) => {
                for (build, outcome) in untold {
                    tell(&api, &*ledger, &build, &outcome).await;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look for builds to end at Depot"),
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}
