-- What became of earlier attempts; the deployment's own row has the latest.
CREATE TABLE deployment_attempts (
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    attempt BIGINT NOT NULL,
    invocation_id TEXT,
    status TEXT NOT NULL,
    failure TEXT,
    undone TEXT,
    started_at BIGINT NOT NULL,
    ended_at BIGINT NOT NULL,
    PRIMARY KEY (deployment_id, attempt)
);

-- What the latest attempt took back, and where and why it began.
ALTER TABLE deployments ADD COLUMN undone TEXT;
ALTER TABLE deployments ADD COLUMN restarted_at_step TEXT;
ALTER TABLE deployments ADD COLUMN restarted_why TEXT;
ALTER TABLE deployments ADD COLUMN attempt_started_at BIGINT;
-- When it last became live, for rollbacks; how often it was wanted again.
ALTER TABLE deployments ADD COLUMN live_at BIGINT;
ALTER TABLE deployments ADD COLUMN retire_generation BIGINT NOT NULL DEFAULT 0;
-- The invocation that submitted it; the one that began the present attempt,
-- where that is a retry, and the one whose journal that continues.
ALTER TABLE deployments ADD COLUMN submitted_by TEXT NOT NULL DEFAULT '';
ALTER TABLE deployments ADD COLUMN retried_by TEXT;
ALTER TABLE deployments ADD COLUMN retried_from TEXT;
-- The workflow that owned the row last; `invocation_id` may be the one that
-- has unwound it.
ALTER TABLE deployments ADD COLUMN workflow_id TEXT;
-- Since when it makes no progress, and why.
ALTER TABLE deployments ADD COLUMN stalled_since BIGINT;
ALTER TABLE deployments ADD COLUMN stalled_why TEXT;
ALTER TABLE deployments DROP COLUMN rolled_back;
-- supersede-queued, or queue: build everything.
ALTER TABLE projects ADD COLUMN queue_policy TEXT NOT NULL DEFAULT 'supersede-queued';
