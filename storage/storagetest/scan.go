package storagetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/storage"
)

// scanCase is a scan and the keys that it must yield.
type scanCase struct {
	prefix, after string
	want          []string
}

func checkScans(t *testing.T, m storage.Meta, cases []scanCase) {
	t.Helper()
	view(t, m, func(tx storage.Tx) error {
		for _, c := range cases {
			got, err := scan(tx, []byte(c.prefix), []byte(c.after))
			if err != nil {
				return err
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("Scan(%q, %q) = %q, want %q", c.prefix, c.after, got, c.want)
			}
		}
		return nil
	})
}

func testScan(t *testing.T, m storage.Meta) {
	checkScans(t, m, []scanCase{{"", "", []string{}}, {"a", "", []string{}}, {"", "a", []string{}}})
	put(t, m, "b/2", "a", "c", "b/1", "b", "b/10", "bc")
	update(t, m, func(tx storage.Tx) error { return tx.Put(other, []byte("b/3"), []byte("v")) })
	checkScans(t, m, []scanCase{
		{"", "", []string{"a", "b", "b/1", "b/10", "b/2", "bc", "c"}},
		{"b/", "", []string{"b/1", "b/10", "b/2"}},
		{"b", "", []string{"b", "b/1", "b/10", "b/2", "bc"}},
		{"b/1", "", []string{"b/1", "b/10"}},
		{"d", "", []string{}},
		{"b/1000", "", []string{}},
		// after, there or not, before, in and behind the prefix
		{"", "b", []string{"b/1", "b/10", "b/2", "bc", "c"}},
		{"b/", "b/1", []string{"b/10", "b/2"}},
		{"b/", "b/11", []string{"b/2"}},
		{"b/", "b/2", []string{}},
		{"b/", "b/", []string{"b/1", "b/10", "b/2"}},
		{"b/", "a", []string{"b/1", "b/10", "b/2"}},
		{"b/", "bb", []string{}},
		{"b/", "c", []string{}},
		{"", "c", []string{}},
	})
	view(t, m, func(tx storage.Tx) error {
		var keys []string
		for row, err := range tx.Scan(table, []byte("b/"), nil) {
			if err != nil {
				return err
			}
			if want := "value of " + string(row.Key); string(row.Value) != want {
				return fmt.Errorf("scan yields %q, want %q", row.Value, want)
			}
			keys = append(keys, string(row.Key))
			// Reads and further scans are allowed while the loop runs.
			inner, err := scan(tx, []byte("b/"), row.Key)
			if err != nil {
				return err
			}
			if want := 3 - len(keys); len(inner) != want {
				return fmt.Errorf("scan within a scan yields %q, want %d rows", inner, want)
			}
			if len(keys) == 2 {
				break
			}
		}
		if !slices.Equal(keys, []string{"b/1", "b/10"}) {
			return fmt.Errorf("scan until a break yields %q", keys)
		}
		return expect(tx, table, "c", []byte("value of c"))
	})
}

func testScanBinary(t *testing.T, m storage.Meta) {
	put(t, m, "\x00", "\x00\x00", "\x00\x01", "a\x00", "a\x00b", "a\x01", "a\xff", "a\xff\xff", "b", "\xfe", "\xff", "\xff\x00", "\xff\xff")
	checkScans(t, m, []scanCase{
		{"", "", []string{"\x00", "\x00\x00", "\x00\x01", "a\x00", "a\x00b", "a\x01", "a\xff", "a\xff\xff", "b", "\xfe", "\xff", "\xff\x00", "\xff\xff"}},
		{"\x00", "", []string{"\x00", "\x00\x00", "\x00\x01"}},
		{"\x00", "\x00", []string{"\x00\x00", "\x00\x01"}},
		{"a\x00", "", []string{"a\x00", "a\x00b"}},
		{"a\xff", "", []string{"a\xff", "a\xff\xff"}},
		{"a\xff", "a\xff", []string{"a\xff\xff"}},
		{"a", "a\x00b", []string{"a\x01", "a\xff", "a\xff\xff"}},
		{"\xff", "", []string{"\xff", "\xff\x00", "\xff\xff"}},
		{"\xff", "\xff\x00", []string{"\xff\xff"}},
		{"\xff\xff", "", []string{"\xff\xff"}},
		{"\xff\xff", "\xff\xff", []string{}},
		{"\xff\xff\xff", "", []string{}},
	})
}

// testScanNames checks that the rows of one repository are found alone when its
// name is how others begin, and pages when they are many.
func testScanNames(t *testing.T, m storage.Meta) {
	repos := []string{"a", "a-b", "a/b", "aa", "b"}
	const tags = 250
	tag := func(i int) string { return fmt.Sprintf("v%03d", i) }
	update(t, m, func(tx storage.Tx) error {
		for i := tags - 1; i >= 0; i-- {
			for _, repo := range repos {
				if err := tx.Put(table, storage.Key(repo, tag(i)), []byte(repo)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	view(t, m, func(tx storage.Tx) error {
		for _, repo := range repos {
			prefix := storage.Key(repo, "")
			var after []byte
			var n int
			for {
				page, err := scan(tx, prefix, after)
				if err != nil {
					return err
				}
				if len(page) != tags-n {
					return fmt.Errorf("%d rows of %s after %q, want %d", len(page), repo, after, tags-n)
				}
				for _, key := range page[:min(100, len(page))] {
					if want := repo + "\x00" + tag(n); key != want {
						return fmt.Errorf("row %d of %s is %q, want %q", n, repo, key, want)
					}
					after = []byte(strings.Clone(key))
					n++
				}
				if n == tags {
					break
				}
			}
		}
		return nil
	})
}
