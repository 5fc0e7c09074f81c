-- Journals of attempts that have ended: Restate forgets its own.
CREATE TABLE journal_entries (
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    attempt BIGINT NOT NULL,
    position BIGINT NOT NULL,
    entry TEXT NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (deployment_id, attempt, position)
);

-- The last attempt whose journal was saved, or had gone before it could be.
ALTER TABLE deployments ADD COLUMN journal_attempt BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deployment_attempts ADD COLUMN journal_saved BIGINT NOT NULL DEFAULT 0;
-- Few rows are without: those are what is looked for again and again.
CREATE INDEX deployments_without_journal ON deployments (id) WHERE journal_attempt < attempt;
CREATE INDEX attempts_without_journal ON deployment_attempts (deployment_id) WHERE journal_saved = 0;
