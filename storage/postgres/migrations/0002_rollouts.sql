-- min_compatible: 1

CREATE TABLE "rollouts" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "followers" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "follower-logs" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "followed" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "returns" (key bytea PRIMARY KEY, value bytea NOT NULL);
