package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"path/filepath"

	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/storage/postgres"
)

// logPlaces says where a server has its data, and which other registries it knows;
// nothing of how it signs in there.
func logPlaces(ctx context.Context, c config.Config, log *slog.Logger) {
	log.InfoContext(ctx, "stores", "blobs", blobsPlace(c.Storage), "metadata", metaPlace(c.Storage))
	for _, m := range c.Mirrors {
		log.InfoContext(ctx, "mirror", "name", m.Name, "upstream", m.Upstream, "prefix", m.PathPrefix(), "login", loginKind(m.Login))
	}
	for _, r := range c.Replication {
		log.InfoContext(ctx, "replication", "name", r.Name, "url", r.URL, "login", loginKind(r.Login))
	}
}

// checkPlaces says what is wrong with places that a server would not start with, as far as
// that can be told without the files that are named, and without asking anybody.
func checkPlaces(c config.Config) error {
	o := &others{mirrors: c.Mirrors}
	_, errSync := o.jobs(c)
	_, errRules := replicationRules(c)
	if errRules != nil {
		errRules = fmt.Errorf("replication: %w", errRules)
	}
	var errDSN error
	if p := c.Storage.Postgres; p.DSN != "" {
		if _, err := (postgres.Options{DSN: p.DSN, Schema: p.Schema}).Place(); err != nil {
			errDSN = fmt.Errorf("storage.postgres.dsn: %w", err)
		}
	}
	return errors.Join(errSync, errRules, errDSN)
}

// blobsPlace is where blobs are.
func blobsPlace(c config.Storage) string {
	if !c.S3.On() {
		return filepath.Join(c.Data, "blobs")
	}
	return "S3 at " + cmp.Or(c.S3.Endpoint, "Amazon") + ", bucket " + path.Join(c.S3.Bucket, c.S3.Prefix)
}

// metaPlace is where metadata are.
func metaPlace(c config.Storage) string {
	if !c.Postgres.On() {
		return filepath.Join(c.Data, metaFile)
	}
	dsn, err := secret(c.Postgres.DSN, c.Postgres.DSNFile)
	if err != nil {
		return "PostgreSQL" // it was read when it was opened, and is gone now
	}
	place, err := postgres.Options{DSN: dsn, Schema: c.Postgres.Schema}.Place()
	if err != nil {
		return "PostgreSQL"
	}
	return place
}

// loginKind is how one signs in at another registry.
func loginKind(l config.Login) string {
	switch {
	case l.Username != "":
		return "password"
	case l.Token != "" || l.TokenFile != "":
		return "token"
	case l.CredentialHelper != "":
		return "docker-credential-" + l.CredentialHelper
	}
	return l.Provider
}
