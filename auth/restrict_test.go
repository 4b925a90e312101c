package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/registrytest"
	"github.com/berth-registry/berth/storage/mem"
)

func newLocal(t *testing.T) *registry.Local {
	t.Helper()
	l, err := registry.NewLocal(t.Context(), mem.NewBlobs(), mem.NewMeta(), registry.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// as returns a context with a session of id, whose challenge repeats what it is
// asked.
func as(ctx context.Context, id *Identity) context.Context {
	return NewContext(ctx, &Session{Identity: id, Challenge: func(scope string, insufficient bool) string {
		return fmt.Sprintf("Test scope=%q insufficient=%v", scope, insufficient)
	}})
}

// Who may do everything has the registry as it is.
func TestRestrictedRegistry(t *testing.T) {
	p := policy(t, allow("alice", "**", Pull|Push|Delete))
	t.Run("Policy", func(t *testing.T) {
		registrytest.Test(t, func(t *testing.T) registry.Registry {
			return session{alice, Restrict(newLocal(t), p, func(_ context.Context, d Denial) { t.Errorf("refused: %+v", d) })}
		})
	})
	t.Run("Final", func(t *testing.T) {
		final := &Identity{Account: "x", Final: true, Scoped: true, Grants: []Grant{{"**", Pull | Push | Delete}}}
		registrytest.Test(t, func(t *testing.T) registry.Registry { return session{final, Restrict(newLocal(t), &Live{}, nil)} })
	})
}

// calls lists every method of a registry, called with what makes sense to it.
func calls(ctx context.Context, r registry.Registry) map[string]func() (results []reflect.Value) {
	all := map[string]func() []reflect.Value{}
	d := digest.FromString("x")
	typ := reflect.TypeFor[registry.Registry]()
	for method := range typ.Methods() {
		m := reflect.ValueOf(r).MethodByName(method.Name)
		var args []reflect.Value
		for in := range m.Type().Ins() {
			switch in {
			case reflect.TypeFor[context.Context]():
				args = append(args, reflect.ValueOf(ctx))
			case reflect.TypeFor[string]():
				args = append(args, reflect.ValueOf("some/repo"))
			case reflect.TypeFor[digest.Digest]():
				args = append(args, reflect.ValueOf(d))
			case reflect.TypeFor[io.Reader]():
				args = append(args, reflect.ValueOf(strings.NewReader("x")))
			default:
				args = append(args, reflect.Zero(in))
			}
		}
		all[method.Name] = func() []reflect.Value { return m.Call(args) }
	}
	return all
}

// outcome returns the error that a method ended with, and how much it listed.
func outcome(results []reflect.Value) (listed int, err error) {
	last := results[len(results)-1]
	if last.Kind() != reflect.Func {
		err, _ = reflect.TypeAssert[error](last)
		return 0, err
	}
	for _, e := range last.Seq2() {
		if e.IsNil() {
			listed++
		} else {
			err = e.Interface().(error)
		}
	}
	return listed, err
}

// untouchable is a registry none of whose methods may be called: they would panic.
type untouchable struct{ registry.Registry }

// Whatever method a registry has or gets: somebody who may nothing, and a request
// that nobody has vouched for, do not reach it.
func TestRestrictFailsClosed(t *testing.T) {
	var denied []Denial
	r := Restrict(untouchable{}, policy(t), func(_ context.Context, d Denial) { denied = append(denied, d) })
	for name, ctx := range map[string]context.Context{
		"NoSession":   t.Context(),
		"NoIdentity":  NewContext(t.Context(), &Session{}),
		"Anonymous":   as(t.Context(), Anonymous),
		"Alice":       as(t.Context(), alice),
		"Final":       as(t.Context(), &Identity{Account: "x", Final: true}),
		"FinalScoped": as(t.Context(), &Identity{Account: "x", Final: true, Scoped: true, Grants: []Grant{}}),
	} {
		for method, call := range calls(ctx, r) {
			t.Run(name+"/"+method, func(t *testing.T) {
				denied = nil
				listed, err := outcome(call())
				signed := name == "Alice" || name == "Final" || name == "FinalScoped"
				silent := signed && name != "FinalScoped" && (method == "Repositories" || method == "Search" || method == "Referrers")
				if listed > 0 || (err == nil) != silent {
					t.Errorf("%d listed, error %v", listed, err)
				}
				if want := !silent || method == "Referrers"; (len(denied) == 1) != want || len(denied) > 1 {
					t.Errorf("told of %+v", denied)
				}
				if errors.Is(err, errHidden) {
					t.Error("an error of this package's own is shown")
				}
			})
		}
	}
	for method, call := range calls(t.Context(), refuseAll{}) {
		if _, err := outcome(call()); !errors.Is(err, registry.ErrDenied) {
			t.Errorf("%s of refuseAll: %v", method, err)
		}
	}
	// Every method is the wrapper's own or refuses: nothing of the registry within
	// shows through.
	typ := reflect.TypeFor[restricted]()
	for f := range typ.Fields() {
		if f.Anonymous && f.Type != reflect.TypeFor[refuseAll]() {
			t.Errorf("%s is embedded", f.Name)
		}
	}
}

// fill puts the same into each repository: a blob, a manifest tagged v1, and a
// manifest that refers to it.
func fill(t *testing.T, r registry.Registry, repos ...string) (blob, manifest digest.Digest) {
	t.Helper()
	for _, repo := range repos {
		data := []byte("{}")
		blob = digest.FromBytes(data)
		if _, err := r.PushBlob(t.Context(), repo, blob, strings.NewReader("{}")); err != nil {
			t.Fatal(err)
		}
		const image = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2},"layers":[]%s}`
		m := fmt.Appendf(nil, image, blob, "")
		manifest = digest.FromBytes(m)
		if _, err := r.PushManifest(t.Context(), repo, registry.ManifestPush{Data: m, Digest: manifest, Tags: []string{"v1"}}); err != nil {
			t.Fatal(err)
		}
		m = fmt.Appendf(nil, image, blob, fmt.Sprintf(`,"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}`, manifest, len(m)))
		if _, err := r.PushManifest(t.Context(), repo, registry.ManifestPush{Data: m, Digest: digest.FromBytes(m)}); err != nil {
			t.Fatal(err)
		}
	}
	return blob, manifest
}

// reads are the ways to read of a repository.
func reads(ctx context.Context, r registry.Registry, repo string, blob, manifest digest.Digest) map[string]func() error {
	last := func(seq iter.Seq2[string, error]) (err error) {
		for _, err = range seq {
		}
		return err
	}
	return map[string]func() error{
		"Blob":     func() error { _, _, err := r.Blob(ctx, repo, blob); return err },
		"StatBlob": func() error { _, err := r.StatBlob(ctx, repo, blob); return err },
		"Manifest": func() error { _, _, err := r.Manifest(ctx, repo, registry.Reference{Digest: manifest}); return err },
		"Tag":      func() error { _, _, err := r.Manifest(ctx, repo, registry.Reference{Tag: "v1"}); return err },
		"StatManifest": func() error {
			_, err := r.StatManifest(ctx, repo, registry.Reference{Digest: manifest})
			return err
		},
		"StatTag": func() error { _, err := r.StatManifest(ctx, repo, registry.Reference{Tag: "v1"}); return err },
		"Tags":    func() error { return last(r.Tags(ctx, repo, "")) },
		"Referrers": func() error {
			n := 0
			for _, err := range r.Referrers(ctx, repo, manifest, "", "") {
				if err != nil {
					return err
				}
				n++
			}
			return fmt.Errorf("%d referrers", n)
		},
	}
}

// Somebody who may not pull a repository cannot tell it from one that is not
// there.
func TestHiddenIsMissing(t *testing.T) {
	local := newLocal(t)
	blob, manifest := fill(t, local, "secret/app", "open/app")
	told := 0
	r := Restrict(local, policy(t, allow("alice", "open/** none/**", Pull)), func(context.Context, Denial) { told++ })
	ctx := as(t.Context(), alice)
	hidden, missing := reads(ctx, r, "secret/app", blob, manifest), reads(t.Context(), local, "secret/gone", blob, manifest)
	open := reads(ctx, r, "open/app", blob, manifest)
	for name := range hidden {
		got, want := hidden[name](), missing[name]()
		text := strings.ReplaceAll(want.Error(), "secret/gone", "secret/app")
		var a, b *registry.Error
		if got.Error() != text || errors.As(got, &a) != errors.As(want, &b) || a != b {
			t.Errorf("%s: hidden is %v (%+v), missing %v (%+v)", name, got, a, text, b)
		}
		if err := open[name](); err != nil && err.Error() != "1 referrers" {
			t.Errorf("%s of what may be read: %v", name, err)
		}
	}
	if told != len(hidden) {
		t.Errorf("told of %d refusals, want %d", told, len(hidden))
	}
}

// header is the challenge that an error brings.
func header(err error) string {
	var h interface{ Header() http.Header }
	if !errors.As(err, &h) {
		return ""
	}
	return h.Header().Get("WWW-Authenticate")
}

func TestRefusals(t *testing.T) {
	local := newLocal(t)
	fill(t, local, "team/app", "public/app")
	var denied []Denial
	r := Restrict(local, policy(t,
		allow("everyone", "public/**", Pull),
		allow("group:dev", "team/**", Pull|Push),
	), func(_ context.Context, d Denial) { denied = append(denied, d) })
	scoped := &Identity{Account: "alice", Groups: alice.Groups, Scoped: true, Grants: []Grant{{"team/app", Pull}}}
	key := &Identity{Account: "alice", Groups: alice.Groups, Key: "k", Grants: []Grant{{"team/app", Pull}}}
	token := &Identity{Scoped: true, Grants: []Grant{}} // of nobody
	push := func(repo string) func(context.Context) error {
		return func(ctx context.Context) error { _, err := r.StartUpload(ctx, repo, digest.SHA256); return err }
	}
	pull := func(repo string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := r.StatManifest(ctx, repo, registry.Reference{Tag: "v1"})
			return err
		}
	}
	del := func(ctx context.Context) error { return r.DeleteTag(ctx, "team/app", "v1") }
	const insufficient = "insufficient=true"
	for _, tt := range []struct {
		name      string
		id        *Identity
		do        func(context.Context) error
		want      error // nil: allowed
		text      string
		challenge string
		denial    Denial
	}{
		{
			"AnonymousPull", Anonymous, pull("team/app"), registry.ErrUnauthorized, "authentication required",
			`Test scope="repository:team/app:pull" insufficient=false`,
			Denial{Repo: "team/app", Action: Pull, Ref: "v1", Rule: -1, Anonymous: true},
		},
		{
			"AnonymousPullMissing", Anonymous, pull("team/gone"), registry.ErrUnauthorized, "authentication required",
			`Test scope="repository:team/gone:pull" insufficient=false`,
			Denial{Repo: "team/gone", Action: Pull, Ref: "v1", Rule: -1, Anonymous: true},
		},
		{
			"AnonymousPush", Anonymous, push("public/app"), registry.ErrUnauthorized, "authentication required",
			`Test scope="repository:public/app:pull,push" insufficient=false`,
			Denial{Repo: "public/app", Action: Push, Rule: -1, Anonymous: true},
		},
		{
			"AnonymousDelete", Anonymous, del, registry.ErrUnauthorized, "",
			`Test scope="repository:team/app:delete" insufficient=false`,
			Denial{Repo: "team/app", Action: Delete, Ref: "v1", Rule: -1, Anonymous: true},
		},
		{"AnonymousMay", Anonymous, pull("public/app"), nil, "", "", Denial{}},
		{
			"AnonymousTokenTooNarrow", token, pull("public/app"), registry.ErrUnauthorized, "the token's scope does not let you pull repository public/app",
			`Test scope="repository:public/app:pull" ` + insufficient,
			Denial{Repo: "public/app", Action: Pull, Ref: "v1", Insufficient: true},
		},
		{
			"AnonymousToken", token, pull("team/app"), registry.ErrUnauthorized, "authentication required",
			`Test scope="repository:team/app:pull" insufficient=false`,
			Denial{Repo: "team/app", Action: Pull, Ref: "v1", Rule: -1, Anonymous: true},
		},
		{"Push", alice, push("public/app"), registry.ErrDenied, "you may not push to repository public/app", "", Denial{Repo: "public/app", Action: Push, Rule: -1}},
		{"Delete", alice, del, registry.ErrDenied, "you may not delete from repository team/app", "", Denial{Repo: "team/app", Action: Delete, Ref: "v1", Rule: -1}},
		{"May", alice, push("team/app"), nil, "", "", Denial{}},
		{
			"TokenTooNarrow", scoped, push("team/app"), registry.ErrUnauthorized, "the token's scope does not let you push to repository team/app",
			`Test scope="repository:team/app:pull,push" ` + insufficient,
			Denial{Repo: "team/app", Action: Push, Rule: 1, Insufficient: true},
		},
		{"TokenAndPolicyRefuses", scoped, del, registry.ErrDenied, "you may not delete from repository team/app", "", Denial{Repo: "team/app", Action: Delete, Ref: "v1", Rule: -1}},
		{"Token", scoped, pull("team/app"), nil, "", "", Denial{}},
		{
			"TokenOfKey", &Identity{Account: "alice", Groups: alice.Groups, Scoped: true, Grants: []Grant{}, Bounds: key.Grants}, push("team/app"),
			registry.ErrDenied, "you may not push to repository team/app", "",
			Denial{Repo: "team/app", Action: Push, Rule: 1},
		},
		{
			"TokenOfKeyHides", &Identity{Account: "alice", Groups: alice.Groups, Scoped: true, Grants: []Grant{}, Bounds: key.Grants}, pull("public/app"),
			registry.ErrManifestUnknown, "", "",
			Denial{Repo: "public/app", Action: Pull, Ref: "v1", Rule: 0},
		},
		{"KeyTooNarrow", key, push("team/app"), registry.ErrDenied, "you may not push to repository team/app", "", Denial{Repo: "team/app", Action: Push, Rule: 1}},
		{"KeyHides", key, pull("public/app"), registry.ErrManifestUnknown, "tag v1 is unknown to repository public/app", "", Denial{Repo: "public/app", Action: Pull, Ref: "v1", Rule: 0}},
		{"Key", key, pull("team/app"), nil, "", "", Denial{}},
		{
			"FinalTooNarrow", &Identity{Final: true, Scoped: true, Grants: []Grant{{"x", Pull}}}, pull("public/app"), registry.ErrUnauthorized, "",
			`Test scope="repository:public/app:pull" ` + insufficient,
			Denial{Repo: "public/app", Action: Pull, Ref: "v1", Rule: -1, Insufficient: true},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			denied = nil
			err := tt.do(as(t.Context(), tt.id))
			if tt.want == nil {
				if err != nil || denied != nil {
					t.Errorf("refused: %v, %+v", err, denied)
				}
				return
			}
			if !errors.Is(err, tt.want) || tt.text != "" && err.Error() != tt.text {
				t.Errorf("error %v, want %v %q", err, tt.want, tt.text)
			}
			if got := header(err); got != tt.challenge {
				t.Errorf("challenge %q, want %q", got, tt.challenge)
			}
			if len(denied) != 1 || denied[0] != tt.denial {
				t.Errorf("told of %+v, want %+v", denied, tt.denial)
			}
		})
	}
	ctx := NewContext(t.Context(), &Session{Identity: Anonymous})
	if err := pull("team/app")(ctx); !errors.Is(err, registry.ErrUnauthorized) || header(err) != "" {
		t.Errorf("without a challenge: %v", err)
	}
}

func TestMount(t *testing.T) {
	local := newLocal(t)
	blob, _ := fill(t, local, "secret/app", "open/app")
	r := Restrict(local, policy(t,
		forbid("carol", "secret/**", Pull),
		allow("alice carol", "mine/**", Pull|Push),
		allow("alice", "open/**", Pull),
		allow("carol root", "**", Pull|Push),
	), nil)
	carol, root := &Identity{Account: "carol"}, &Identity{Account: "root"}
	limited := &Identity{Account: "root", Grants: []Grant{{"mine/**", Push}, {"open/*", Pull}}}
	for _, tt := range []struct {
		name       string
		id         *Identity
		repo, from string
		want       error
	}{
		{"Allowed", alice, "mine/a", "open/app", nil},
		{"Hidden", alice, "mine/a", "secret/app", registry.ErrBlobUnknown},
		{"Missing", alice, "mine/a", "open/gone", registry.ErrBlobUnknown},
		{"NoPush", alice, "open/b", "open/app", registry.ErrDenied},
		{"Anywhere", alice, "mine/a", "", registry.ErrBlobUnknown},
		{"AnywhereButOne", carol, "mine/a", "", registry.ErrBlobUnknown},
		{"AnywhereForAll", root, "mine/a", "", nil},
		{"AnywhereLimited", limited, "mine/a", "", registry.ErrBlobUnknown},
		{"Limited", limited, "mine/a", "open/app", nil},
		{"LimitedHidden", limited, "mine/a", "secret/app", registry.ErrBlobUnknown},
		{"TokenTooNarrow", &Identity{Account: "alice", Scoped: true, Grants: []Grant{{"mine/a", Push}}}, "mine/a", "open/app", registry.ErrUnauthorized},
		{"TokenHidden", &Identity{Account: "alice", Scoped: true, Grants: []Grant{{"mine/a", Push}}}, "mine/a", "secret/app", registry.ErrBlobUnknown},
		{
			"TokenOfLimited", &Identity{Account: "root", Scoped: true, Grants: []Grant{{"mine/a", Push}}, Bounds: limited.Grants},
			"mine/a", "secret/app", registry.ErrBlobUnknown,
		},
		{"Anonymous", Anonymous, "mine/a", "open/app", registry.ErrUnauthorized},
	} {
		_, err := r.MountBlob(as(t.Context(), tt.id), tt.repo, tt.from, blob)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		const scope = `scope="repository:mine/a:pull,push repository:open/app:pull"`
		if errors.Is(err, registry.ErrUnauthorized) && !strings.Contains(header(err), scope) {
			t.Errorf("%s: challenge %q, want one with %s", tt.name, header(err), scope)
		}
		if errors.Is(err, registry.ErrBlobUnknown) {
			gone := digest.FromString("gone")
			_, missing := local.MountBlob(t.Context(), tt.repo, tt.from, gone)
			if want := strings.ReplaceAll(missing.Error(), string(gone), string(blob)); err.Error() != want {
				t.Errorf("%s: %v, what is missing %v", tt.name, err, want)
			}
		}
	}
}
