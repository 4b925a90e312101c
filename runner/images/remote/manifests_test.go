package remote

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

func TestHostileManifests(t *testing.T) {
	t.Parallel()
	manifest := []byte(`{"schemaVersion":2}`)
	d := digest.FromBytes(manifest)
	answer := func(get bool, header map[string]string, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if get && r.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			for k, v := range header {
				w.Header().Set(k, v)
			}
			_, _ = w.Write(body)
		}
	}
	for _, test := range []struct {
		name   string
		ref    string
		handle http.HandlerFunc
		want   string
	}{
		{"no HEAD", "v1", answer(true, nil, manifest), ""},
		{"no HEAD, by digest", d.String(), answer(true, nil, manifest), ""},
		{"no digest", "v1", answer(false, nil, manifest), ""},
		{"wrong digest", d.String(), answer(false, map[string]string{"Docker-Content-Digest": digest.FromString("x").String()}, manifest), "the registry has"},
		{"wrong content", d.String(), answer(true, nil, []byte("{}")), "manifest verification failed for digest " + d.String()},
		{"endless", "v1", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			for r.Method == http.MethodGet {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, "more than the 4194304 bytes allowed"},
		{"large", "v1", answer(false, map[string]string{"Docker-Content-Digest": d.String(), "Content-Length": "5000000"}, nil), "more than the 4194304 bytes allowed"},
		{"old", "v1", answer(true, map[string]string{"Content-Type": typeDockerSigned}, manifest), "schema 1 are not supported"},
		{"no type", "v1", answer(true, map[string]string{"Content-Type": ";"}, manifest), "does not say what kind"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, test.handle)
			desc, err := f.repo(t, Options{}).Resolve(t.Context(), test.ref)
			switch {
			case test.want != "":
				wantError(t, err, nil, test.want)
			case err != nil || desc.Digest != d || desc.Size != int64(len(manifest)) || desc.MediaType != ocispec.MediaTypeImageManifest:
				t.Errorf("got %+v, %v", desc, err)
			}
		})
	}
	f := newFake(t, answer(false, nil, manifest))
	_, err := f.repo(t, Options{}).Fetch(t.Context(), "", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 5 << 20}, 0)
	wantError(t, err, runner.ErrInvalid, "more than the 4194304 allowed")
}

func TestTags(t *testing.T) {
	t.Parallel()
	other := newFake(t, func(http.ResponseWriter, *http.Request) {})
	for _, test := range []struct{ name, next, want string }{
		{"pages", `</v2/app/tags/list?n=1000&last=%d>; rel="next"`, ""},
		{"for ever", `</v2/app/tags/list?n=1000&last=0>; rel="next"`, ""},
		{"elsewhere", "<" + other.URL + `/v2/app/tags/list>; rel="next"`, "goes on at another host"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
				n, _ := strconv.Atoi(r.URL.Query().Get("last"))
				if n < 5 {
					link := test.next
					if strings.Contains(link, "%d") {
						link = fmt.Sprintf(link, n+1)
					}
					w.Header().Set("Link", link)
				}
				fmt.Fprintf(w, `{"tags":["t%d"]}`, n)
			})
			var tags []string
			var err error
			for tag, e := range f.repo(t, Options{}).Tags(t.Context()) {
				tags, err = append(tags, tag), e
			}
			switch {
			case test.want != "":
				wantError(t, err, nil, test.want)
			case err != nil:
				t.Error(err)
			case test.name == "pages" && strings.Join(tags, " ") != "t0 t1 t2 t3 t4 t5":
				t.Errorf("got %q", tags)
			}
		})
	}
}
