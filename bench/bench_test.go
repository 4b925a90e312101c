package main

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestQuick runs the benchmark as its user does, in its smallest form, and
// checks that nothing is missing from what it writes. How fast berth is, a test
// among others on the same machine cannot say.
func TestQuick(t *testing.T) {
	if pkgs := missing(works); len(pkgs) > 0 && os.Geteuid() != 0 {
		t.Fatalf("programs are missing: run, as root, apt-get install --no-install-recommends %s", strings.Join(pkgs, " "))
	}
	dir := t.TempDir()
	work := filepath.Join(dir, "work")
	// PostgreSQL, which is another user's, has its data below.
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o711), os.Mkdir(work, 0o711)); err != nil {
		t.Fatal(err)
	}
	program, file, readme := filepath.Join(dir, "bench"), filepath.Join(dir, "results.json"), filepath.Join(dir, "README.md")
	var page strings.Builder
	for _, part := range parts {
		page.WriteString("before\n" + sectionStart(part) + "\nold\n" + sectionEnd(part) + "\nafter\n")
	}
	if err := os.WriteFile(readme, []byte(page.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// BERTH_BIN and BERTH_RUNNER_BIN are what make test has built.
	out, err := exec.Command(program, "-quick", "-berth", os.Getenv("BERTH_BIN"), "-runner", os.Getenv("BERTH_RUNNER_BIN"),
		"-dir", work, "-json", file, "-readme", readme).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all results
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]int{
		partRegistry: {"pull": 3, "push": 2, "small": 1, "manifest": 6, "pages": 2, "memory": 2, "start": 2, "growth": 0, "access": 2, "policy": 2, "collect": 1, "collect-push": 1, "delete": 1, "mirror": 4, "scale": 1},
		partRunner:   {"run": 2, "cycle": 2, "exec": 1, "many": 1, "ps": 1, "idle": 4, "stats": 1, "names": 1, "build": 2, "host": 5, "unpack": 2},
		partDeploy:   {"switch": 4, "follow": 1, "rollback": 2, "update": 1, "watch": 4},
	}
	rest := string(text)
	for _, part := range parts {
		r := all[part]
		if r == nil {
			t.Fatalf("there are no results of the %s", part)
		}
		checkReport(t, r, want[part])
		rest = checkTable(t, r, part, rest)
	}
	left, err := os.ReadDir(filepath.Join(dir, "work"))
	if err != nil || len(left) > 0 {
		t.Errorf("the work directory holds %v, %v: want nothing", left, err)
	}
	checkCgroups(t)
}

// checkReport checks that every work has its figures, with a value of each run,
// and every goal its verdict. Goals is how many each work has.
func checkReport(t *testing.T, r *report, goals map[string]int) {
	t.Helper()
	found := map[string]int{}
	for _, f := range r.Figures {
		found[f.Work] += 0
		if len(f.Series) == 0 || len(f.Verdicts) == 0 {
			t.Errorf("%s: %s has %d series and %d verdicts", f.Work, f.Name, len(f.Series), len(f.Verdicts))
		}
		for _, s := range f.Series {
			if len(s.Values) == 0 {
				t.Errorf("%s: %s has no value of %s", f.Work, f.Name, s.Of)
			}
		}
		for _, v := range f.Verdicts {
			if (v.Goal != "") != (v.Met != nil) {
				t.Errorf("%s: %s has the goal %q but the verdict %v", f.Work, f.Name, v.Goal, v.Met)
			}
			if v.Goal != "" {
				found[f.Work]++
			}
		}
	}
	if !maps.Equal(found, goals) {
		t.Errorf("goals of works: %v, want %v", found, goals)
	}
	if r.Machine.Cores == 0 || r.Machine.Kernel == "" || r.Date == "" || !r.Quick {
		t.Errorf("the report does not say where and how it was made: %+v", r)
	}
}

// checkTable checks that a part's section of a file got the table, and kept what
// is around it. It returns what comes after.
func checkTable(t *testing.T, r *report, part, text string) string {
	t.Helper()
	table, rest, ok := strings.Cut(text, sectionEnd(part)+"\nafter\n")
	if !ok || !strings.HasPrefix(table, "before\n"+sectionStart(part)+"\n") || strings.Contains(table, "\nold\n") {
		t.Errorf("the section of the %s was not replaced: %s", part, text)
	}
	for _, f := range r.Figures {
		if !strings.Contains(table, f.Name) {
			t.Errorf("the table has no %s", f.Name)
		}
	}
	return rest
}

// checkCgroups checks that those of the other hosts are gone: nothing else that
// runs there can outlive its first process.
func checkCgroups(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/berth-bench-*", "/sys/fs/cgroup/*/berth-bench-*"} {
		left, err := filepath.Glob(pattern)
		if err != nil || len(left) > 0 {
			t.Errorf("cgroups are left: %v, %v", left, err)
		}
	}
}

func TestRatio(t *testing.T) {
	f := &figure{Unit: "MB/s"}
	for _, v := range []float64{10, 12, 30} {
		f.add("berth", v)
	}
	for _, v := range []float64{20, 10, 25} {
		f.add("peer", v)
	}
	f.ratio("berth", "peer", atLeast(1.2))
	f.ratio("berth", "peer", atMost(1.1))
	f.value("berth", atMost(12))
	for i, want := range []struct {
		goal   string
		met    bool
		median float64
	}{{"≥ 1.2", true, 1.2}, {"≤ 1.1", false, 1.2}, {"≤ 12 MB/s", true, 12}} {
		v := f.Verdicts[i]
		if v.Goal != want.goal || *v.Met != want.met || v.Median != want.median {
			t.Errorf("verdict %d: goal %s, met %v, median %v; want %+v", i, v.Goal, *v.Met, v.Median, want)
		}
	}
	if s := f.of("berth"); s.Median != 12 || s.Min != 10 || s.Max != 30 {
		t.Errorf("summary %+v", s.summary)
	}
}

// TestAdopt does one work of a part again.
func TestAdopt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	day := func(date string, works ...string) *report {
		r := &report{part: partDeploy, Date: date + "T00:00:00Z"}
		for _, w := range works {
			r.Figures = append(r.Figures, &figure{Work: w, Name: "of " + date})
		}
		if err := r.writeJSON(path); err != nil {
			t.Fatal(err)
		}
		return r
	}
	day("2026-01-01", "switch", "follow", "watch", "gone")
	day("2026-01-02", "watch")
	r := day("2026-01-03", "follow")
	var found []string
	for _, f := range r.Figures {
		found = append(found, f.Work+" "+f.Name)
	}
	if want := []string{"switch of 2026-01-01", "follow of 2026-01-03", "watch of 2026-01-02"}; !slices.Equal(found, want) {
		t.Errorf("figures: %q, want %q", found, want)
	}
	for _, want := range []string{"Measured on 2026-01-03", "of switch are those of an earlier run, on 2026-01-01.", "of watch are those of an earlier run, on 2026-01-02."} {
		if text := r.Markdown(); !strings.Contains(text, want) {
			t.Errorf("the table does not say %q: %s", want, text)
		}
	}
}

func TestFormat(t *testing.T) {
	for x, want := range map[float64]string{0: "0.000", 0.0123: "0.012", 1.234: "1.23", 12.34: "12.3", 999.6: "1,000", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := format(x); got != want {
			t.Errorf("format(%v) = %s, want %s", x, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-only", "pull,push", "-peer", "zot=http://localhost:5050/", "-runs", "3"})
	if err != nil || !slices.Equal(o.only, []string{"pull", "push"}) || !slices.Equal(o.peers, []peer{{"zot", "localhost:5050"}}) || o.runs != 3 {
		t.Errorf("parse: %+v, %v", o, err)
	}
	for _, args := range [][]string{{"extra"}, {"-quick", "-full"}, {"-peer", "zot"}, {"-peer", "zot=https://localhost"}, {"-runs", "-1"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse(%q) succeeded", args)
		}
	}
	if _, err := choose([]string{"pull", "nothing"}); err == nil {
		t.Error("a work that does not exist was chosen")
	}
	chosen, err := choose([]string{partRunner, "pull"})
	if err != nil || len(partOf(chosen, partRunner)) != len(partOf(works, partRunner)) || len(partOf(chosen, partRegistry)) != 1 {
		t.Errorf("choose: %v, %v", chosen, err)
	}
}
