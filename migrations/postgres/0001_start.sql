-- Times are milliseconds since the epoch; truth values are 0 and 1; lists and
-- objects are JSON texts. The same schema stands in migrations/sqlite.
CREATE TABLE workspaces (
    id TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL
);

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    slug TEXT NOT NULL,
    default_branch TEXT NOT NULL DEFAULT 'main',
    created_at BIGINT NOT NULL,
    UNIQUE (workspace_id, slug)
);

CREATE TABLE environments (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id),
    slug TEXT NOT NULL,
    replicas BIGINT NOT NULL DEFAULT 1,
    cpu_millicores BIGINT NOT NULL DEFAULT 0,
    memory_mib BIGINT NOT NULL DEFAULT 0,
    next_sequence BIGINT NOT NULL DEFAULT 1,
    live_deployment_id TEXT,
    live_sequence BIGINT NOT NULL DEFAULT 0,
    pinned_deployment_id TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (project_id, slug)
);

CREATE TABLE environment_variables (
    environment_id TEXT NOT NULL REFERENCES environments (id),
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (environment_id, name)
);

CREATE TABLE deployments (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    project_id TEXT NOT NULL REFERENCES projects (id),
    environment_id TEXT NOT NULL REFERENCES environments (id),
    sequence BIGINT NOT NULL,
    build_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    branch TEXT NOT NULL,
    source TEXT NOT NULL,
    git_commit TEXT,
    build_options TEXT NOT NULL,
    run_options TEXT NOT NULL,
    status TEXT NOT NULL,
    attempt BIGINT NOT NULL DEFAULT 1,
    invocation_id TEXT,
    unwinding BIGINT NOT NULL DEFAULT 0,
    cancel_requested_at BIGINT,
    image_reference TEXT,
    image_digest TEXT,
    image_local_only BIGINT,
    routed TEXT,
    failure TEXT,
    rolled_back TEXT,
    openapi TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (workspace_id, idempotency_key)
);

CREATE INDEX deployments_by_environment ON deployments (environment_id, sequence);
CREATE INDEX deployments_by_project ON deployments (project_id, created_at);
CREATE INDEX deployments_by_status ON deployments (status);

CREATE TABLE deployment_warnings (
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    warning TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (deployment_id, warning)
);

CREATE TABLE deployment_steps (
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    attempt BIGINT NOT NULL,
    step TEXT NOT NULL,
    position BIGINT NOT NULL,
    status TEXT NOT NULL,
    tries BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    message TEXT NOT NULL DEFAULT '',
    error_code TEXT,
    error_message TEXT,
    PRIMARY KEY (deployment_id, attempt, step)
);

CREATE TABLE build_logs (
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    line BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    vertex TEXT NOT NULL,
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    duration_ms BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (deployment_id, line)
);

CREATE TABLE domains (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    environment_id TEXT NOT NULL REFERENCES environments (id),
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    sequence BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (kind, owner)
);

CREATE INDEX domains_by_deployment ON domains (deployment_id);

CREATE TABLE readiness_waits (
    awakeable_id TEXT PRIMARY KEY,
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    namespace TEXT NOT NULL,
    replicas BIGINT NOT NULL,
    deadline BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    role TEXT NOT NULL,
    secret_sha256 TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE audit_log (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    workspace_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL
);
