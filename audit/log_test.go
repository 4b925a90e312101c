package audit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/audit"
)

// linesOf decodes the lines of files, each of which must be an object.
func linesOf(t *testing.T, paths ...string) (lines []map[string]any) {
	t.Helper()
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			var v map[string]any
			if err := json.Unmarshal(line, &v); err != nil || line[len(line)-1] != '\n' {
				t.Fatalf("%s: %v in line %q", path, err, line)
			}
			lines = append(lines, v)
		}
	}
	return lines
}

// logFiles are a log and what was put aside of it, in the order of their lines.
func logFiles(t *testing.T, path string) []string {
	t.Helper()
	aside, err := filepath.Glob(path + ".*")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(aside)
	return append(aside, path)
}

func newLog(t *testing.T, o audit.LogOptions) *audit.Log {
	t.Helper()
	l, err := audit.NewLog(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestLogLine(t *testing.T) {
	var out bytes.Buffer
	l := newLog(t, audit.LogOptions{Output: "stdout", Stdout: &out})
	ctx := audit.NewContext(t.Context(), &audit.Actor{Account: "ci", Source: "accounts", Key: "k1", Client: "192.0.2.1", Request: "r1"})
	at := time.Date(2026, 11, 26, 18, 0, 0, 120_000_000, time.FixedZone("", 3600))
	l.Record(ctx, audit.Event{
		Time: at, Kind: audit.Push, Repo: "team/web", Tag: "v1", Tags: []string{"v1", "v2"}, Digest: "sha256:aa",
		Media: "application/x", Size: 7,
	})
	l.Record(ctx, audit.Event{Time: at, Kind: audit.TagMove, Repo: "team/web", Tag: "v1", Digest: "sha256:aa", Was: "sha256:bb"})
	l.Record(t.Context(), audit.Event{
		Time: at, Kind: audit.Access, Outcome: audit.Denied, Actor: audit.Actor{Client: "::1"}, Action: "push", Repo: "x", Reason: "rule 3",
	})
	l.Record(t.Context(), audit.Event{Time: at, Kind: audit.TokenChange, Subject: "k2", Actor: audit.Actor{Account: "root"}})
	l.Record(t.Context(), audit.Event{Kind: audit.Pull, Repo: "not/logged"})
	want := `{"time":"2026-11-26T17:00:00.120000000Z","event":"push","outcome":"ok","account":"ci","source":"accounts","key":"k1","client":"192.0.2.1","request":"r1","repository":"team/web","tag":"v1","tags":["v1","v2"],"digest":"sha256:aa","mediaType":"application/x","size":7}
{"time":"2026-11-26T17:00:00.120000000Z","event":"tag","outcome":"ok","account":"ci","source":"accounts","key":"k1","client":"192.0.2.1","request":"r1","repository":"team/web","tag":"v1","digest":"sha256:aa","was":"sha256:bb"}
{"time":"2026-11-26T17:00:00.120000000Z","event":"access","outcome":"denied","client":"::1","repository":"x","action":"push","reason":"rule 3"}
{"time":"2026-11-26T17:00:00.120000000Z","event":"token","outcome":"ok","account":"root","subject":"k2"}
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLogIsOff(t *testing.T) {
	l := newLog(t, audit.LogOptions{})
	l.Record(t.Context(), numbered(1))
	if err := l.Reopen(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if n := l.Failures(); n != 0 {
		t.Errorf("%d failures", n)
	}
}

func TestLogCannotBe(t *testing.T) {
	dir := t.TempDir()
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "file")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []audit.LogOptions{
		{Output: dir},
		{Output: fifo}, // would wait for its reader
		{Output: filepath.Join(file, "log")},
		{Output: filepath.Join(dir, "log"), Keep: -1},
	} {
		if _, err := audit.NewLog(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// TestLogRotates counts the lines of many writers over many rotations.
func TestLogRotates(t *testing.T) {
	const writers, each, size = 8, 1500, 20_000
	path := filepath.Join(t.TempDir(), "new", "audit.log")
	l := newLog(t, audit.LogOptions{Output: path, MaxSize: size, Keep: 10_000})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				l.Record(t.Context(), numbered(w*each+i))
			}
		})
	}
	wg.Wait()
	if n := l.Failures(); n != 0 {
		t.Errorf("%d failures", n)
	}
	files := logFiles(t, path)
	if len(files) < 10 {
		t.Errorf("only %d files", len(files))
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 || info.Size() > size {
			t.Errorf("%s has mode %v and %d bytes", f, info.Mode(), info.Size())
		}
	}
	seen := map[string]int{}
	last := map[int]int{}
	for _, line := range linesOf(t, files...) {
		tag := line["tag"].(string)
		seen[tag]++
		n, _ := strconv.Atoi(tag[1:])
		if w := n / each; n < last[w] {
			t.Errorf("%d comes after %d", n, last[w])
		} else {
			last[w] = n
		}
	}
	if len(seen) != writers*each {
		t.Errorf("%d lines, want %d", len(seen), writers*each)
	}
	for tag, n := range seen {
		if n != 1 {
			t.Errorf("%s is there %d times", tag, n)
		}
	}
}

func TestLogKeeps(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	others := []string{"audit.log.1", "audit.log.20260102T030405.000000000Z.gz", "audit.logs", "audit.log.old"}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := newLog(t, audit.LogOptions{Output: path, MaxSize: 1, Keep: 3})
	for n := range 20 {
		l.Record(t.Context(), numbered(n))
	}
	var tags []string
	for _, f := range logFiles(t, path) {
		if !slices.Contains(others, filepath.Base(f)) {
			for _, line := range linesOf(t, f) {
				tags = append(tags, line["tag"].(string))
			}
		}
	}
	if want := []string{"n16", "n17", "n18", "n19"}; !slices.Equal(tags, want) {
		t.Errorf("kept %v, want %v", tags, want)
	}
	for _, name := range others {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != name {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

// TestLogSurvivesKills kills a writer again and again: each line that it has said
// to be written is there once, and all are whole.
func TestLogSurvivesKills(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	said, next := map[int]bool{}, 0
	for round := range 8 {
		cmd := child(t, "log", path, fromEnv+"="+strconv.Itoa(next))
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		scan := bufio.NewScanner(stdout)
		for lines := 0; scan.Scan(); lines++ {
			n, err := strconv.Atoi(scan.Text())
			if err != nil {
				t.Fatal(err)
			}
			said[n], next = true, n+2 // the one after it may be there
			if lines == 100+round*37 {
				_ = cmd.Process.Kill() // what it has said until then is read still
			}
		}
		_ = cmd.Wait()
	}
	seen := map[int]int{}
	for _, line := range linesOf(t, logFiles(t, path)...) {
		n, _ := strconv.Atoi(line["tag"].(string)[1:])
		seen[n]++
	}
	for n := range said {
		if seen[n] != 1 {
			t.Errorf("line %d is there %d times", n, seen[n])
		}
	}
	if len(said) < 1000 {
		t.Errorf("only %d lines", len(said))
	}
}

// TestLogOnAFullDisk lets a line be written in part.
func TestLogOnAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	out, err := child(t, "full", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var written, failed int
	if _, err := fmt.Sscan(string(out), &written, &failed); err != nil {
		t.Fatal(err)
	}
	lines := linesOf(t, path)
	if failed != 3 || len(lines) != written-failed {
		t.Errorf("%d lines of %d, %d failed", len(lines), written, failed)
	}
	if last := lines[len(lines)-1]["tag"]; last != "n"+strconv.Itoa(written-1) {
		t.Errorf("the last line is of %v", last)
	}
}

func TestLogFails(t *testing.T) {
	var log bytes.Buffer
	l := newLog(t, audit.LogOptions{Output: "/dev/full", Log: slog.New(slog.NewJSONHandler(&log, nil))})
	l.Record(t.Context(), numbered(1))
	if n := l.Failures(); n != 1 {
		t.Errorf("%d failures", n)
	}
	if s := log.String(); !strings.Contains(s, "no space left") || !strings.Contains(s, `\"tag\":\"n1\"`) || !strings.Contains(s, "ERROR") {
		t.Errorf("log: %s", s)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	l.Record(t.Context(), numbered(2))
	if n := l.Failures(); n != 2 {
		t.Errorf("%d failures", n)
	}
	if err := l.Reopen(); err == nil {
		t.Error("a closed log was opened again")
	}
}

// TestLogCannotRotate takes away the directory: lines go on to the file that is
// open, and none fails.
func TestLogCannotRotate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	path := filepath.Join(dir, "audit.log")
	var log bytes.Buffer
	l := newLog(t, audit.LogOptions{Output: path, MaxSize: 1000, Log: slog.New(slog.NewTextHandler(&log, nil))})
	l.Record(t.Context(), numbered(0))
	open, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for n := range 99 {
		l.Record(t.Context(), numbered(n+1))
	}
	data, err := io.ReadAll(open)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(data, []byte("\n")); n != 100 || l.Failures() != 0 {
		t.Errorf("%d lines, %d failures", n, l.Failures())
	}
	if n := strings.Count(log.String(), "could not be rotated"); n != 1 {
		t.Errorf("told of it %d times", n)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Record(t.Context(), numbered(100))
	if lines := linesOf(t, path); len(lines) != 1 {
		t.Errorf("%d lines", len(lines))
	}
}

// TestLogReopens lets another program rotate, with and without telling the log.
func TestLogReopens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := newLog(t, audit.LogOptions{Output: path, MaxSize: 1000})
	l.Record(t.Context(), numbered(0))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Record(t.Context(), numbered(1))
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Record(t.Context(), numbered(2))
	if n, m := len(linesOf(t, path+".1")), len(linesOf(t, path)); n != 2 || m != 1 {
		t.Errorf("%d and %d lines", n, m)
	}
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		l.Record(t.Context(), numbered(n+3)) // it sees by itself when it would rotate
	}
	total := len(linesOf(t, logFiles(t, path)...))
	if total != 23 || len(linesOf(t, path)) == 0 {
		t.Errorf("%d lines", total)
	}
	// A directory in its place: it goes on where it was.
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err == nil {
		t.Error("a directory was opened")
	}
	l.Record(t.Context(), numbered(99))
	if n := l.Failures(); n != 0 {
		t.Errorf("%d failures", n)
	}
}

// TestLogEndsATornLine opens a log that a power cut left in the middle of a line.
func TestLogEndsATornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte("{\"event\":\"push\"}\n{\"eve"), 0o640); err != nil {
		t.Fatal(err)
	}
	l := newLog(t, audit.LogOptions{Output: path})
	l.Record(t.Context(), numbered(1))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(string(data), "\n"); len(lines) != 4 || lines[1] != `{"eve` || !json.Valid([]byte(lines[2])) {
		t.Errorf("%q", lines)
	}
}

func TestRecorders(t *testing.T) {
	var got []audit.Event
	r := audit.Func(func(_ context.Context, e audit.Event) { got = append(got, e) })
	ctx := audit.NewContext(t.Context(), &audit.Actor{Account: "ci"})
	audit.Recorders(r, nil, r).Record(ctx, audit.Event{Kind: audit.Login})
	if len(got) != 2 || !got[0].Time.Equal(got[1].Time) || got[0].Time.IsZero() || got[1].Actor.Account != "ci" || got[0].Outcome != audit.OK {
		t.Errorf("%+v", got)
	}
}

// FuzzEncode: whatever values are, they make one line of JSON that says them.
func FuzzEncode(f *testing.F) {
	f.Add("team/web", "v1", "ci", "reason", int64(1), int64(1))
	f.Add("a\nb\r\n{\"event\":\"login\"}", "\x00\x1b[2J\u2028\u2029", "\xff\xfe\xc3", `"\`, int64(-1), int64(1)<<62)
	f.Add(strings.Repeat("\x01", 10_000), strings.Repeat("é", 300), strings.Repeat("\xff", 512), strings.Repeat("€", 171), int64(0), int64(-1)<<62)
	f.Fuzz(func(t *testing.T, repo, tag, account, reason string, size, at int64) {
		e := audit.Event{
			Time: time.Unix(at, 0), Kind: audit.Kind(reason), Outcome: audit.Outcome(account), Repo: repo, Tag: tag,
			Tags: slices.Repeat([]string{tag, repo}, len(tag)%40), Digest: account, Was: repo, Action: tag, Subject: reason,
			Reason: reason, Media: repo, Size: size,
			Actor: audit.Actor{Account: account, Source: repo, Key: reason, Client: tag, Request: account},
		}
		b, err := audit.Encode(&e)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n != 1 || b[len(b)-1] != '\n' || len(b) > audit.MaxLine {
			t.Fatalf("%d bytes, %d lines: %q", len(b), n, b)
		}
		for _, c := range b[:len(b)-1] {
			if c < ' ' {
				t.Fatalf("control character in %q", b)
			}
		}
		var v map[string]any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatalf("%v: %q", err, b)
		}
		for name, value := range maps.All(v) {
			if value == "" && name != "event" {
				t.Errorf("%s is empty", name)
			}
		}
		if s := strings.ToValidUTF8(repo, "\uFFFD"); len(b) < 2000 && len(repo) <= 64 && repo != "" && v["repository"] != s {
			t.Errorf("repository is %q, not %q", v["repository"], s)
		}
	})
}
