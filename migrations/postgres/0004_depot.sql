-- The project of Depot's that a project builds in, and since when somebody is
-- creating it.
ALTER TABLE projects ADD COLUMN depot_project_id TEXT;
ALTER TABLE projects ADD COLUMN depot_claimed_at BIGINT NOT NULL DEFAULT 0;

-- Builds that Depot has not been told the end of. The token is of this one
-- build; the row goes with it. `outcome` is null while it goes on.
CREATE TABLE depot_builds (
    id TEXT PRIMARY KEY,
    build_id TEXT NOT NULL,
    token TEXT NOT NULL,
    outcome TEXT,
    created_at BIGINT NOT NULL
);

CREATE INDEX depot_builds_by_build ON depot_builds (build_id);
