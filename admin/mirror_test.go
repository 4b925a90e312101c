package admin_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/mem"
)

// mirrors is an admin.Mirroring that a test makes.
type mirrors struct {
	run func(ctx context.Context, name string, dry bool, tell func(admin.MirrorStep) error) error
}

func (mirrors) Mirrors(context.Context) ([]admin.Mirror, error) {
	return []admin.Mirror{{Name: "hub", Available: true}}, nil
}

func (mirrors) MirrorJobs(context.Context) ([]admin.MirrorJob, error) {
	return []admin.MirrorJob{{Name: "nightly", Mirror: "hub", Schedule: "every 1h", Last: &admin.MirrorRun{Outcome: "ok"}}}, nil
}

func (m mirrors) RunMirror(ctx context.Context, name string, dry bool, tell func(admin.MirrorStep) error) error {
	if name != "nightly" {
		return admin.ErrMirrorUnknown.With("there is no job %q", name)
	}
	return m.run(ctx, name, dry, tell)
}

// Who may see and run jobs, and what a refusal leaves undone.
func TestMirrorMatrix(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		want         [14]int
		runs         bool
	}{
		//                        none anon alice key token ext  bob  job root group narrow wide token socket
		{"GET", "mirrors", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}, false},
		{"GET", "mirrors/nightly", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}, true},
		{"POST", "mirrors/nightly", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}, true},
		{"POST", "mirrors/other", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 404, 404, 403, 404, 403, 404}, false},
		{"POST", "mirrors/a%2Fb", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 404, 404, 403, 404, 403, 404}, false},
		{"DELETE", "mirrors/nightly", [14]int{405, 405, 405, 405, 405, 405, 405, 405, 405, 405, 405, 405, 405, 405}, false},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			for i, c := range callers() {
				s := newStored(t, mem.NewMeta())
				runs := 0
				s.options.Mirroring = mirrors{func(_ context.Context, _ string, dry bool, tell func(admin.MirrorStep) error) error {
					if runs++; dry != (tt.method == "GET") {
						t.Error("a run that only plans is taken for one that does, or the other way round")
					}
					return tell(admin.MirrorStep{Steps: 1})
				}}
				s.handler = admin.New(s.options)
				w := serve(c.via(s.fixture), request(tt.method, admin.Prefix+tt.path, ""))
				if w.Code != tt.want[i] {
					t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, tt.want[i])
				}
				if ran := runs == 1; ran != (tt.runs && w.Code == 200) {
					t.Errorf("%s: it ran is %v", c.name, ran)
				}
			}
		})
	}
}

// What a run tells comes as it is told, and how it ends, too.
func TestMirrorErrors(t *testing.T) {
	for _, tt := range []struct{ fail, want error }{
		{nil, nil},
		{admin.ErrMirrorRuns, admin.ErrMirrorRuns},
		{admin.ErrMirror.With("2 of 3 tags failed"), admin.ErrMirror},
		{errors.New("secret path"), registry.ErrUnavailable},
	} {
		h := admin.Local(admin.New(admin.Options{Mirroring: mirrors{func(_ context.Context, _ string, _ bool, tell func(admin.MirrorStep) error) error {
			for i := range 3 {
				if err := tell(admin.MirrorStep{Failure: &admin.MirrorFailure{Repo: "hub/app", Tag: fmt.Sprint(i), Reason: "gone"}}); err != nil {
					return err
				}
			}
			return tt.fail
		}}}))
		server := httptest.NewServer(h)
		for by, client := range map[string]*admin.Client{"in process": admin.NewHandlerClient(h), "over a connection": admin.NewClient(server.Client(), server.URL)} {
			got := 0
			err := client.Mirror(t.Context(), "nightly", func(s admin.MirrorStep) error {
				if s.Failure != nil && s.Failure.Tag == fmt.Sprint(got) {
					got++
				}
				return nil
			})
			if !errors.Is(err, tt.want) || got != 3 || err != nil && err.Error() == "secret path" {
				t.Errorf("%s: %d steps, %v, want %v", by, got, err, tt.want)
			}
			for _, name := range []string{"", ".", "..", "a/b", "none"} {
				if err := client.PlanMirror(t.Context(), name, func(admin.MirrorStep) error { return nil }); !errors.Is(err, admin.ErrMirrorUnknown) {
					t.Errorf("%s: job %q: %v", by, name, err)
				}
			}
			if jobs, err := client.MirrorJobs(t.Context()); err != nil || len(jobs) != 1 || jobs[0].Last.Outcome != "ok" || jobs[0].Now != nil {
				t.Errorf("%s: %+v, %v", by, jobs, err)
			}
			if s, err := client.MirrorStatus(t.Context()); err != nil || len(s.Mirrors) != 1 || s.Mirrors[0].Name != "hub" || !s.Mirrors[0].Available || len(s.Jobs) != 1 {
				t.Errorf("%s: %+v, %v", by, s, err)
			}
		}
		server.Close()
	}
	none := admin.NewHandlerClient(admin.Local(admin.New(admin.Options{})))
	if _, err := none.MirrorJobs(t.Context()); !errors.Is(err, registry.ErrRouteUnknown) {
		t.Errorf("a server that has no jobs: %v", err)
	}
	if err := none.Mirror(t.Context(), "nightly", nil); !errors.Is(err, registry.ErrRouteUnknown) {
		t.Errorf("a server that has no jobs: %v", err)
	}
}

// A client that goes ends the run.
func TestMirrorClientGoes(t *testing.T) {
	ended := make(chan error, 1)
	h := admin.Local(admin.New(admin.Options{Mirroring: mirrors{func(ctx context.Context, _ string, _ bool, tell func(admin.MirrorStep) error) error {
		err := tell(admin.MirrorStep{})
		if err == nil {
			<-ctx.Done()
			err = context.Cause(ctx)
		}
		ended <- err
		return err
	}}}))
	server := httptest.NewServer(h)
	defer server.Close()
	for by, client := range map[string]*admin.Client{"in process": admin.NewHandlerClient(h), "over a connection": admin.NewClient(server.Client(), server.URL)} {
		ctx, cancel := context.WithCancel(t.Context())
		err := client.Mirror(ctx, "nightly", func(admin.MirrorStep) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", by, err)
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: the run has ended well", by)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: the run goes on", by)
		}
	}
}
