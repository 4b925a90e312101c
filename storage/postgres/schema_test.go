package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

// TestTables has the migrations make a table for each one of storage, and a sequence
// for each counter of numbers.
func TestTables(t *testing.T) {
	m := fresh(t)
	names := func(kind string) (list []string) {
		t.Helper()
		rows, err := m.side.Query(t.Context(), "SELECT relname FROM pg_class WHERE relnamespace = $1::text::regnamespace AND relkind::text = $2 ORDER BY 1", quoted(m.schema), kind)
		must(t, "Query", err)
		for rows.Next() {
			var name string
			must(t, "Scan", rows.Scan(&name))
			list = append(list, name)
		}
		must(t, "rows", rows.Err())
		return list
	}
	tables := names("r")
	for _, name := range storage.Tables() {
		if !slices.Contains(tables, name) {
			t.Errorf("no migration makes the table %s: add one to storage/postgres/migrations", name)
		}
	}
	sequences := names("S")
	for _, name := range storage.Numbers() {
		if !slices.Contains(sequences, "number_"+name) {
			t.Errorf("no migration makes the sequence number_%s", name)
		}
	}
}

// TestOpenAtOnce opens a schema that is not there by many at once.
func TestOpenAtOnce(t *testing.T) {
	o := Options{DSN: postgrestest.Shared(t), Schema: newSchema(), MaxConns: 2}
	var mu sync.Mutex
	var all []*Meta
	atOnce(t, 8, func(i int) error {
		m, err := Open(t.Context(), o)
		if err != nil {
			return err
		}
		mu.Lock()
		all = append(all, m)
		mu.Unlock()
		return putRow(m, fmt.Sprint(i), "v")
	})
	for _, m := range all {
		for i := range 8 {
			if got := getRow(t, m, fmt.Sprint(i)); got != "v" {
				t.Errorf("row %d is %q", i, got)
			}
		}
		must(t, "Close", m.Close())
	}
}

// TestUpgrade has servers of three versions: the second one adds what the first one can
// do without knowing, the third one removes what the first one needs.
func TestUpgrade(t *testing.T) {
	o := Options{DSN: postgrestest.Shared(t), Schema: newSchema()}
	first := migrations()
	n := len(first)
	second := append(slices.Clone(first), migration{version: n + 1, compatible: n, name: "more", sql: "CREATE TABLE more (key bytea PRIMARY KEY)"})
	third := append(slices.Clone(second), migration{version: n + 2, compatible: n + 1, name: "less", sql: "CREATE TABLE less (); INSERT INTO more VALUES ('once')"})
	start := func(known []migration) (*Meta, error) {
		m, err := open(t.Context(), o, known)
		if err == nil {
			t.Cleanup(func() { _ = m.Close() })
		}
		return m, err
	}
	old, err := start(first)
	must(t, "the first version", err)
	must(t, "Update", putRow(old, "a", "old"))
	current, err := start(second)
	must(t, "the second version", err)
	must(t, "Update of the new one", putRow(current, "b", "new"))
	must(t, "Update of the old one", putRow(old, "c", "old"))
	for _, m := range []*Meta{old, current} {
		if got := getRow(t, m, "a") + getRow(t, m, "b") + getRow(t, m, "c"); got != "oldnewold" {
			t.Errorf("rows are %q", got)
		}
	}
	again, err := start(first)
	must(t, "another one of the first version, beside the second", err)
	must(t, "Update", putRow(again, "d", "old"))

	if _, err := start(third); err != nil {
		t.Fatalf("the third version: %v", err)
	}
	refused := new(SchemaError)
	if _, err := start(first); !errors.As(err, &refused) || refused.Known != n || refused.Least != n+1 || !strings.Contains(err.Error(), "later version of berth") {
		t.Errorf("the first version beside the third: %v", err)
	}
	_, err = start(second)
	must(t, "the second version beside the third", err)

	// A migration that fails leaves nothing, and is done when it can be.
	broken := append(slices.Clone(third), migration{version: n + 3, compatible: n + 1, name: "broken", sql: "CREATE TABLE half (); SELECT 1/0"})
	if _, err := start(broken); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("a migration that fails: %v", err)
	}
	_, err = start(third)
	must(t, "the third version", err)
	broken[n+2].sql = "CREATE TABLE half ()"
	_, err = start(broken)
	must(t, "the migration that did not fail", err)
}

// TestNoRights opens a schema as a user who may read and write there, and not more.
func TestNoRights(t *testing.T) {
	m := fresh(t)
	must(t, "Update", putRow(m, "a", "v"))
	admin := connect(t, postgrestest.Shared(t))
	in := quoted(m.schema)
	for _, sql := range []string{
		"CREATE ROLE " + in + " LOGIN",
		"GRANT USAGE ON SCHEMA " + in + " TO " + in,
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA " + in + " TO " + in,
		"GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA " + in + " TO " + in,
	} {
		_, err := admin.Exec(t.Context(), sql)
		must(t, sql, err)
	}
	guest := openMeta(t, Options{DSN: postgrestest.Shared(t) + " user=" + m.schema, Schema: m.schema})
	must(t, "Update", guest.Update(t.Context(), func(tx storage.Tx) error {
		_, err := storage.Next(tx, storage.CountMoves)
		return errors.Join(err, storage.Add(tx, storage.CountBytes, 1), tx.Put(table, []byte("b"), []byte("w")))
	}))
	if got := getRow(t, m, "b"); got != "w" {
		t.Errorf("the row is %q", got)
	}
	must(t, "fold", guest.fold(t.Context()))
	if _, err := Open(t.Context(), Options{DSN: postgrestest.Shared(t) + " user=" + m.schema, Schema: newSchema()}); err == nil || !strings.Contains(err.Error(), "own the schema") {
		t.Errorf("Open of a schema that cannot be created: %v", err)
	}
}

// TestReadMigrations reads migrations that are no good.
func TestReadMigrations(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for name, files := range map[string]fstest.MapFS{
		"none":         {},
		"no number":    {"migrations/first.sql": file("-- min_compatible: 1\n")},
		"a gap":        {"migrations/0002_x.sql": file("-- min_compatible: 1\n")},
		"no least":     {"migrations/0001_x.sql": file("CREATE TABLE x ();")},
		"least is 0":   {"migrations/0001_x.sql": file("-- min_compatible: 0\n")},
		"least is new": {"migrations/0001_x.sql": file("-- min_compatible: 2\n")},
	} {
		if list, err := readMigrations(files); err == nil {
			t.Errorf("%s: %+v", name, list)
		}
	}
	list, err := readMigrations(migrationFiles)
	if err != nil || len(list) == 0 {
		t.Errorf("%d migrations, %v", len(list), err)
	}
}
