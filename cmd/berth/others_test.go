package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/retention"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/copying"
	"github.com/berth-registry/berth/registry/upstream"
	"github.com/berth-registry/berth/storage/mem"
)

// TestSpare checks that jobs leave the last of what an upstream allows to those who
// pull, and find out when there is more again.
func TestSpare(t *testing.T) {
	remaining := "11"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ratelimit-limit", "100;w=21600")
		w.Header().Set("ratelimit-remaining", remaining+";w=21600")
		w.WriteHeader(http.StatusNotFound)
	}))
	defer s.Close()
	u, err := newUpstream("mirror", "hub", s.URL, config.Login{Provider: "none"}, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	ask := func() {
		_, err := u.Client().StatManifest(t.Context(), "a", registry.Reference{Tag: "b"})
		if !errors.Is(err, registry.ErrManifestUnknown) {
			t.Fatal(err)
		}
	}
	now := time.Now()
	if err := spare(u, now); err != nil {
		t.Errorf("before anything is known: %v", err)
	}
	if ask(); spare(u, now) != nil {
		t.Errorf("with 11 of 100 left: %v", spare(u, now))
	}
	remaining = "10"
	ask()
	err = spare(u, now)
	limited, ok := errors.AsType[*upstream.Unavailable](err)
	if !ok || !errors.Is(err, registry.ErrTooMany) || limited.Header().Get("Retry-After") == "" {
		t.Errorf("with 10 of 100 left: %v", err)
	}
	if err := u.Unavailable(); err != nil {
		t.Errorf("those who wait do not get it: %v", err)
	}
	if err := spare(u, now.Add(lookAgain+time.Minute)); err != nil {
		t.Errorf("when it may be otherwise: %v", err)
	}
}

// TestJobsKeep checks that what a job finds to be there counts as pulled, so that no
// cache loses what it is to have.
func TestJobsKeep(t *testing.T) {
	meta := mem.NewMeta()
	local, err := registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	local.SetCaches([]registry.Cache{{Prefix: "hub", Keep: time.Hour}})
	pulls := retention.NewPulls(meta, retention.PullOptions{})
	pulls.SetCached(local.Cached)
	data := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	d := digest.FromBytes(data)
	if _, err := local.PushManifest(t.Context(), "hub/a", registry.ManifestPush{Data: data, Digest: d, Tags: []string{"1"}, Sparse: true}); err != nil {
		t.Fatal(err)
	}
	whole, err := copying.Complete(t.Context(), jobTarget{pulls.Wrap(local), local}, "hub/a", d, nil)
	if err != nil || !whole {
		t.Fatal(whole, err)
	}
	if !pulls.Lately("hub/a", d, time.Now().Add(-time.Minute)) {
		t.Error("it does not count as pulled")
	}
}
