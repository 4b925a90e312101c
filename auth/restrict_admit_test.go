package auth

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/berth-registry/berth/registry"
)

// unread is a body that nobody is to read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, errors.New("read")
}

// Of who may not push, no manifest is read: a few that are large and slow would
// leave no room for those of others. It is one refusal, as without a body.
func TestManifestOfWhoMayNotPushIsNotRead(t *testing.T) {
	var denied []Denial
	r := Restrict(newLocal(t), policy(t, allow("bob", "team/**", Push)), func(_ context.Context, d Denial) { denied = append(denied, d) })
	server := registry.NewServer(r, registry.ServerOptions{})
	for _, tt := range []struct {
		id   *Identity
		path string
		ref  string
		want int
	}{
		{Anonymous, "team/web/manifests/v1", "v1", http.StatusUnauthorized},
		{alice, "team/web/manifests/v1", "v1", http.StatusForbidden},
		{bob, "other/manifests/v1", "v1", http.StatusForbidden},
		{&Identity{Account: "bob", Scoped: true, Grants: []Grant{}}, "team/web/manifests/v1", "v1", http.StatusUnauthorized},
		{nil, "team/web/manifests/v1", "v1", http.StatusForbidden},
	} {
		denied = nil
		req := httptest.NewRequest(http.MethodPut, "/v2/"+tt.path, io.NopCloser(unread{t}))
		req.ContentLength = registry.MaxManifest
		if tt.id != nil {
			req = req.WithContext(as(req.Context(), tt.id))
		}
		w := httptest.NewRecorder()
		server.ServeHTTP(w, req)
		if w.Code != tt.want {
			t.Errorf("%+v: status %d, want %d", tt.id, w.Code, tt.want)
		}
		if len(denied) != 1 || denied[0].Action != Push || denied[0].Ref != tt.ref {
			t.Errorf("%+v: told of %+v", tt.id, denied)
		}
	}
}
