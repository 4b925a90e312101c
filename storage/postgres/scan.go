package postgres

import (
	"bytes"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/berth-registry/berth/storage"
)

const (
	firstPage = 16
	lastPage  = 1024
	pageBytes = 4 << 20 // a page is smaller where the rows of the last one were large
)

// Scan implements storage.Tx. It reads page by page, so that the server has nothing
// open meanwhile.
func (s *session) Scan(table string, prefix, after []byte) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		if table == storage.Counters.Name() {
			s.scanCounters(prefix, after, yield)
			return
		}
		last, start, end, n := prefix, from, successor(prefix), firstPage
		if bytes.Compare(after, prefix) >= 0 && len(after) > 0 {
			last, start = after, behind
		}
		for {
			if s.taking > 0 {
				n = s.taking
			}
			rows, size, err := s.page(table, last, start, end, n)
			if err != nil {
				yield(storage.Row{}, err)
				return
			}
			for _, row := range rows {
				if !yield(row, nil) {
					return
				}
			}
			if len(rows) < n {
				return
			}
			last, start = rows[n-1].Key, behind
			n = min(lastPage, 2*n, max(1, n*pageBytes/(size+1)))
		}
	}
}

// page reads up to n rows, and says how many bytes they have.
func (s *session) page(table string, last []byte, start int, end []byte, n int) (list []storage.Row, size int, err error) {
	t, err := s.table(table)
	if err != nil {
		return nil, 0, err
	}
	pages, bound, args := &t.scan, endless, []any{notNil(last), n}
	if s.taking > 0 {
		pages = &t.take
	}
	if end != nil {
		bound, args = ends, append(args, end)
	}
	err = s.query(func(rows pgx.Rows) error {
		list, size = nil, 0
		for rows.Next() {
			raw := rows.RawValues()
			row := storage.Row{Key: bytes.Clone(raw[0]), Value: bytes.Clone(raw[1])}
			list, size = append(list, row), size+len(row.Key)+len(row.Value)
		}
		return nil
	}, pages[start][bound], args...)
	return list, size, err
}
