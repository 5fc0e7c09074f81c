//! Which hostnames a deployment asks for.

use sha2::{Digest, Sha256};

use crate::{
    model::{DeploymentPlan, DomainClaim, DomainKind},
    names::slugify,
};

/// Longest DNS label.
const MAX_LABEL: usize = 63;
/// Hex characters of a hash suffix: 40 bits keep accidental twins away.
const SUFFIX: usize = 10;

/// The commit, branch and environment claims of a deployment. Labels fit 63
/// characters; the same plan always gives the same names.
pub fn claims(plan: &DeploymentPlan, apex: &str) -> Vec<DomainClaim> {
    let project = &plan.project_slug;
    let workspace = &plan.workspace_id;
    let revision = match (plan.commit_sha.get(..7), plan.content_hash.get(..7)) {
        (Some(sha), _) => sha.to_owned(),
        (None, Some(content)) => content.to_owned(),
        (None, None) => "image".to_owned(),
    };
    let commit = format!("{project}-git-{revision}-{}-{workspace}", plan.deployment_id.short());
    let branch = format!("{project}-git-{}-{workspace}", slugify(&plan.branch));
    let environment = format!("{project}-{}-{workspace}", plan.environment_slug);
    [
        (DomainKind::Commit, plan.deployment_id.to_string(), commit),
        (DomainKind::Branch, format!("{}/{}", plan.environment_id, plan.branch), branch),
        (DomainKind::Environment, plan.environment_id.to_string(), environment),
    ]
    .into_iter()
    .map(|(kind, owner, label)| claim(kind, owner, &label, apex))
    .collect()
}

fn claim(kind: DomainKind, owner: String, label: &str, apex: &str) -> DomainClaim {
    let fallback = with_suffix(label, &format!("{}/{owner}", kind.as_str()));
    DomainClaim {
        kind,
        name: format!("{}.{apex}", fit(label)),
        fallback: format!("{fallback}.{apex}"),
        owner,
    }
}

/// The label itself, or cut with a hash of the whole where it is too long, so
/// that two long names that begin alike stay apart.
fn fit(label: &str) -> String {
    if label.len() <= MAX_LABEL { label.to_owned() } else { with_suffix(label, label) }
}

fn with_suffix(label: &str, of: &str) -> String {
    let hash: String =
        Sha256::digest(of.as_bytes()).iter().take(SUFFIX / 2).map(|b| format!("{b:02x}")).collect();
    let keep = label.len().min(MAX_LABEL - SUFFIX - 1);
    format!("{}-{hash}", label[..keep].trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_plan;

    fn plan(project: &str, branch: &str) -> DeploymentPlan {
        DeploymentPlan {
            project_slug: project.to_owned(),
            branch: branch.to_owned(),
            ..test_plan()
        }
    }

    #[test]
    fn names_follow_the_contract() {
        let plan = plan("hello", "feature/Login");
        let claims = claims(&plan, "localhost");
        let suffix = plan.deployment_id.short();
        assert_eq!(claims[0].name, format!("hello-git-0123456-{suffix}-local.localhost"));
        assert_eq!(claims[1].name, "hello-git-feature-login-local.localhost");
        assert_eq!(claims[2].name, "hello-preview-local.localhost");
    }

    #[test]
    fn long_names_are_cut_to_a_label_and_stay_apart() {
        let long = "b".repeat(80);
        let first = claims(&plan("shop", &format!("{long}1")), "localhost");
        let second = claims(&plan("shop", &format!("{long}2")), "localhost");
        for claim in first.iter().chain(&second) {
            for name in [&claim.name, &claim.fallback] {
                assert!(name.split('.').next().unwrap().len() <= MAX_LABEL, "{name}");
            }
        }
        assert_ne!(first[1].name, second[1].name);
    }

    #[test]
    fn another_owner_of_the_same_name_has_another_fallback() {
        let (first, second) = (plan("hello", "main"), plan("hello", "main"));
        let (first, second) = (claims(&first, "localhost"), claims(&second, "localhost"));
        assert_eq!(first[1].name, second[1].name);
        assert_ne!(first[1].fallback, second[1].fallback);
    }
}
