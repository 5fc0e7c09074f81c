-- Contexts that are being removed, or were until a day ago: nothing is built from
-- them any more.
CREATE TABLE removed_contexts (
    object_key TEXT PRIMARY KEY,
    removed_at BIGINT NOT NULL
);

-- When the image was given up, and whether it is gone since.
ALTER TABLE deployments ADD COLUMN image_given_up_at BIGINT;
ALTER TABLE deployments ADD COLUMN image_gone BIGINT NOT NULL DEFAULT 0;
