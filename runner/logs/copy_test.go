package logs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/logs"
)

var all = runner.LogOptions{Stdout: true, Stderr: true, Tail: -1}

// read returns what Copy writes.
func read(t testing.TB, dir string, o runner.LogOptions) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if err := logs.Copy(t.Context(), dir, o, map[string]string{"k": "v", "a b": "ü"}, nil, false, runner.Streams{Stdout: &out, Stderr: &errs}); err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String()
}

func at(second int) time.Time { return time.Date(2024, 1, 1, 0, 0, second, 0, time.UTC) }

func line(second int, stream, tag, content string) string {
	return at(second).Format("2006-01-02T15:04:05.000000000-07:00") + " " + stream + " " + tag + " " + content + "\n"
}

func writeLog(t testing.TB, dir, name string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	writeLog(t, dir, "ctr.log.9", line(1, "stdout", "F", "out1"), line(2, "stderr", "F", "err1"))
	writeLog(t, dir, "ctr.log.10-77", line(3, "stdout", "P", "in "), line(4, "stderr", "F", ""), line(5, "stdout", "P", "three"), "no line\n", "\n", line(6, "stdin", "F", "neither"))
	writeLog(t, dir, "ctr.log.10", "without its beginning this file has the higher number in its name\n")
	writeLog(t, dir, "ctr.log", line(6, "stdout", "F", " pieces"), line(7, "stderr", "P", "err3"), line(8, "stdout", "F", "last\r"))
	for _, test := range []struct {
		name           string
		change         func(o *runner.LogOptions)
		stdout, stderr string
	}{
		{"all", func(*runner.LogOptions) {}, "out1\nin three pieces\nlast\r\n", "err1\n\nerr3"},
		{"one stream", func(o *runner.LogOptions) { o.Stderr = false }, "out1\nin three pieces\nlast\r\n", ""},
		{"none", func(o *runner.LogOptions) { o.Stderr, o.Stdout = false, false }, "", ""},
		{"since", func(o *runner.LogOptions) { o.Since = at(4) }, "last\r\n", "\nerr3"},
		{"since the start of a line", func(o *runner.LogOptions) { o.Since = at(3) }, "in three pieces\nlast\r\n", "\nerr3"},
		{"until", func(o *runner.LogOptions) { o.Until = at(3) }, "out1\nin ", "err1\n"},
		{"tail 0", func(o *runner.LogOptions) { o.Tail = 0 }, "", ""},
		{"tail 1", func(o *runner.LogOptions) { o.Tail = 1 }, "last\r\n", ""},
		{"tail 2", func(o *runner.LogOptions) { o.Tail = 2 }, "last\r\n", "err3"},
		{"tail 3", func(o *runner.LogOptions) { o.Tail = 3 }, "in three pieces\nlast\r\n", "err3"},
		{"tail 4", func(o *runner.LogOptions) { o.Tail = 4 }, "in three pieces\nlast\r\n", "\nerr3"},
		{"tail of stderr", func(o *runner.LogOptions) { o.Tail, o.Stdout = 2, false }, "", "\nerr3"},
		{"tail 99", func(o *runner.LogOptions) { o.Tail = 99 }, "out1\nin three pieces\nlast\r\n", "err1\n\nerr3"},
		{
			"timestamps", func(o *runner.LogOptions) { o.Timestamps, o.Tail = true, 3 },
			"2024-01-01T00:00:03.000000000Z in three pieces\n2024-01-01T00:00:08.000000000Z last\r\n", "2024-01-01T00:00:07.000000000Z err3",
		},
		{"details", func(o *runner.LogOptions) { o.Details, o.Tail = true, 1 }, "a+b=%C3%BC,k=v last\r\n", ""},
	} {
		o := all
		test.change(&o)
		if out, errs := read(t, dir, o); out != test.stdout || errs != test.stderr {
			t.Errorf("%s: %q, %q, want %q, %q", test.name, out, errs, test.stdout, test.stderr)
		}
	}
	var both bytes.Buffer
	if err := logs.Copy(t.Context(), dir, all, nil, nil, true, runner.Streams{Stdout: &both}); err != nil {
		t.Fatal(err)
	}
	if want := "out1\nerr1\nin \nthree pieces\nerr3last\r\n"; both.String() != want {
		t.Errorf("as of a terminal: %q", both.String())
	}
}

func TestCopyZones(t *testing.T) {
	dir := t.TempDir()
	writeLog(t, dir, "ctr.log", "2024-06-01T02:00:00.123456789+05:30 stdout F half past\n")
	o := all
	o.Timestamps = true
	if out, _ := read(t, dir, o); out != "2024-05-31T20:30:00.123456789Z half past\n" {
		t.Errorf("%q", out)
	}
}

func TestCopyNothing(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if out, errs := read(t, dir, all); out != "" || errs != "" {
			t.Errorf("%q, %q", out, errs)
		}
	}
}

// model writes random output as a monitor would, in several files, and remembers
// what it was.
type model struct {
	lines [2][]string // by stream; the last may be open
	open  [2]bool
}

func (m *model) add(s int, content string, whole bool) {
	if !m.open[s] {
		m.lines[s] = append(m.lines[s], "")
	}
	n := len(m.lines[s]) - 1
	m.lines[s][n] += content
	if whole {
		m.lines[s][n] += "\n"
	}
	m.open[s] = !whole
}

func randomLog(t testing.TB, r *rand.Rand, dir string) *model {
	m := &model{}
	names := []string{"stdout", "stderr"}
	for file := range 1 + r.IntN(4) {
		var b strings.Builder
		for range r.IntN(400) {
			s := r.IntN(2)
			content := make([]byte, r.IntN(20))
			if r.IntN(50) == 0 {
				content = make([]byte, r.IntN(9000))
			}
			for i := range content {
				if content[i] = byte(r.IntN(256)); content[i] == '\n' {
					content[i] = ' '
				}
			}
			tag := "F"
			if r.IntN(4) == 0 {
				tag = "P"
			}
			b.WriteString(line(1, names[s], tag, string(content)))
			m.add(s, string(content), tag == "F")
		}
		writeLog(t, dir, fmt.Sprintf("ctr.log.%d", file+1), b.String())
	}
	return m
}

func TestCopyRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		dir := t.TempDir()
		m := randomLog(t, r, dir)
		out, errs := read(t, dir, all)
		if out != strings.Join(m.lines[0], "") || errs != strings.Join(m.lines[1], "") {
			t.Fatal("not what was written")
		}
		n := r.IntN(len(m.lines[0]) + 2)
		o := all
		o.Stderr, o.Tail = false, n
		out, _ = read(t, dir, o)
		want := strings.Join(m.lines[0][max(0, len(m.lines[0])-n):], "")
		if out != want {
			t.Fatalf("the last %d lines are %q, want %q", n, out, want)
		}
		o.Stderr = true
		out, errs = read(t, dir, o)
		if got := strings.Count(out, "\n") + strings.Count(errs, "\n"); n < len(m.lines[0]) && (got > n || got < n-2) {
			t.Fatalf("%d lines of the last %d", got, n)
		}
		if !strings.HasSuffix(strings.Join(m.lines[0], ""), out) || !strings.HasSuffix(strings.Join(m.lines[1], ""), errs) {
			t.Fatal("not the last lines")
		}
	}
}

// TestCopyCancelled has a reader that does not read.
func TestCopyCancelled(t *testing.T) {
	dir := t.TempDir()
	writeLog(t, dir, "ctr.log", line(1, "stdout", "F", "x"))
	ctx, cancel := context.WithCancel(t.Context())
	o := all
	o.Follow = true
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- logs.Copy(ctx, dir, o, nil, make(chan struct{}), false, runner.Streams{Stdout: pw})
	}()
	if n, err := pr.Read(make([]byte, 10)); n != 2 || err != nil {
		t.Error(n, err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFollowUntil(t *testing.T) {
	dir := t.TempDir()
	writeLog(t, dir, "ctr.log", line(1, "stdout", "F", "x"))
	o := all
	o.Follow, o.Until = true, time.Now().Add(50*time.Millisecond)
	var out bytes.Buffer
	if err := logs.Copy(t.Context(), dir, o, nil, nil, false, runner.Streams{Stdout: &out}); err != nil || out.String() != "x\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func FuzzFormat(f *testing.F) {
	f.Add([]byte(line(1, "stdout", "F", "x")+line(1, "stderr", "P", "y")), 3)
	f.Add([]byte("2024-01-01T00:00:00Z stdout F"), 1)
	f.Add([]byte("\n\n stdout F \n"), 0)
	f.Add([]byte(strings.Repeat("x", 100)+" stdout F \n"), 7)
	f.Fuzz(func(t *testing.T, data []byte, tail int) {
		if tail < 0 {
			tail = -1
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "ctr.log"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		whole, _ := read(t, dir, all)
		o := all
		o.Stderr, o.Tail, o.Timestamps = false, tail, tail%2 == 0
		part, _ := read(t, dir, o)
		if !o.Timestamps && !strings.HasSuffix(whole, part) {
			t.Errorf("the last lines of %q are %q", whole, part)
		}
		// However the bytes come, in one file or in two, the result is the same.
		if cut := bytes.IndexByte(data, '\n'); cut >= 0 {
			writeLog(t, dir, "ctr.log.1", string(data[:cut+1]))
			writeLog(t, dir, "ctr.log", string(data[cut+1:]))
			if again, _ := read(t, dir, all); again != whole {
				t.Errorf("in two files %q, in one %q", again, whole)
			}
		}
	})
}

func BenchmarkCopy(b *testing.B) {
	dir := b.TempDir()
	text := strings.Repeat(line(1, "stdout", "F", strings.Repeat("x", 80)), 200_000)
	writeLog(b, dir, "ctr.log", text)
	for name, o := range map[string]runner.LogOptions{
		"all":        all,
		"timestamps": {Stdout: true, Tail: -1, Timestamps: true},
		"tail":       {Stdout: true, Tail: 100},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if err := logs.Copy(b.Context(), dir, o, nil, nil, false, runner.Streams{Stdout: io.Discard}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
