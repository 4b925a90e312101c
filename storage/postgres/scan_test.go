package postgres

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/storage"
)

// TestSuccessor checks the end of a prefix against what starts with it.
func TestSuccessor(t *testing.T) {
	for prefix, want := range map[string]string{"": "", "a": "b", "a\xff": "b", "\xff": "", "\xff\xff": "", "a\x00": "a\x01", "\xfe\xff": "\xff"} {
		if got := successor([]byte(prefix)); string(got) != want || (got == nil) != (want == "") {
			t.Errorf("successor of %q is %q, want %q", prefix, got, want)
		}
	}
}

func FuzzSuccessor(f *testing.F) {
	f.Add([]byte("a\xff"), []byte("a\xff\x00"))
	f.Add([]byte{}, []byte("x"))
	f.Add([]byte("\xff\xff"), []byte("\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, prefix, key []byte) {
		end := successor(prefix)
		within := bytes.Compare(key, prefix) >= 0 && (end == nil || bytes.Compare(key, end) < 0)
		if within != bytes.HasPrefix(key, prefix) {
			t.Errorf("%q with the prefix %q: in its range %v (up to %q)", key, prefix, within, end)
		}
	})
}

// TestIndex has a page of any list come from an index: of a table with 100,000 rows, and
// of one with few, whose whole would otherwise be read, and so be in everybody's way.
func TestIndex(t *testing.T) {
	m := fresh(t)
	const rows = 100_000
	_, err := m.side.Exec(t.Context(), "INSERT INTO "+quoted(m.schema)+"."+quoted(table)+
		" SELECT convert_to('repo/' || lpad(n::text, 6, '0'), 'UTF8'), 'value' FROM generate_series(0, $1::int - 1) n", rows)
	must(t, "fill", err)
	must(t, "put", putRow(m, "z", "v"))
	_, err = m.side.Exec(t.Context(), "ANALYZE "+quoted(m.schema)+"."+quoted(table))
	must(t, "ANALYZE", err)
	for _, name := range []string{table, other} {
		sql := m.sql.table[name]
		key, end := []byte("repo/050000"), []byte("repo0")
		explain(t, m, sql.get, key)
		for start := range 2 {
			explain(t, m, sql.scan[start][endless], key, 16)
			explain(t, m, sql.scan[start][ends], key, 16, end)
			explain(t, m, sql.take[start][ends], key, 16, end)
		}
		explain(t, m, sql.delete, [][]byte{key})
	}
	explain(t, m, m.sql.counter.clear, []byte("blobs"))

	// All of them are read, in their order, with other reads between.
	must(t, "View", m.View(t.Context(), func(tx storage.Tx) error {
		n := 0
		for row, err := range tx.Scan(table, []byte("repo/"), nil) {
			if err != nil {
				return err
			}
			if want := fmt.Sprintf("repo/%06d", n); string(row.Key) != want {
				return fmt.Errorf("row %d is %q", n, row.Key)
			}
			if n++; n%20_000 == 0 {
				if _, err := tx.Get(table, []byte("z")); err != nil {
					return err
				}
			}
		}
		if n != rows {
			t.Errorf("%d rows, want %d", n, rows)
		}
		return nil
	}))
	// A page costs what a page costs, wherever it is.
	page := func(after string) time.Duration {
		best := time.Hour
		for range 5 {
			begin := time.Now()
			must(t, "View", m.View(t.Context(), func(tx storage.Tx) error {
				n := 0
				for _, err := range tx.Scan(table, []byte("repo/"), []byte(after)) {
					if n++; err != nil || n == 100 {
						return err
					}
				}
				return nil
			}))
			best = min(best, time.Since(begin))
		}
		return best
	}
	first, last := page(""), page("repo/099000")
	t.Logf("the first page takes %v, one of the last %v", first, last)
	if last > 10*first+20*time.Millisecond {
		t.Errorf("the first page takes %v, one of the last %v", first, last)
	}
}

// explain has the server say how it would answer, with a plan for any arguments.
func explain(t *testing.T, m *Meta, sql string, args ...any) {
	t.Helper()
	conn, err := m.side.Acquire(t.Context())
	must(t, "Acquire", err)
	defer conn.Release()
	for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
		_, err = conn.Exec(t.Context(), "SELECT set_config('plan_cache_mode', $1, false)", mode)
		must(t, "SET", err)
		rows, err := conn.Query(t.Context(), "EXPLAIN "+sql, args...)
		must(t, "EXPLAIN", err)
		var plan []string
		for rows.Next() {
			var line string
			must(t, "Scan", rows.Scan(&line))
			plan = append(plan, line)
		}
		must(t, "EXPLAIN", rows.Err())
		text := strings.Join(plan, "\n")
		if !strings.Contains(text, "Index Scan") && !strings.Contains(text, "Index Only Scan") || strings.Contains(text, "Seq Scan") || strings.Contains(text, "Sort") || strings.Contains(text, "Bitmap") {
			t.Errorf("%s\n%s", sql, text)
		}
	}
	_, err = conn.Exec(t.Context(), "RESET plan_cache_mode")
	must(t, "RESET", err)
}

// TestScanLarge scans rows that would be a lot at once.
func TestScanLarge(t *testing.T) {
	m := fresh(t)
	value := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	const rows = 40
	for i := range rows {
		must(t, "Update", m.Update(t.Context(), func(tx storage.Tx) error {
			return tx.Put(table, fmt.Appendf(nil, "%02d", i), value[:len(value)-i])
		}))
	}
	must(t, "View", m.View(t.Context(), func(tx storage.Tx) error {
		n := 0
		for row, err := range tx.Scan(table, nil, nil) {
			if err != nil {
				return err
			}
			if len(row.Value) != len(value)-n {
				return fmt.Errorf("row %d has %d bytes", n, len(row.Value))
			}
			n++
		}
		if n != rows {
			t.Errorf("%d rows", n)
		}
		return nil
	}))
}

// TestScanOfWrites compares an update's scan, of what is there and what it has written,
// with one of the same rows afterwards, where there are many of both.
func TestScanOfWrites(t *testing.T) {
	m := fresh(t)
	r := rand.New(rand.NewPCG(1, 2))
	var during, after []string
	list := func(tx storage.Tx) (keys []string) {
		for row, err := range tx.Scan(table, []byte("k"), nil) {
			must(t, "Scan", err)
			keys = append(keys, string(row.Key)+string(row.Value))
		}
		return keys
	}
	for range 4 {
		must(t, "Update", m.Update(context.Background(), func(tx storage.Tx) error {
			for range 3000 {
				key := fmt.Appendf(nil, "k%04d", r.IntN(5000))
				var err error
				if r.IntN(3) == 0 {
					err = tx.Delete(table, key)
				} else {
					err = tx.Put(table, key, fmt.Appendf(nil, "=%d", r.Int()))
				}
				if err != nil {
					return err
				}
			}
			during = list(tx)
			return nil
		}))
		must(t, "View", m.View(t.Context(), func(tx storage.Tx) error { after = list(tx); return nil }))
		if strings.Join(during, " ") != strings.Join(after, " ") || len(after) < 1000 {
			t.Errorf("%d rows in the update, %d afterwards, or others", len(during), len(after))
		}
	}
}
