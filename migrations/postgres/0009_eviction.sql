-- Eviction: instances are stopped while nobody asks for anything.
-- When somebody last did; NULL: since it was made ready.
ALTER TABLE deployments ADD COLUMN active_at BIGINT;
-- Milliseconds without requests until it may be evicted; NULL: as the server is
-- configured, 0: never.
ALTER TABLE deployments ADD COLUMN idle_timeout_ms BIGINT;
-- evicting, evicted or starting, since when, and why the last start has failed.
ALTER TABLE deployments ADD COLUMN eviction TEXT;
ALTER TABLE deployments ADD COLUMN evicted_at BIGINT;
ALTER TABLE deployments ADD COLUMN start_failure TEXT;
-- What works without requests is not idle when there are none.
UPDATE deployments SET idle_timeout_ms = 0 WHERE run_options LIKE '%"processes":%';
