package stack

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var rewrite = flag.Bool("rewrite", false, "write what is wanted in testdata anew")

// TestGolden loads each archive of testdata. Its files are those of a directory, and
// besides:
//
//	options        lines of "file NAME", "profile NAME", "env KEY=VALUE", "envfile NAME",
//	               "name NAME", "published" (FromYAML of compose.yaml)
//	want.json      the stack, without what is zero in it
//	want.yaml      the resolved Compose file
//	want.txt       the error, or the warnings
//	rollout.json   the policy of the rollout
//
// The directory itself is written $DIR, and the one above it $UP.
func TestGolden(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			c := unpack(t, a)
			l, err := c.load(t)
			c.check(t, l, err)
			if *rewrite {
				if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil && !c.published {
				roundTrip(t, l)
			}
		})
	}
}

// archive is a case of testdata in a directory.
type archive struct {
	*txtar.Archive
	dir       string
	options   Options
	published bool
}

func unpack(t *testing.T, a *txtar.Archive) *archive {
	t.Helper()
	c := &archive{Archive: a, dir: filepath.Join(t.TempDir(), "dir")}
	for _, f := range a.Files {
		name := filepath.Join(c.dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.ReplaceAll(f.Data, []byte("$DIR"), []byte(c.dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(strings.ReplaceAll(string(c.file("options")), "$DIR", c.dir)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "file":
			c.options.Files = append(c.options.Files, filepath.Join(c.dir, value))
		case "profile":
			c.options.Profiles = append(c.options.Profiles, value)
		case "env":
			c.options.Env = append(c.options.Env, value)
		case "envfile":
			c.options.EnvFiles = append(c.options.EnvFiles, filepath.Join(c.dir, value))
		case "name":
			c.options.ProjectName = value
		case "published":
			c.published = true
		default:
			t.Fatalf("no such option: %q", line)
		}
	}
	if len(c.options.Files) == 0 {
		c.options.WorkingDir = c.dir
	}
	return c
}

func (c *archive) file(name string) []byte {
	for _, f := range c.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

func (c *archive) load(t *testing.T) (*Loaded, error) {
	t.Helper()
	if c.published {
		data, err := os.ReadFile(filepath.Join(c.dir, "compose.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		return FromYAML(t.Context(), "shop:prod", data)
	}
	return Load(t.Context(), c.options)
}

// check compares what came out with what the archive wants, or writes it there.
func (c *archive) check(t *testing.T, l *Loaded, err error) {
	t.Helper()
	if err != nil {
		c.want(t, "want.txt", err.Error()+"\n")
		return
	}
	if len(l.Warnings) > 0 || c.file("want.txt") != nil {
		c.want(t, "want.txt", strings.Join(l.Warnings, "\n")+"\n")
	}
	resolved, err := l.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	c.want(t, "want.yaml", string(resolved))
	if l.Stack.Source != string(resolved) {
		t.Error("the source of the stack is not the resolved file")
	}
	s := l.Stack
	s.Source = ""
	c.want(t, "want.json", compact(t, s))
	if l.Rollout != nil {
		c.want(t, "rollout.json", compact(t, l.Rollout))
	}
	for _, service := range s.Services {
		for _, f := range service.Files {
			if _, ok := l.Contents[f.Content]; !ok {
				t.Errorf("%s has no content", f.Name)
			}
		}
	}
}

func (c *archive) want(t *testing.T, name, got string) {
	t.Helper()
	if strings.HasSuffix(name, ".txt") {
		got = c.short(got)
	}
	got = c.anywhere(got)
	if *rewrite {
		c.Files = slices.DeleteFunc(c.Files, func(f txtar.File) bool { return f.Name == name })
		c.Files = append(c.Files, txtar.File{Name: name, Data: []byte(got)})
		return
	}
	if want := string(c.file(name)); want != got {
		t.Errorf("%s is\n%s\nand not\n%s", name, got, want)
	}
}

// anywhere is a text without the directory that the archive happens to be in.
func (c *archive) anywhere(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, c.dir, "$DIR"), filepath.Dir(c.dir), "$UP")
}

// short is a list of errors or warnings without the directory of files.
func (c *archive) short(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, c.dir+"/")
	}
	return c.anywhere(strings.Join(lines, "\n"))
}

// compact returns JSON without what is zero, so that what counts is seen.
func compact(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(data, &tree); err != nil {
		t.Fatal(err)
	}
	out, err := json.MarshalIndent(prune(tree), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + "\n"
}

// prune takes zeros away; nil says that nothing is left.
func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			if v[key] = prune(e); v[key] == nil {
				delete(v, key)
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		empty := true
		for i, e := range v {
			v[i] = prune(e)
			empty = empty && v[i] == nil
		}
		if empty {
			return nil
		}
	case string, float64, bool:
		if reflect.ValueOf(v).IsZero() {
			return nil
		}
	}
	return v
}

// roundTrip deploys what was resolved: the stack is the same.
func roundTrip(t *testing.T, l *Loaded) {
	t.Helper()
	for _, s := range l.project.Secrets {
		if s.Environment != "" { // a node has no variables
			return
		}
	}
	for _, s := range l.project.Configs {
		if s.Environment != "" {
			return
		}
	}
	again, err := FromYAML(t.Context(), "published", []byte(l.Stack.Source))
	if err != nil {
		t.Fatalf("what was resolved is refused: %v\n%s", err, l.Stack.Source)
	}
	if !reflect.DeepEqual(again.Rollout, l.Rollout) {
		t.Errorf("the rollout is %+v, and not %+v", again.Rollout, l.Rollout)
	}
	if !reflect.DeepEqual(again.Contents, l.Contents) {
		t.Errorf("the contents are %v, and not %v", again.Contents, l.Contents)
	}
	got, err := json.MarshalIndent(again.Stack, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.MarshalIndent(l.Stack, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("what was resolved is\n%s\nand not\n%s", got, want)
	}
}
