-- What new deployments of an environment have, by process, where they do not say
-- it themselves. The columns of environments (replicas, …) are not read any more
-- and go with a later release.
CREATE TABLE environment_scales (
    environment_id TEXT NOT NULL REFERENCES environments (id),
    process TEXT NOT NULL,
    replicas BIGINT NOT NULL,
    cpu_millicores BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    PRIMARY KEY (environment_id, process)
);

-- Values are sealed. A deployment keeps those of its submission: an object of
-- sealed values by name.
ALTER TABLE environment_variables ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deployments ADD COLUMN variables TEXT NOT NULL DEFAULT '{}';

-- The last attempt that may have started its release command.
ALTER TABLE deployments ADD COLUMN release_attempt BIGINT;
-- A change of its scale that is under way.
ALTER TABLE deployments ADD COLUMN scaling TEXT;

ALTER TABLE api_keys ADD COLUMN name TEXT NOT NULL DEFAULT '';
