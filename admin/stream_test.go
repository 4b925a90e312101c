package admin_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/mem"
)

// retainer is an admin.Retention that a test makes.
type retainer struct {
	plan func(ctx context.Context, each func(admin.RetainedTag) error) error
	keep func(ctx context.Context, each func(admin.RetentionStep)) error
}

func (r retainer) PlanTags(ctx context.Context, _ func(string) bool, _ bool, each func(admin.RetainedTag) error) error {
	return r.plan(ctx, each)
}

func (r retainer) RetainTags(ctx context.Context, _ func(string) bool, each func(admin.RetentionStep)) error {
	return r.keep(ctx, each)
}

func (r retainer) RetentionRules() int { return 1 }

// clients are clients of a server: in this process, and over a connection.
func clients(t *testing.T, r admin.Retention) map[string]*admin.Client {
	h := admin.Local(admin.New(admin.Options{Retention: r}))
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return map[string]*admin.Client{
		"in process": admin.NewHandlerClient(h), "over a connection": admin.NewClient(server.Client(), server.URL),
	}
}

// A long answer comes as it is made, and its end is told, be it an error.
func TestLongAnswer(t *testing.T) {
	for name, c := range map[string]struct{ fail, want error }{
		"ends": {}, "fails": {registry.ErrDenied.With("enough"), registry.ErrDenied}, "breaks": {errors.New("secret path"), registry.ErrUnavailable},
	} {
		const tags = 1000
		next := make(chan struct{}, tags)
		for by, client := range clients(t, retainer{plan: func(ctx context.Context, each func(admin.RetainedTag) error) error {
			for range tags {
				if err := each(admin.RetainedTag{Tag: "v1"}); err != nil {
					return err
				}
			}
			select {
			case <-next: // what was told so far has come
			case <-ctx.Done():
				return ctx.Err()
			}
			return c.fail
		}}) {
			t.Run(name+" "+by, func(t *testing.T) {
				got := 0
				err := client.PlanRetention(t.Context(), "", true, func(s admin.RetentionStep) error {
					if got += len(s.Tags); got == tags {
						next <- struct{}{}
					}
					return nil
				})
				if !errors.Is(err, c.want) || got != tags {
					t.Errorf("%d tags, %v", got, err)
				}
				if err != nil && strings.Contains(err.Error(), "secret") {
					t.Errorf("told %v", err)
				}
			})
		}
	}
}

// A client that goes, or has enough, ends what the server does.
func TestLongAnswerGivenUp(t *testing.T) {
	enough := errors.New("enough")
	ended := make(chan error, 1)
	for by, client := range clients(t, retainer{keep: func(ctx context.Context, each func(admin.RetentionStep)) error {
		for ctx.Err() == nil {
			each(admin.RetentionStep{Removed: 1})
		}
		ended <- ctx.Err()
		return ctx.Err()
	}}) {
		t.Run(by, func(t *testing.T) {
			err := client.Retain(t.Context(), "", func(s admin.RetentionStep) error {
				if s.Removed > 0 {
					return enough
				}
				return nil
			})
			if !errors.Is(err, enough) {
				t.Errorf("got %v", err)
			}
			if err := <-ended; err == nil {
				t.Error("the server did not notice")
			}
			ctx, cancel := context.WithCancel(t.Context())
			err = client.Retain(ctx, "", func(s admin.RetentionStep) error {
				if s.Removed > 0 {
					cancel()
				}
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("given up: %v", err)
			}
			if err := <-ended; err == nil {
				t.Error("the server did not notice")
			}
		})
	}
}

// An answer that is cut off is no answer, however well it began.
func TestLongAnswerCutOff(t *testing.T) {
	for name, body := range map[string]string{
		"empty": "", "no end": "{\"rules\":1}\n", "half a line": "{\"rules\":1}\n{\"ta", "no JSON": "<html>\n",
		"a line without end": strings.Repeat("a", 2<<20),
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
			defer server.Close()
			err := admin.NewClient(server.Client(), server.URL).PlanRetention(t.Context(), "", true, func(admin.RetentionStep) error { return nil })
			if err == nil {
				t.Error("no error")
			}
		})
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("\n\n{\"rules\":1}\n"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	err := admin.NewClient(server.Client(), server.URL).PlanRetention(t.Context(), "", true, func(admin.RetentionStep) error { return nil })
	if !errors.Is(err, admin.ErrCutOff) {
		t.Errorf("got %v", err)
	}
}

// Who does not administer the registry neither sees nor removes tags by its rules.
func TestRetentionAccess(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		want := []int{401, 401, 403, 403, 403, 403, 403, 403, 404, 404, 403, 404, 403, 404} // 404: this server has none
		for i, who := range callers() {
			f := newFixture(t, mem.NewMeta())
			if w := serve(who.via(f), request(method, admin.Prefix+"retention", "")); w.Code != want[i] {
				t.Errorf("%s by %s: %d, want %d", method, who.name, w.Code, want[i])
			}
		}
	}
}
