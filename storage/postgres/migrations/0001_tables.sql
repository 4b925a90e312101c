-- min_compatible: 1

-- Locked by updates: see "turns" in statements.go.
CREATE TABLE turns ();

-- What each connection has committed last: see commit.go.
CREATE TABLE sessions (id text PRIMARY KEY, n bigint NOT NULL, at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 50);

-- Counters: see counters.go.
CREATE TABLE counters (key bytea PRIMARY KEY, n bigint NOT NULL, hidden boolean NOT NULL DEFAULT false);
CREATE TABLE counter_deltas (
	id bigint GENERATED ALWAYS AS IDENTITY,
	key bytea NOT NULL,
	n bigint NOT NULL,
	PRIMARY KEY (key, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE SEQUENCE number_moves;
CREATE SEQUENCE number_events;
CREATE SEQUENCE number_epochs;
CREATE SEQUENCE number_reports;

-- A table for each of storage.Tables.
CREATE TABLE "settings" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "repos" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "blobs" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "links" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "holders" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "manifests" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "parents" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "referrers" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "tags" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "tagged" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "history" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "past" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "reviews" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "running" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "nodes" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "runs" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "changed" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "uploads" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "accounts" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "api-keys" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "refresh-tokens" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "signers" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "outbox" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "pulled-tags" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "pulled-digests" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "usage" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "tallies" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "shares" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "damages" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "scrub" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "stages" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "stage-parts" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "leases" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "holds" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "collecting" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "replicas" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "account-changes" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "guesses" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "mirrored" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "mirror-jobs" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "replications" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "replications-due" (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE "replicated" (key bytea PRIMARY KEY, value bytea NOT NULL);
