-- Changes of scale that are under way: few, and looked for again and again.
CREATE INDEX deployments_being_scaled ON deployments (id) WHERE scaling IS NOT NULL;
