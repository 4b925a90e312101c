package postgres

import "github.com/berth-registry/berth/storage"

// statements are the texts of what is sent to the server.
type statements struct {
	beginUpdate, beginView string
	join, alone            string // LOCK
	note, found, forget    string // of sessions
	table                  map[string]*tableSQL
	counter                counterSQL
}

// tableSQL are the statements of a table.
type tableSQL struct {
	get, put, delete string
	// scan and take are pages: from a key on or behind it, with an end or without.
	scan, take [2][2]string
}

const (
	from   = iota // the key itself comes too
	behind        // only what is greater
)

const (
	endless = iota // up to the last row
	ends           // up to a key, which does not come
)

func newStatements(schema string) statements {
	in := quoted(schema) + "."
	s := statements{
		beginUpdate: "BEGIN ISOLATION LEVEL SERIALIZABLE",
		beginView:   "BEGIN READ ONLY, ISOLATION LEVEL REPEATABLE READ",
		// A lock of the table turns is taken before the transaction's snapshot, as
		// LOCK takes none: who has waited for it sees what the others did.
		join:  "LOCK TABLE " + in + "turns IN ROW SHARE MODE",
		alone: "LOCK TABLE " + in + "turns IN EXCLUSIVE MODE",
		// It fails for a session that was given up.
		note: "INSERT INTO " + in + "sessions AS s (id, n) VALUES ($1, $2)" +
			" ON CONFLICT (id) DO UPDATE SET n = excluded.n / (s.n >= 0)::int, at = now()",
		found: "INSERT INTO " + in + "sessions AS s (id, n) VALUES ($1, -1)" +
			" ON CONFLICT (id) DO UPDATE SET n = CASE s.n WHEN $2 THEN s.n ELSE -1 END RETURNING n",
		forget:  "DELETE FROM " + in + "sessions WHERE at < now() - interval '1 day'",
		table:   map[string]*tableSQL{},
		counter: newCounterSQL(in),
	}
	for _, name := range storage.Tables() {
		if name != storage.Counters.Name() {
			s.table[name] = newTableSQL(in + quoted(name))
		}
	}
	return s
}

func newTableSQL(table string) *tableSQL {
	t := &tableSQL{
		get: "SELECT value FROM " + table + " WHERE key = $1",
		put: "INSERT INTO " + table + " (key, value) SELECT * FROM unnest($1::bytea[], $2::bytea[])" +
			" ON CONFLICT (key) DO UPDATE SET value = excluded.value",
		delete: "DELETE FROM " + table + " WHERE key = ANY($1::bytea[])",
	}
	for start, compare := range [2]string{from: ">=", behind: ">"} {
		for end, limit := range [2]string{endless: "", ends: " AND key < $3"} {
			page := "SELECT key, value FROM " + table + " WHERE key " + compare + " $1" + limit + " ORDER BY key LIMIT $2"
			t.scan[start][end] = page
			t.take[start][end] = page + " FOR UPDATE SKIP LOCKED"
		}
	}
	return t
}

// successor is the first key behind all those that start with prefix; nil if there
// is none.
func successor(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			next := append([]byte(nil), prefix[:i+1]...)
			next[i]++
			return next
		}
	}
	return nil
}
