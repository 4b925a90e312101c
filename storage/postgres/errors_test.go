package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

const secret = "hush-hush"

// TestOpenErrors opens what cannot be opened: the error says why, and never tells a
// password.
func TestOpenErrors(t *testing.T) {
	dsn := postgrestest.Shared(t)
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"none":              {Options{}, "cannot be read"},
		"nonsense":          {Options{DSN: "postgres://u:" + secret + "@host:port/x"}, "cannot be read"},
		"half a text":       {Options{DSN: "host=x password='" + secret}, "cannot be read"},
		"no certificate":    {Options{DSN: "host=x sslmode=verify-full sslrootcert=/nowhere password=" + secret}, "cannot be read"},
		"nobody listens":    {Options{DSN: "postgres://u:" + secret + "@127.0.0.1:1/x?sslmode=disable"}, "check that it runs"},
		"no socket":         {Options{DSN: "host=/nowhere user=u password=" + secret}, "check that it runs"},
		"no such database":  {Options{DSN: dsn + " dbname=nowhere password=" + secret}, "create it first"},
		"no such user":      {Options{DSN: dsn + " user=nobody password=" + secret}, "refuses the user"},
		"schema":            {Options{DSN: dsn, Schema: `x"; DROP`}, "the schema"},
		"connections":       {Options{DSN: dsn, MaxConns: -1}, "connections"},
		"negative patience": {Options{DSN: dsn, Patience: -1}, "patience"},
	} {
		m, err := Open(t.Context(), c.o)
		if err == nil {
			_ = m.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "password=") {
			t.Errorf("%s: error %v, want one of %q", name, err, c.want)
		}
	}
}

// TestSchemaOfDSN has the DSN say which schema it is.
func TestSchemaOfDSN(t *testing.T) {
	for add, want := range map[string]string{
		"":                                  "berth",
		" search_path=mine":                 "mine",
		` search_path='"mine", public'`:     "mine",
		" options='-c search_path=ignored'": "berth",
	} {
		_, schema, err := Options{DSN: "host=x" + add}.config()
		if err != nil || schema != want {
			t.Errorf("%q: %q, %v; want %q", add, schema, err, want)
		}
	}
}

// TestTold maps what servers say.
func TestTold(t *testing.T) {
	for code, want := range map[string]error{
		"53100": storage.ErrNoSpace, "25006": storage.ErrReadOnly, "XX001": storage.ErrUnreadable, "58030": storage.ErrUnreadable,
	} {
		if err := told(fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code})); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", code, err, want)
		}
	}
	for code, want := range map[string]failure{
		"40001": conflict, "40P01": conflict, "55P03": conflict,
		"57P01": lost, "57P02": lost, "57P03": lost, "08006": lost, "53300": lost, "25P03": lost,
		"53100": final, "25006": final, "23505": final, "57014": final, "42P01": final,
	} {
		if got := meaning(&pgconn.PgError{Code: code}); got != want {
			t.Errorf("%s means %d, want %d", code, got, want)
		}
	}
	if told(nil) != nil {
		t.Error("no error is told as one")
	}
}

// TestReadOnly has the database refuse writes, and then the whole server, as one does
// that follows another one: views go on, updates fail with ErrReadOnly, and succeed
// when it may be written to again.
func TestReadOnly(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{})
	m, admin := openMeta(t, Options{DSN: server.DSN()}), connect(t, server.DSN())
	check := func(why string) {
		t.Helper()
		for range 2 {
			if err := putRow(m, "a", "2"); !errors.Is(err, storage.ErrReadOnly) {
				t.Errorf("%s: Update: %v, want ErrReadOnly", why, err)
			}
			if got := getRow(t, m, "a"); got != "1" {
				t.Errorf("%s: the row is %q", why, got)
			}
		}
	}
	must(t, "Update", putRow(m, "a", "1"))
	_, err := admin.Exec(t.Context(), "ALTER DATABASE postgres SET default_transaction_read_only = on")
	must(t, "ALTER", err)
	m.pool.Reset()
	check("a database that is read-only")
	_, err = admin.Exec(t.Context(), "ALTER DATABASE postgres RESET default_transaction_read_only")
	must(t, "ALTER", err)
	must(t, "Update", putRow(m, "a", "1"))

	server.Stop()
	follow := filepath.Join(server.Data(), "standby.signal")
	must(t, "follow", os.WriteFile(follow, nil, 0o644))
	server.Start()
	check("a server that follows")
	server.Stop()
	must(t, "lead", os.Remove(follow))
	server.Start()
	must(t, "Update", putRow(m, "a", "2"))
	if got := getRow(t, m, "a"); got != "2" {
		t.Errorf("the row is %q", got)
	}
}

// TestNoHang has transactions wait for what does not come: a connection, a lock, an
// answer. Contexts are obeyed, and there is an end without them.
func TestNoHang(t *testing.T) {
	dsn, schema := postgrestest.Shared(t), newSchema()
	m := openMeta(t, Options{DSN: dsn, Schema: schema, MaxConns: 1, Patience: 200 * time.Millisecond})
	must(t, "Update", putRow(m, "a", "v"))

	// The one connection is taken.
	must(t, "View", m.View(t.Context(), func(storage.Tx) error {
		if err := putRow(m, "b", "v"); err == nil || !strings.Contains(err.Error(), "max_conns") {
			t.Errorf("Update without a connection: %v", err)
		}
		return nil
	}))

	// Somebody has locked the table.
	admin := connect(t, dsn)
	lock, err := admin.Begin(t.Context())
	must(t, "Begin", err)
	_, err = lock.Exec(t.Context(), "LOCK TABLE "+quoted(schema)+"."+quoted(table)+" IN ACCESS EXCLUSIVE MODE")
	must(t, "LOCK", err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err = m.View(ctx, func(tx storage.Tx) error { _, err := tx.Get(table, []byte("a")); return err })
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("View that waits for a lock: %v after %v", err, time.Since(begin))
	}
	must(t, "Rollback", lock.Rollback(t.Context()))
	if got := getRow(t, m, "a"); got != "v" {
		t.Errorf("the row is %q", got)
	}

	// A statement takes too long.
	slow := openMeta(t, Options{DSN: dsn + " statement_timeout=100 lock_timeout=50", Schema: schema, Patience: 200 * time.Millisecond})
	err = slow.View(t.Context(), func(tx storage.Tx) error {
		s := tx.(*txn)
		return s.query(func(pgx.Rows) error { return nil }, "SELECT pg_sleep(60)")
	})
	if err == nil || !strings.Contains(err.Error(), "57014") {
		t.Errorf("View with a slow statement: %v", err)
	}

	// The client's own time for fn is not limited, but it may be stopped.
	ctx, stop := context.WithCancel(t.Context())
	err = m.Update(ctx, func(tx storage.Tx) error {
		if err := tx.Put(table, []byte("c"), nil); err != nil {
			return err
		}
		stop()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Update that was canceled: %v", err)
	}
	if got := getRow(t, m, "c"); got != "-" {
		t.Errorf("the row is %q", got)
	}
}
