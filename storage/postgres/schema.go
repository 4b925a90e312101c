package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The schema has a version, the number of the last migration. A later version of this
// program brings it up to date while servers of an earlier one run, so a migration
// leaves alone what those need; what they no longer need goes in a later one, which
// says by min_compatible which is the least version that can do without. A program
// opens a schema of a later version than its own only if it is not below that.

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration brings the schema to a version.
type migration struct {
	version    int
	compatible int // the least version that may still be used then
	name       string
	sql        string // of tables without a schema
}

var (
	migrationName  = regexp.MustCompile(`^([0-9]{4})_([a-z0-9_]+)\.sql$`)
	migrationLeast = regexp.MustCompile(`(?m)^-- min_compatible: ([0-9]+)$`)
)

// migrations reads the migrations that this program has, in their order.
func migrations() []migration {
	list, err := readMigrations(migrationFiles)
	if err != nil {
		panic(err) // they are part of the program, and a test reads them
	}
	return list
}

func readMigrations(files fs.FS) (list []migration, err error) {
	entries, err := fs.ReadDir(files, "migrations")
	if err != nil {
		return nil, err
	}
	for i, e := range entries {
		data, err := fs.ReadFile(files, "migrations/"+e.Name())
		if err != nil {
			return nil, err
		}
		name, least := migrationName.FindStringSubmatch(e.Name()), migrationLeast.FindSubmatch(data)
		if name == nil || least == nil {
			return nil, fmt.Errorf("the migration %s has no number or no min_compatible", e.Name())
		}
		m := migration{name: name[2], sql: string(data)}
		m.version, _ = strconv.Atoi(name[1]) // it is made of digits
		m.compatible, _ = strconv.Atoi(string(least[1]))
		if m.version != i+1 || m.compatible < 1 || m.compatible > m.version {
			return nil, fmt.Errorf("the migration %s is number %d, compatible with %d", e.Name(), i+1, m.compatible)
		}
		list = append(list, m)
	}
	return list, nil
}

// migrate brings the schema up to date, or finds that it is.
func (m *Meta) migrate(ctx context.Context, known []migration) error {
	for t := m.newTries(); ; {
		err := m.migrateOnce(ctx, known)
		if err == nil || meaning(err) != conflict && !starting(err) || !t.again(ctx, &m.counts.lost) {
			return err
		}
	}
}

// starting says that the server is there, and will soon be able to serve.
func starting(err error) bool {
	answer := new(pgconn.PgError)
	return errors.As(err, &answer) && meaningOf(answer.Code) == lost
}

func (m *Meta) migrateOnce(ctx context.Context, known []migration) error {
	conn, err := m.side.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	at, err := m.version(ctx, conn, known)
	if err != nil || at >= len(known) {
		return err
	}
	// The lock is the session's, so it outlives the transactions.
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtext($1), 1)", m.lockName()); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTime)
		defer cancel()
		if _, err := conn.Exec(ctx, "SELECT pg_advisory_unlock(hashtext($1), 1)", m.lockName()); err != nil {
			_ = conn.Conn().Close(ctx)
		}
	}()
	if err := m.createSchema(ctx, conn); err != nil {
		return err
	}
	if at, err = m.version(ctx, conn, known); err != nil {
		return err
	}
	for ; at < len(known); at++ {
		if err := m.apply(ctx, conn, known[at]); err != nil {
			return &migrationError{known[at], err}
		}
		m.log.InfoContext(ctx, "the schema of the metadata was brought up to date", "version", known[at].version)
	}
	return nil
}

// createSchema creates the schema and the table of its versions. It asks first, as one
// who may not create a schema may use one that is there.
func (m *Meta) createSchema(ctx context.Context, conn *pgxpool.Conn) error {
	var there bool
	err := conn.QueryRow(ctx, "SELECT to_regnamespace($1) IS NOT NULL", quoted(m.schema)).Scan(&there)
	if err == nil && !there {
		_, err = conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+quoted(m.schema))
	}
	if err == nil {
		_, err = conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS "+quoted(m.schema)+".versions"+
			" (version int PRIMARY KEY, min_compatible int NOT NULL, name text NOT NULL, applied timestamptz NOT NULL DEFAULT now())")
	}
	return err
}

// version is the version of the schema, 0 if there is none. It fails if it is one that
// this program must not use.
func (m *Meta) version(ctx context.Context, conn *pgxpool.Conn, known []migration) (at int, err error) {
	var there bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", quoted(m.schema)+".versions").Scan(&there); err != nil || !there {
		return 0, err
	}
	var least int
	err = conn.QueryRow(ctx, "SELECT coalesce(max(version), 0), coalesce(max(min_compatible), 0) FROM "+quoted(m.schema)+".versions").Scan(&at, &least)
	if err == nil && least > len(known) {
		err = &SchemaError{Version: at, Least: least, Known: len(known)}
	}
	return at, err
}

// SchemaError says that the schema is of a version that this program must not use.
type SchemaError struct {
	Version int // of the schema
	Least   int // that a program must know
	Known   int // that this program knows
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("the metadata in PostgreSQL has version %d, which programs that know version %d or later can use; this one knows %d: start a later version of berth", e.Version, e.Least, e.Known)
}

// migrationError says which migration failed.
type migrationError struct {
	of  migration
	err error
}

func (e *migrationError) Error() string {
	return fmt.Sprintf("migration %d (%s) of the metadata: %v", e.of.version, e.of.name, told(e.err))
}

func (e *migrationError) Unwrap() error { return e.err }

// migrationTime is how long a migration may take, and wait for locks.
const migrationTime = 10 * time.Minute

// apply applies a migration, and notes it in the same transaction.
func (m *Meta) apply(ctx context.Context, conn *pgxpool.Conn, to migration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, migrationTime, errSlow)
	defer cancel()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		settings := fmt.Sprintf("SET LOCAL search_path TO %s; SET LOCAL statement_timeout TO '%ds'", quoted(m.schema), int(migrationTime.Seconds()))
		for _, sql := range []string{settings, to.sql} {
			if _, err := tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "INSERT INTO versions (version, min_compatible, name) VALUES ($1, $2, $3)", pgx.QueryExecModeExec, to.version, to.compatible, to.name)
		return err
	})
}
