package network

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// everyKind makes something of all that a table may have.
func everyKind(t testing.TB, m *Manager) []Attached {
	t.Helper()
	create(t, m, "two", ipv6)
	create(t, m, "inner", internal)
	own := connectTo(t, m, "own", []string{"two", "inner"}, ports(t, "8081>80/tcp", "127.0.0.1|8082>80/udp"), 80)
	list := backends(t, m, "blue", "green")
	setServices(t, m, behind("web", ports(t, "8080>80/tcp", "127.0.0.1|8083>80/tcp"), list...), behind("idle", ports(t, "8084>80/tcp")))
	return []Attached{own.Attached, list[0].Attached, list[1].Attached}
}

// A daemon that is started again finds its table as it should be, and leaves it alone.
func TestRestoreTouchesNoRule(t *testing.T) {
	newWorld(t)
	o := Options{Instance: "0c0ff7", StateDir: t.TempDir()}
	m := openManager(t, o)
	alive := everyKind(t, m)
	before := nft(t, "-a", "list", "table", "inet", m.rules.name)
	crash(m)
	m = openManager(t, o)
	must(t, m.Restore(t.Context(), alive))
	if after := nft(t, "-a", "list", "table", "inet", m.rules.name); after != before {
		t.Errorf("the table is\n%s\nwas\n%s", after, before)
	}
}

// What somebody did to the table is undone, and what is right is not touched; a table
// that is another is made anew.
func TestReconcile(t *testing.T) {
	newWorld(t)
	o := Options{Instance: "0c0ff8", StateDir: t.TempDir()}
	m := openManager(t, o)
	alive := everyKind(t, m)
	crash(m) // it would mend the table itself
	r, err := openRules(m.rules.name)
	must(t, err)
	defer r.close()
	r.segments, r.bindings, r.services = m.rules.segments, m.rules.bindings, m.rules.services
	table := "inet " + m.rules.name + " "
	content := func() []string {
		words := strings.FieldsFunc(nft(t, "list", "table", "inet", m.rules.name), func(r rune) bool { return strings.ContainsRune(" \t\n,", r) })
		slices.Sort(words)
		return words
	}
	handle := func() string {
		return regexp.MustCompile(`# handle \d+`).FindString(nft(t, "-a", "list", "table", "inet", m.rules.name))
	}
	want, is := content(), handle()
	for _, harm := range []struct {
		nft  string
		anew bool
	}{
		{"flush chain " + table + "tcp4-8080", false},
		{"flush chain " + table + "forward", false},
		{"insert rule " + table + "output drop", false},
		{"add rule " + table + "tcp4-8080 counter drop", false},
		{"flush chain " + table + "raw; add rule " + table + "raw drop", false},
		{"flush table " + table, false},
		{"flush map " + table + "services4", false},
		{"flush map " + table + "ports4", false},
		{"flush map " + table + "binds4", false},
		{"flush set " + table + "bridges", false},
		{"flush set " + table + "subnets4", false},
		{"delete element " + table + "services6 { tcp . 8080 }", false},
		{"add element " + table + "services4 { tcp . 1 : goto tcp4-8080 }", false},
		{"add element " + table + "services4 { tcp . 1 : drop }", false},
		{"add element " + table + "ports4 { tcp . 1 : 10.1.2.3 . 80 }", false},
		{"add element " + table + "masked4 { 10.99.0.0/16 }", false},
		{"delete element " + table + "ports4 { tcp . 8081 }; add element " + table + "ports4 { tcp . 8081 : 10.1.2.3 . 80 }", false},
		{"delete element " + table + "services4 { tcp . 8080 }; add element " + table + "services4 { tcp . 8080 : goto tcp4-8084 }", false},
		{"delete element " + table + "services4 { tcp . 8080 }; flush chain " + table + "tcp4-8080; delete chain " + table + "tcp4-8080", false},
		{"add chain " + table + "mine; add rule " + table + "mine jump published", false},
		{"add chain " + table + "mine { type filter hook input priority 0; policy drop; }", false},
		{"add chain " + table + "mine; add rule " + table + "output jump mine", false},
		{"add set " + table + "mine { type ipv4_addr; }", true},
		{"add chain " + table + "forward { type filter hook forward priority 0; policy drop; }", true},
		{"flush chain " + table + "raw; delete chain " + table + "raw", false},
		{"flush chain " + table + "raw; delete chain " + table + "raw; add chain " + table + "raw { type filter hook prerouting priority 5; }", true},
		{"flush table " + table + "; delete set " + table + "inside", true},
		{"delete table " + table + "; add table " + table, true},
	} {
		nft(t, harm.nft)
		if slices.Equal(content(), want) {
			t.Errorf("nft %s did no harm", harm.nft)
		}
		must(t, r.reconcile())
		if got := content(); !slices.Equal(got, want) {
			t.Errorf("after nft %s the table is\n%s", harm.nft, nft(t, "list", "table", "inet", r.name))
		}
		now := handle()
		if anew := now != is; anew != harm.anew {
			t.Errorf("after nft %s: made anew: %v", harm.nft, anew)
		}
		is = now
	}
	must(t, openManager(t, o).Restore(t.Context(), alive)) // which clears all away in the end
}

// The table is made what it should be again and again, without anybody's notice.
func TestReconcileUnderLoad(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	setServices(t, m, behind("web", ports(t, "8080>80/tcp"), backends(t, m, "blue", "green")...))
	connect(t, m, "own", ports(t, "8081>80/tcp"), 80)
	var asks atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for _, from := range []*os.File{nil, w.outside} {
		for _, addr := range []string{hostAddr4 + ":8080", "[" + hostAddr6 + "]:8080", hostAddr4 + ":8081"} {
			wg.Go(func() {
				for !isDone(done) {
					if _, _, err := ask(from, "tcp", addr, 10*time.Second); err != nil {
						t.Errorf("%s: %v", addr, err)
					}
					asks.Add(1)
				}
			})
		}
	}
	for asks.Load() < 3000 {
		nft(t, "add", "rule", "inet", m.rules.name, "published", "counter")
		must(t, m.rules.reconcile())
	}
	close(done)
	wg.Wait()
}
