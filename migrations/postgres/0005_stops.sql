-- How often the instances of a deployment have been stopped: a release that has
-- made them ready may move domains to them only while this is as it was.
ALTER TABLE deployments ADD COLUMN stops BIGINT NOT NULL DEFAULT 0;
