//! What git knows of a directory.

use std::{path::Path, time::Duration};

use tokio::process::Command;

/// Longest single question.
const LIMIT: Duration = Duration::from_secs(5);
/// Characters kept of a message.
const MAX_MESSAGE: usize = 10_240;
/// Characters kept of an author.
const MAX_AUTHOR: usize = 256;

/// The commit and branch a directory is at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitState {
    /// Empty when detached.
    pub branch: String,
    /// Full SHA.
    pub sha: String,
    /// The whole message, trimmed.
    pub message: String,
    /// Name of the author.
    pub author: String,
    /// Of the commit, milliseconds since the epoch.
    pub timestamp: i64,
    /// Something in the directory differs from the commit.
    pub dirty: bool,
    /// Where `origin` is, as a URL without credentials; empty: it has none.
    pub source_url: String,
}

/// The state of the repository `dir` is in; `None` without one, without git,
/// or before the first commit: a deployment needs no repository.
pub async fn detect(dir: &Path) -> Option<GitState> {
    let shown =
        git(dir, &["log", "-1", "--no-show-signature", "--format=%H%x00%an%x00%ct%x00%B"]).await?;
    let mut fields = shown.splitn(4, '\0');
    let sha = fields.next()?.trim().to_owned();
    let author = fields.next()?.trim().chars().take(MAX_AUTHOR).collect();
    let seconds: i64 = fields.next()?.trim().parse().ok()?;
    let message = fields.next()?.trim().chars().take(MAX_MESSAGE).collect();
    let (branch, status, origin) = tokio::join!(
        git(dir, &["symbolic-ref", "--short", "--quiet", "HEAD"]),
        git(dir, &["status", "--porcelain", "--", "."]),
        git(dir, &["remote", "get-url", "origin"]),
    );
    Some(GitState {
        branch: branch.unwrap_or_default().trim().to_owned(),
        sha,
        message,
        author,
        timestamp: seconds.saturating_mul(1000),
        dirty: status.is_some_and(|status| !status.trim().is_empty()),
        source_url: origin.and_then(|origin| public_url(origin.trim())).unwrap_or_default(),
    })
}

/// The remote as everybody may see it: no user, no password, and `host:path` as
/// the web address it belongs to. `None`: a path of this machine.
fn public_url(remote: &str) -> Option<String> {
    let (scheme, rest) = match remote.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest.to_owned()),
        Some(("ssh" | "git", rest)) => ("https", rest.to_owned()),
        Some(_) => return None,
        None => {
            let (host, path) = remote.split_once(':').filter(|(host, _)| !host.contains('/'))?;
            ("https", format!("{host}/{path}"))
        }
    };
    let (authority, path) = rest.split_once('/')?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = path.trim_end_matches('/').trim_end_matches(".git");
    (!host.is_empty() && !path.is_empty()).then(|| format!("{scheme}://{host}/{path}"))
}

async fn git(dir: &Path, args: &[&str]) -> Option<String> {
    let running = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, running).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_is_shown_without_its_credentials() {
        let shop = Some("https://git.example.org/team/shop".to_owned());
        for remote in [
            "https://git.example.org/team/shop.git",
            "https://ada:secret@git.example.org/team/shop.git/",
            "git@git.example.org:team/shop.git",
            "ssh://git@git.example.org/team/shop",
        ] {
            assert_eq!(public_url(remote), shop, "{remote}");
        }
        for local in ["/srv/git/shop", "../shop", "file:///srv/git/shop", "", "https://a"] {
            assert_eq!(public_url(local), None, "{local}");
        }
    }

    async fn run(dir: &Path, args: &[&str]) {
        let identity = [
            "-c",
            "user.name=Ada Lovelace",
            "-c",
            "user.email=ada@example.org",
            "-c",
            "init.defaultBranch=trunk",
        ];
        let status = Command::new("git")
            .arg("-C")
            .arg(dir)
            .args(identity)
            .args(args)
            .stdout(std::process::Stdio::null())
            .status()
            .await
            .unwrap();
        assert!(status.success(), "{args:?}");
    }

    #[tokio::test]
    async fn branch_commit_author_and_dirty_state_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(detect(dir.path()).await, None);
        run(dir.path(), &["init", "-q"]).await;
        assert_eq!(detect(dir.path()).await, None);
        std::fs::write(dir.path().join("a"), "1").unwrap();
        run(dir.path(), &["add", "."]).await;
        run(dir.path(), &["commit", "-q", "-m", "Grüße"]).await;
        let state = detect(dir.path()).await.unwrap();
        assert_eq!(
            (state.branch.as_str(), state.message.as_str(), state.author.as_str()),
            ("trunk", "Grüße", "Ada Lovelace")
        );
        assert_eq!((state.sha.len(), state.dirty), (40, false));
        assert!(state.timestamp > 1_600_000_000_000);
        std::fs::write(dir.path().join("a"), "2").unwrap();
        assert!(detect(dir.path()).await.unwrap().dirty);
        run(dir.path(), &["checkout", "-q", "--detach"]).await;
        assert_eq!(detect(dir.path()).await.unwrap().branch, "");
    }
}
