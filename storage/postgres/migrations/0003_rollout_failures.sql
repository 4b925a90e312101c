-- min_compatible: 1

CREATE TABLE "rollout-failures" (key bytea PRIMARY KEY, value bytea NOT NULL);
