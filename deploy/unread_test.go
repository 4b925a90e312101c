package deploy

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/runner"
)

// damages are ways in which a record can be no record any more.
var damages = map[string]struct {
	does func(path string, text []byte) error
	says string
}{
	"empty":     {func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) }, "it is empty"},
	"cut short": {func(path string, text []byte) error { return os.WriteFile(path, text[:len(text)/2], 0o600) }, "its end is missing"},
	"zeros":     {func(path string, text []byte) error { return os.WriteFile(path, make([]byte, len(text)), 0o600) }, "invalid character"},
	"a newer one": {func(path string, text []byte) error {
		return os.WriteFile(path, []byte(strings.Replace(string(text), `"Current"`, `"Colour": "green", "Current"`, 1)), 0o600)
	}, `a newer berth-runner has written it: this one does not know "Colour"`},
	"of another": {func(path string, text []byte) error {
		return os.WriteFile(path, []byte(strings.Replace(string(text), `"shop"`, `"blog"`, 1)), 0o600)
	}, `it is of stack "blog"`},
	"no revision": {func(path string, text []byte) error {
		return os.WriteFile(path, []byte(strings.Replace(string(text), `"Current": 2`, `"Current": 99`, 1)), 0o600)
	}, "revision 99, which is in service, is not in it"},
	"null": {func(path string, _ []byte) error { return os.WriteFile(path, []byte("null"), 0o600) }, `it is of stack ""`},
	"a directory": {func(path string, _ []byte) error {
		return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
	}, "it is no file"},
	"gone": {func(path string, _ []byte) error { return os.Remove(path) }, "no such file"},
	"what is in service": {func(path string, _ []byte) error {
		return os.WriteFile(filepath.Join(filepath.Dir(path), "2.json"), []byte(`{"Stack": {"Name": "shop"}}`), 0o600)
	}, "2.json cannot be read: "},
	"what is in service is gone": {func(path string, _ []byte) error {
		return os.Remove(filepath.Join(filepath.Dir(path), "2.json"))
	}, "2.json cannot be read: it is not there"},
}

// tree is all that is in a directory.
func (w *world) tree() map[string]string {
	w.t.Helper()
	files := map[string]string{}
	w.must(filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Name() == "lock" {
			return err
		}
		text, _ := os.ReadFile(path) // of a directory there is none
		files[path] = string(text)
		return nil
	}))
	return files
}

// A stack whose files cannot be read keeps nobody else from their own. It is left as it
// is, listed with the reason, and goes on when the file is there again; or it is removed.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				file := File{Name: "key", Target: "/key", Mode: 0o400, Content: digestOf("secret")}
				first := shop(web("app:1", 2, func(s *Service) { s.Files, s.Routes = []File{file}, []Route{{Port: 80}} }))
				_, err := w.Deploy(t.Context(), Request{Stack: first, Contents: Contents{file.Content: []byte("secret")}}, nil)
				w.must(err)
				w.mustDeploy(shop(web("app:2", 2, func(s *Service) { s.Files, s.Routes = []File{file}, []Route{{Port: 80}} })))
				other := shop(web("other:1", 1))
				other.Name = "other"
				other.Services[0].Ports = nil
				w.mustDeploy(other)
				w.settle()
				running, stopped, serving := w.running(), w.stopped(), w.serving()
				w.must(w.Close())
				saved := w.dir + ".saved"
				w.must(os.CopyFS(saved, os.DirFS(w.dir)))
				path := filepath.Join(w.dir, "shop", recordFile)
				text, err := os.ReadFile(path)
				w.must(err)
				w.must(damage.does(path, text))
				before := w.tree()

				told := 0
				w.engine.step = func(call string) {
					if !strings.HasPrefix(call, "traffic") { // the other one is told once more
						told++
					}
				}
				led := w.engine.copy().traffic["stack/shop"]
				w.open()
				w.engine.setHealth("shop-web-r2-1", "healthy") // an event
				w.settle()
				w.refused(damage.says)
				w.settle()
				if after := w.tree(); !maps.Equal(before, after) {
					t.Errorf("the files are %q, were %q", slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before)))
				}
				if told > 0 || !reflect.DeepEqual(led, w.engine.copy().traffic["stack/shop"]) || w.running() != running || w.stopped() != stopped || w.serving() != serving {
					t.Errorf("%d changes; %s run, %s do not, %s serve", told, w.running(), w.stopped(), w.serving())
				}
				w.engine.step = nil
				st, err := w.Status(t.Context(), "other")
				if err != nil || st.Error != "" || len(st.Drift) > 0 {
					t.Errorf("the other one: %+v, %v", st, err)
				}
				w.must(w.Close())
				again := *w // another daemon on what is left
				again.dir = w.dir + ".copy"
				again.engine, again.edge = w.engine.copy(), &fakeEdge{routes: maps.Clone(w.edge.routes)}
				w.must(os.CopyFS(again.dir, os.DirFS(w.dir)))

				// The file comes back.
				w.open()
				w.must(os.RemoveAll(path))
				w.must(os.CopyFS(filepath.Join(w.dir, "restored"), os.DirFS(filepath.Join(saved, "shop"))))
				for _, name := range []string{recordFile, "2.json"} {
					w.must(os.Rename(filepath.Join(w.dir, "restored", name), filepath.Join(w.dir, "shop", name)))
				}
				w.must(os.RemoveAll(filepath.Join(w.dir, "restored")))
				rev, err := w.Rollback(t.Context(), "shop", 0, "", nil)
				if err != nil || rev.Number != 3 || rev.Rollback != 1 {
					t.Errorf("%+v, %v", rev, err)
				}
				w.settle()
				w.is("serving", w.serving(), "other-web-r1-1 web-r1-1 web-r1-2")

				again.open()
				w.must(again.Remove(t.Context(), "shop", true, nil))
				w.is("left", again.running()+again.stopped(), "other-web-r1-1")
				if len(again.engine.traffic["stack/shop"])+len(again.edge.of("stack/shop")) > 0 {
					t.Errorf("left: %v, %v", again.engine.traffic, again.edge.routes)
				}
				for name, labels := range again.engine.networks {
					if labels[labelStack] == "shop" {
						t.Errorf("the network %s is left", name)
					}
				}
				if _, err := os.Stat(filepath.Join(again.dir, "shop")); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the directory is left: %v", err)
				}
				if _, err := again.Status(t.Context(), "shop"); !errors.Is(err, runner.ErrNotFound) {
					t.Error(err)
				}
				w.must(again.Close())
			})
		})
	}
}

// refused has all that would change the stack, or would have to know it, fail and say
// why, and its status say what is there.
func (w *world) refused(says string) {
	w.t.Helper()
	ctx := w.t.Context()
	list, err := w.Stacks(ctx)
	w.must(err)
	if len(list) != 2 || list[1].Name != "shop" || !strings.Contains(list[1].Error, says) || !strings.Contains(list[1].Error, w.dir) {
		w.t.Errorf("listed: %+v", list)
	}
	st, err := w.Status(ctx, "shop")
	w.must(err)
	if len(st.Services) != 1 || st.Services[0].Ready != 2 || st.Services[0].Replicas != 2 || len(st.Services[0].Containers) != 4 || len(st.Services[0].Ports) == 0 {
		w.t.Errorf("its status: %+v", st)
	}
	for what, do := range map[string]func() error{
		"deploy":   func() error { _, err := w.Deploy(ctx, Request{Stack: shop(web("app:3", 1))}, nil); return err },
		"plan":     func() error { _, err := w.Plan(ctx, Request{Stack: shop(web("app:3", 1))}); return err },
		"rollback": func() error { _, err := w.Rollback(ctx, "shop", 1, "", nil); return err },
		"scale":    func() error { _, err := w.Scale(ctx, "shop", map[string]int{"web": 1}, "", nil); return err },
		"cancel":   func() error { return w.Cancel(ctx, "shop") },
		"history":  func() error { _, err := w.History(ctx, "shop"); return err },
		"stack":    func() error { _, err := w.Stack(ctx, "shop", 0); return err },
	} {
		if err := do(); !errors.Is(err, runner.ErrPrecondition) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "berth-runner rm shop") {
			w.t.Errorf("%s: %v", what, err)
		}
	}
}

// A revision before that cannot be read is told of, and keeps nobody from deploying. What
// may be its own stays: it can be returned to when its file is there again.
func TestUnreadableRevision(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		version := func(n string) Stack {
			s := shop(web("app:"+n, 1, func(s *Service) {
				s.Files = []File{{Name: "key", Target: "/key", Mode: 0o400, Content: digestOf("secret " + n)}}
			}))
			s.Keep = 2
			return s
		}
		put := func(n string) {
			_, err := w.Deploy(t.Context(), Request{Stack: version(n), Contents: Contents{digestOf("secret " + n): []byte("secret " + n)}}, nil)
			w.must(err)
		}
		put("1")
		put("2")
		w.settle()
		w.must(w.Close())
		path := filepath.Join(w.dir, "shop", "1.json")
		text, err := os.ReadFile(path)
		w.must(err)
		w.must(os.WriteFile(path, text[:100], 0o600))
		w.open()
		w.settle()
		st, err := w.Status(t.Context(), "shop")
		if err != nil || st.Error != "" || len(st.Drift) != 1 || !strings.HasPrefix(st.Drift[0], "revision 1: "+path+" cannot be read: its end is missing: ") {
			t.Errorf("%+v, %v", st, err)
		}
		if _, err := w.Rollback(t.Context(), "shop", 0, "", nil); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("returned to: %v", err)
		}
		put("3")
		_, err = w.deploy(shop(web("app:4", 1, labels(readyAfter, "never"))))
		if f, ok := errors.AsType[*Failure](err); !ok || f.Revision.Outcome != RolledBack {
			t.Errorf("a broken one: %v", err)
		}
		w.settle()
		w.is("running", w.running(), "web-r3-1")
		w.is("kept", w.stopped(), "web-r1-1 web-r2-1")
		w.must(os.WriteFile(path, text, 0o600))
		rev, err := w.Rollback(t.Context(), "shop", 1, "", nil)
		if err != nil || rev.Number != 5 {
			t.Errorf("%+v, %v", rev, err)
		}
		w.is("serving", w.serving(), "web-r1-1")
		if st, err = w.Status(t.Context(), "shop"); err != nil || len(st.Drift) > 0 {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

// FuzzRecord reads records and revisions of any contents: none makes the rest stumble.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"Name": "shop", "Revisions": [{"Number": 1, "Outcome": "deployed"}, {"Number": 2}], "Current": 1, "Under": {"Revision": 2, "Phase": "switch"}, "Draining": [{"ID": "a"}]}`), false)
	f.Add([]byte(`{"Name": "shop", "Revisions": [{"Number": 2147483647}], "Current": 2147483647, "Under": {"Revision": 1, "Phase": "paused"}}`), false)
	f.Add([]byte(`{"Stack": {"Name": "shop", "Services": [{"Name": "a", "Image": "b", "Needs": [{"Service": "a"}]}]}, "Versions": {"a": "1"}}`), true)
	f.Add([]byte(`{"Stack": null} {}`), true)
	f.Add([]byte("\x00"), false)
	f.Fuzz(func(t *testing.T, text []byte, revision bool) {
		s := store{filepath.Join(t.TempDir(), "shop")}
		name := map[bool]string{false: recordFile, true: "1.json"}[revision]
		if err := errors.Join(os.Mkdir(s.dir, 0o700), os.WriteFile(s.path(name), text, 0o600)); err != nil {
			t.Fatal(err)
		}
		if revision {
			v, err := s.stack(1)
			if err != nil {
				return
			}
			if _, err := versions(v.Stack); err != nil {
				t.Error(err)
			}
			_ = sameVersions(v, v)
			_ = imagesOf(v.Stack)
			return
		}
		r, err := s.load()
		if err != nil {
			if r.Current != 0 || len(r.Revisions) > 0 {
				t.Errorf("%v, and still %+v", err, r)
			}
			return
		}
		for _, number := range []int{r.Current, r.next() - 1} {
			if number != 0 && r.revision(number) == nil {
				t.Errorf("there is no revision %d", number)
			}
		}
		if r.Under != nil {
			_ = r.revision(r.Under.Revision).Number
		}
		if err := s.save(r.clone()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.load(); err != nil {
			t.Errorf("what was written cannot be read: %v", err)
		}
	})
}
