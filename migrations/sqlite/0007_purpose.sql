-- How far a deployment goes: `deploy`, or `build` for an image by itself.
ALTER TABLE deployments ADD COLUMN purpose TEXT NOT NULL DEFAULT 'deploy';
