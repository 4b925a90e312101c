package main

import (
	"context"
	"fmt"
	"time"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres"
)

// scaledPages measures how long a page of tags takes in a repository of just so many, and
// anywhere in one of very many, with the metadata in PostgreSQL.
func (b *bench) scaledPages(ctx context.Context, s *server, dsn string) (*figure, error) {
	const few, many = "seed/few-tags", "seed/man-tags"
	for _, repo := range []string{few, many} {
		img, err := newImage(source(1<<14, len(repo)))
		if err != nil {
			return nil, err
		}
		if _, err := together(ctx, s.addr, 1, func(_ int, c *conn) error { return c.pushImage(s.addr, repo, seedTag(0), img) }); err != nil {
			return nil, err
		}
	}
	meta, err := postgres.Open(ctx, postgres.Options{DSN: dsn, Schema: "berth"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = meta.Close() }() // all is committed
	began := time.Now()
	for repo, n := range map[string]int{few: b.page, many: b.scaledTags} {
		if err := copyTags(ctx, meta, repo, n); err != nil {
			return nil, fmt.Errorf("fill %s: %w", repo, err)
		}
	}
	progress("  stored %s tags in %s\n", thousands(b.scaledTags), time.Since(began).Round(time.Second))
	return b.comparePages(ctx, "tags in PostgreSQL",
		list{s, "/v2/" + few + "/tags/list", b.page, seedTag},
		list{s, "/v2/" + many + "/tags/list", b.scaledTags, seedTag})
}

// copyTags has a repository's first tag be n of them: their rows in the list of tags,
// which a page is read from, without those of their history.
func copyTags(ctx context.Context, meta storage.Meta, repo string, n int) error {
	const batch = 20_000
	for from := 0; from < n; from += batch {
		err := meta.Update(ctx, func(tx storage.Tx) error {
			tag, err := storage.Tags.Get(tx, storage.Key(repo, seedTag(0)))
			if err != nil {
				return err
			}
			for i := from; i < min(from+batch, n); i++ {
				if err := storage.Tags.Put(tx, storage.Key(repo, seedTag(i)), tag); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
