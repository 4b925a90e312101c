package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/migrating"
	"github.com/berth-registry/berth/registry"
)

const (
	// maxMigrateJobs is how many blobs are copied at a time at most.
	maxMigrateJobs = 64
	// drainTime is how long requests that write may take to end before the switch.
	drainTime = 10 * time.Second
)

// migrator moves the registry of a server that runs, once at a time.
type migrator struct {
	storage config.Storage
	data    *stores // not behind the gate
	gate    *migrating.Gate
	local   *registry.Local
	log     *slog.Logger
	busy    sync.Mutex
	moved   atomic.Bool // it is served no more
}

// Migrate implements admin.Migrator.
func (m *migrator) Migrate(ctx context.Context, r admin.MigrateRequest, tell func(admin.MigrateStep)) error {
	if m.storage.Postgres.On() {
		return errors.New("other servers may share the metadata in PostgreSQL: stop them all, this one too, and do it again")
	}
	if !m.busy.TryLock() {
		return errors.New("the server is being moved already")
	}
	defer m.busy.Unlock()
	from := migrateSource{storage: m.storage, data: m.data, hold: m.hold, left: func() { m.moved.Store(true) }, log: m.log}
	return from.migrate(ctx, r, tell)
}

// hold keeps everybody from writing until release is called.
func (m *migrator) hold(ctx context.Context) (release func(), err error) {
	collect, err := m.local.HoldCollection(ctx)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	m.gate.Shut(ctx, drainTime, "the registry is being moved; try again in a little while")
	m.log.InfoContext(ctx, "writes are refused: the registry is being moved")
	return func() {
		collect()
		if m.moved.Load() {
			m.gate.Shut(ctx, 0, "the registry was moved to another server")
			m.log.WarnContext(ctx, "the registry was moved: this server refuses writes until it is stopped")
			return
		}
		m.gate.Open()
		m.log.InfoContext(ctx, "writes are taken again", "refused_for", time.Since(begin).String())
	}, nil
}

// migrateSource is a registry that is moved.
type migrateSource struct {
	storage config.Storage
	data    *stores
	hold    func(context.Context) (release func(), err error) // nil if nobody writes
	left    func()                                            // called when it is marked as moved; or nil
	log     *slog.Logger
}

// migrate moves the registry, or says what would be done.
func (s *migrateSource) migrate(ctx context.Context, r admin.MigrateRequest, tell func(admin.MigrateStep)) error {
	if r.Jobs < 0 || r.Jobs > maxMigrateJobs || r.Rate < 0 {
		return fmt.Errorf("want up to %d jobs, and a rate of 0 or more", maxMigrateJobs)
	}
	if kind := storesKind(s.storage); kind != r.Kind {
		return fmt.Errorf("this registry has its data in %s, not in %s as the source that was named", kind, r.Kind)
	}
	o := migrating.Options{
		From: r.From, To: r.To, Jobs: r.Jobs, Rate: r.Rate, Verify: r.Verify, Damaged: r.Damaged, Keep: r.Keep, Hold: s.hold,
		Moved: func(ctx context.Context, m migrating.Moved) error {
			err := markMoved(ctx, s.storage, s.data.meta, m)
			if err == nil && s.left != nil {
				s.left()
			}
			return err
		},
		Left:     func(ctx context.Context) (bool, error) { return isMoved(ctx, s.storage, s.data.meta) },
		Progress: func(p migrating.Progress) { tell(migrateStep(p)) },
	}
	from := migrating.Store{Blobs: s.data.blobs, Notes: s.data.notes, Meta: s.data.meta}
	run := func(to *migrateTarget) (migrating.Result, error) {
		return migrating.Run(ctx, from, migrating.Store{Blobs: to.blobs, Notes: to.notes, Meta: to.meta}, o)
	}
	if r.DryRun {
		run = func(to *migrateTarget) (migrating.Result, error) {
			return migrating.Plan(ctx, from, to.blobs, to.meta, o)
		}
	}
	to, err := s.open(ctx, r)
	if err != nil {
		return fmt.Errorf("the target: %w", err)
	}
	res, err := run(to)
	err = errors.Join(err, to.close())
	done := migrateDone(res)
	tell(admin.MigrateStep{Done: &done})
	return err
}

func migrateStep(p migrating.Progress) admin.MigrateStep {
	step := admin.MigrateStep{Phase: string(p.Phase), Blobs: p.Blobs, TotalBlobs: p.TotalBlobs, Bytes: p.Bytes, TotalBytes: p.TotalBytes}
	if p.Problem != nil {
		step.Problem = &admin.MigrateProblem{Digest: string(p.Problem.Digest), Reason: p.Problem.Reason}
	}
	return step
}

func migrateDone(res migrating.Result) admin.MigrateDone {
	done := admin.MigrateDone{
		Blobs: res.Blobs, Bytes: res.Bytes, CopiedBlobs: res.CopiedBlobs, CopiedBytes: res.CopiedBytes, PresentBlobs: res.PresentBlobs,
		Uploads: res.Sessions, DroppedUploads: res.DroppedSessions, ReadOnlySeconds: res.ReadOnly.Seconds(), Already: res.Already,
		Tables: []admin.MigrateTable{}, Problems: []admin.MigrateProblem{},
	}
	for _, t := range res.Tables {
		done.Rows += t.Rows
		if t.Rows > 0 {
			done.Tables = append(done.Tables, admin.MigrateTable{Name: t.Name, Rows: t.Rows, Sum: t.Sum})
		}
	}
	for _, p := range res.Problems {
		if len(done.Problems) == maxMigrateProblems {
			break
		}
		done.Problems = append(done.Problems, admin.MigrateProblem{Digest: string(p.Digest), Reason: p.Reason})
	}
	return done
}

// maxMigrateProblems is how many problems the end of a migration lists.
const maxMigrateProblems = 1000
