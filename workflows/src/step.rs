//! The steps of a deployment, by the names people and journals know.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A step of `deploy`. Once released, a name does not change.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Reads what is to be deployed and takes ownership of the row.
    LoadDeployment,
    /// Waits for one of the workspace's build slots.
    AcquireSlot,
    /// Checks that the uploaded context is the one that was announced.
    PresignContext,
    /// Builds the image.
    BuildImage,
    /// Gives the slot back.
    ReleaseSlot,
    /// Pushes the image, or verifies the manifest the builder pushed.
    PushImage,
    /// Runs the release command, where there is one.
    ReleaseCommand,
    /// Starts the instances.
    DeployToKrane,
    /// Waits until every instance is ready.
    AwaitReady,
    /// Moves the domains: the commit point.
    AssignDomains,
    /// Reads the application's OpenAPI description, if it has one.
    ScrapeOpenapi,
    /// Schedules the previous deployment's retirement.
    RetirePrevious,
}

impl Step {
    /// All steps, in the order `deploy` runs them.
    pub const ALL: [Step; 12] = [
        Step::LoadDeployment,
        Step::AcquireSlot,
        Step::PresignContext,
        Step::BuildImage,
        Step::ReleaseSlot,
        Step::PushImage,
        Step::ReleaseCommand,
        Step::DeployToKrane,
        Step::AwaitReady,
        Step::AssignDomains,
        Step::ScrapeOpenapi,
        Step::RetirePrevious,
    ];

    /// The last of them.
    pub const LAST: Step = Step::RetirePrevious;

    /// Work of minutes inside one run, which says nothing to the database while
    /// it lasts. Each such step has a limit of its own.
    pub fn is_held(self) -> bool {
        matches!(
            self,
            Step::BuildImage | Step::PushImage | Step::ReleaseCommand | Step::DeployToKrane
        )
    }

    /// The kebab-case name.
    pub fn name(self) -> &'static str {
        match self {
            Step::LoadDeployment => "load-deployment",
            Step::AcquireSlot => "acquire-slot",
            Step::PresignContext => "presign-context",
            Step::BuildImage => "build-image",
            Step::ReleaseSlot => "release-slot",
            Step::PushImage => "push-image",
            Step::ReleaseCommand => "release-command",
            Step::DeployToKrane => "deploy-to-krane",
            Step::AwaitReady => "await-ready",
            Step::AssignDomains => "assign-domains",
            Step::ScrapeOpenapi => "scrape-openapi",
            Step::RetirePrevious => "retire-previous",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(input: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|step| step.name() == input).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|step| step.name()).collect();
            format!("`{input}` is not a step; the steps are {}", names.join(", "))
        })
    }
}
