package rollout_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/rollout"
	"github.com/berth-registry/berth/storage"
)

// monstrous is a report of a node of mallory's that is as large as can be, and has failed.
func monstrous(node, target string) rollout.Report {
	r := failed(node, "", target)
	r.By, r.Interval, r.Labels = "mallory", rollout.Duration(time.Second), map[string]string{}
	for i := range 16 {
		r.Labels[fmt.Sprintf("%02d", i)] = strings.Repeat("\x00", 254)
	}
	r.Error = strings.Repeat("\x1b", 60<<10)
	for range 200 {
		r.Log = append(r.Log, strings.Repeat("é", 100))
	}
	return r
}

// TestHostile has somebody who may follow report in as many names, and as much, as can be:
// it stops the rollout, as may be, and neither takes the name of another's node or its place
// nor fills the store.
func TestHostile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kinds["mem"](t))
	one := w.push("1", "")
	w.follow(report("honest", one))
	two := w.push("2", `{"on_failure":"pause"}`)
	w.follow(report("honest", one)) // it has its turn
	w.follow(monstrous("m", two))
	if s := w.status(); s.State != rollout.Failed || s.LastFailure.Nodes[0].Name != "m" || s.Nodes[0].Name != "honest" || s.Nodes[0].Failed {
		t.Errorf("%+v", s)
	}

	size := func(table string) (rows, most, all int) {
		must(t, w.metas[0].View(t.Context(), func(tx storage.Tx) error {
			for row, err := range tx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				rows, most, all = rows+1, max(most, len(row.Value)), all+len(row.Value)
			}
			return nil
		}))
		return rows, most, all
	}
	// A thousand such names that failed, and are silent since.
	key := func(name string) []byte { return storage.Key(stack.Repo, stack.Tag, name) }
	must(t, w.metas[0].Update(t.Context(), func(tx storage.Tx) error {
		row, err := storage.Followers.Get(tx, key("m"))
		row.Heard = row.Heard.Add(-time.Minute)
		for i := range rollout.MaxNodes - 2 {
			err = errors.Join(err, storage.Followers.Put(tx, key(fmt.Sprintf("m%04d", i)), row))
		}
		return err
	}))
	honest := func() {
		t.Helper()
		r := report("honest", one)
		r.State, r.Target = rollout.NodeDeploying, two
		if a := w.follow(r); a.Digest != two {
			t.Errorf("%+v", a)
		}
	}
	w.clock.Add(int64(25 * time.Second)) // the store is up for as long as a node may say nothing
	honest()
	for i := range rollout.MaxFailed + 5 {
		w.follow(monstrous(fmt.Sprintf("new%04d", i), two))
	}
	honest()
	for table, most := range map[string]int{
		storage.Followers.Name(): 8 << 10, storage.FollowerLogs.Name(): 10 << 10, storage.RolloutFailures.Name(): 48 << 10,
	} {
		rows, one, all := size(table)
		if rows > rollout.MaxNodes+1 || one > most {
			t.Errorf("%s: %d rows of %d bytes at most, %d together", table, rows, one, all)
		}
	}
	if f := w.status().LastFailure; len(f.Nodes) != rollout.MaxFailed || f.More == 0 {
		t.Errorf("%d nodes, and %d", len(f.Nodes), f.More)
	}

	forged := monstrous("honest", two)
	if _, err := w.stores[0].Follow(t.Context(), stack, forged); !errors.Is(err, rollout.ErrTaken) {
		t.Errorf("the name of another's node: %v", err)
	}
	// Not when a registry has just started, either, and nobody was heard of for an hour.
	w.clock.Add(int64(time.Hour))
	w.stores[0] = rollout.NewStore(w.metas[0], w.wrap, rollout.Options{Now: func() time.Time { return time.Now().Add(time.Duration(w.clock.Load())) }})
	if _, err := w.stores[0].Follow(t.Context(), stack, forged); !errors.Is(err, rollout.ErrTaken) {
		t.Errorf("the name of another's node, after a restart: %v", err)
	}
	for what, change := range map[string]func(*rollout.Report){
		"labels": func(r *rollout.Report) { r.Labels["more"] = strings.Repeat("x", 256) },
		"node":   func(r *rollout.Report) { r.Node = "n\x1b[2J" },
	} {
		r := monstrous("x", two)
		change(&r)
		if _, err := w.stores[0].Follow(t.Context(), stack, r); !errors.Is(err, rollout.ErrInvalid) || !strings.Contains(err.Error(), what+": ") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
