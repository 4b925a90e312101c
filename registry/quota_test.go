package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

func (c *collected) try(repo, text string) error {
	_, err := c.PushBlob(c.t.Context(), repo, digest.FromString(text), strings.NewReader(text))
	return err
}

func (c *collected) wantQuota(what string, err error, text string) {
	c.t.Helper()
	if !errors.Is(err, registry.ErrQuota) || !strings.Contains(err.Error(), text) {
		c.t.Errorf("%s: %v; want it refused with %q", what, err, text)
	}
}

// TestQuotaBytes fills a quota in every way that there is.
func TestQuotaBytes(t *testing.T) {
	ctx := t.Context()
	c := newCollected(t)
	c.SetQuotas([]registry.Quota{under("a", 2000, 0)})
	kilo, half := strings.Repeat("k", 1000), strings.Repeat("h", 500)
	c.blob("a/x", kilo)
	c.blob("b/x", half)
	c.blob("a/y", kilo) // which the quota has already
	if _, err := c.MountBlob(ctx, "a/y", "b/x", digest.FromString(half)); err != nil {
		t.Errorf("mount within the quota: %v", err)
	}
	other := strings.Repeat("o", 501)
	const refused = "quota a/**: 1.5 kB of 2 kB used, this push needs 501 B more"
	c.wantQuota("push", c.try("a/x", other), refused)
	c.blob("b/x", other)
	_, err := c.MountBlob(ctx, "a/x", "b/x", digest.FromString(other))
	c.wantQuota("mount", err, refused)
	_, err = c.MountBlob(ctx, "a/x", "", digest.FromString(other))
	c.wantQuota("mount from anywhere", err, refused)
	if _, err := c.MountBlob(ctx, "a/x", "a/y", digest.FromString(half)); err != nil {
		t.Errorf("mount of what the quota has: %v", err)
	}
	c.blob("a/z", kilo)

	id, err := c.StartUpload(ctx, "a/x", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteUpload(ctx, "a/x", id, registry.Chunk{}, strings.NewReader(other)); err != nil { // nobody knows yet what it will be
		t.Fatal(err)
	}
	_, err = c.CommitUpload(ctx, "a/x", id, registry.Chunk{}, strings.NewReader(""), digest.FromString(other))
	c.wantQuota("upload", err, refused)
	if _, err := c.UploadSize(ctx, "a/x", id); !errors.Is(err, registry.ErrUploadUnknown) {
		t.Errorf("the refused upload keeps its bytes: %v", err)
	}
	_, err = c.image("a/x", nil, "", c.blob("a/x", strings.Repeat("l", 400)))
	c.wantQuota("manifest", err, "this push needs")
	checkCounts(t, "when it is full", c.Local, c.meta, under("a", 2000, 0))

	// It frees what is deleted, as soon as no other repository of it has it.
	if err := c.DeleteBlob(ctx, "a/x", digest.FromString(half)); err != nil {
		t.Fatal(err)
	}
	if err := c.try("a/x", strings.Repeat("n", 200)); !errors.Is(err, registry.ErrQuota) {
		t.Errorf("a push when another repository holds what was deleted: %v", err)
	}
	c.pass(30 * time.Hour)
	c.collect(false)
	c.blob("a/x", other)

	// A tighter one refuses all, but what takes from it.
	c.SetQuotas([]registry.Quota{under("a", 10, 0), under("a", 0, 0)})
	c.wantQuota("push", c.try("a/x", "n"), "quota a/**: 501 B of 10 B used, this push needs 1 B more")
	c.blob("a/x", "")
	c.blob("a/y", other)
	if err := c.DeleteBlob(ctx, "a/x", digest.FromString(other)); err != nil {
		t.Error(err)
	}
	checkCounts(t, "at the end", c.Local, c.meta, under("a", 10, 0))
}

// TestQuotaTags counts tags: new ones, not those that move.
func TestQuotaTags(t *testing.T) {
	ctx := t.Context()
	c := newCollected(t)
	c.SetQuotas([]registry.Quota{under("a", 0, 2)})
	one := must[digest.Digest](t)(c.image("a/x", []string{"v1"}, "", c.blob("a/x", "one")))
	must[digest.Digest](t)(c.image("a/y", []string{"v1"}, "", c.blob("a/y", "one")))
	_, err := c.image("a/x", []string{"v2", "v1"}, "", c.blob("a/x", "two"))
	c.wantQuota("a tag more", err, "quota a/**: 2 of 2 tags used, this push needs 1 more")
	must[digest.Digest](t)(c.image("a/x", []string{"v1", "v1"}, "", c.blob("a/x", "two"))) // it moves
	if !c.has("a/x", one) {
		t.Error("what the tag named is gone")
	}
	if err := c.DeleteTag(ctx, "a/y", "v1"); err != nil {
		t.Fatal(err)
	}
	_, err = c.image("a/x", []string{"v2", "v3"}, "", c.blob("a/x", "three"))
	c.wantQuota("two tags more", err, "1 of 2 tags used, this push needs 2 more")
	must[digest.Digest](t)(c.image("a/x", []string{"v3"}, "", c.blob("a/x", "three")))
	checkCounts(t, "at the end", c.Local, c.meta, under("a", 0, 2))
}

// TestQuotaBeforeBytes refuses what says how long it is before it is read, whatever
// it says.
func TestQuotaBeforeBytes(t *testing.T) {
	ctx := t.Context()
	for _, length := range []int64{96, math.MaxInt64, math.MaxInt64 - 1} {
		c := newCollected(t)
		c.SetQuotas([]registry.Quota{under("a", 100, 0), under("", math.MaxInt64, math.MaxInt), under("b", math.MinInt64, math.MinInt)})
		d := digest.FromString("long")
		c.blob("a/y", "there")
		body := &sized{Reader: strings.NewReader("x"), n: length}
		_, err := c.PushBlob(ctx, "a/x", d, body)
		c.wantQuota("push", err, "quota a/**: 5 B of 100 B used")
		id, err := c.StartUpload(ctx, "a/x", digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.WriteUpload(ctx, "a/x", id, registry.Chunk{}, strings.NewReader("12")); err != nil {
			t.Fatal(err)
		}
		_, err = c.WriteUpload(ctx, "a/x", id, registry.Chunk{}, body)
		c.wantQuota("chunk", err, "quota a/**: 5 B of 100 B used")
		_, err = c.CommitUpload(ctx, "a/x", id, registry.Chunk{}, body, d)
		c.wantQuota("last chunk", err, "quota a/**: 5 B of 100 B used")
		if body.read {
			t.Error("it was read")
		}
		unknown := &sized{Reader: strings.NewReader("long"), n: -1}
		if _, err := c.PushBlob(ctx, "a/x", d, unknown); err != nil {
			t.Errorf("of unknown length: %v", err)
		}
		if _, err := c.PushBlob(ctx, "b/x", d, &sized{Reader: strings.NewReader("long"), n: math.MinInt64}); err != nil {
			t.Errorf("of no length: %v", err)
		}
	}
}

// TestQuotaOverHTTP tells the client.
func TestQuotaOverHTTP(t *testing.T) {
	c := newCollected(t)
	c.SetQuotas([]registry.Quota{under("a", 100, 0)})
	s := httptest.NewServer(registry.NewServer(c.Local, registry.ServerOptions{}))
	t.Cleanup(s.Close)
	data := bytes.Repeat([]byte("x"), 1000)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v2/a/x/blobs/uploads/?digest="+string(digest.FromBytes(data)), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, _ = body.ReadFrom(resp.Body)
	if want := `{"errors":[{"code":"DENIED","message":"quota a/**: 0 B of 100 B used, this push needs 1 kB more"}]}`; resp.StatusCode != http.StatusForbidden || body.String() != want {
		t.Errorf("%d %s", resp.StatusCode, &body)
	}
}

// TestQuotaRace has many pushes at once: together they do not get over it, and what
// is refused leaves no bytes behind.
func TestQuotaRace(t *testing.T) {
	c := newCollected(t)
	quotas := []registry.Quota{under("a", 10_000, 5), under("", 13_000, 0)}
	c.SetQuotas(quotas)
	var work sync.WaitGroup
	for i := range 40 {
		work.Go(func() {
			text := strings.Repeat(fmt.Sprintf("%03d ", i), 250)
			repo := fmt.Sprintf("%c/x%d", "ab"[i%2], i%7)
			if err := c.try(repo, text); err != nil && !errors.Is(err, registry.ErrQuota) {
				t.Error(err)
			}
			s := newSteps(c.Local, uint64(i))
			if err := s.image(t.Context(), repo, "layer", []string{fmt.Sprint("v", i)}); err != nil && !errors.Is(err, registry.ErrQuota) {
				t.Error(err)
			}
		})
	}
	work.Wait()
	checkCounts(t, "after the race", c.Local, c.meta, quotas...)
	for _, q := range kept(t, c.Local).quotas {
		if q.Bytes > q.MaxBytes || q.MaxTags > 0 && q.Tags > int64(q.MaxTags) {
			t.Errorf("overrun: %+v", q)
		}
		if q.Name == "/**" && q.MaxBytes-q.Bytes > 1000 {
			t.Errorf("not filled: %+v", q)
		}
	}
	c.rest()
	checkCounts(t, "after collection", c.Local, c.meta, quotas...)
	stats, total := must[registry.Stats](t)(c.Stats(t.Context())), must[registry.Usages](t)(c.Usages(t.Context()))
	if stats.Bytes != total.Bytes {
		t.Errorf("%d bytes are stored, %d are held", stats.Bytes, total.Bytes)
	}
	if n := storedBytes(t, c.blobs); n != total.Bytes {
		t.Errorf("the store has %d bytes, of which %d are held", n, total.Bytes)
	}
}

// storedBytes adds up what the store has of what TestQuotaRace pushes.
func storedBytes(t *testing.T, blobs storage.Blobs) (sum int64) {
	t.Helper()
	for i := range 40 {
		if n, err := blobs.Size(t.Context(), digest.FromString(strings.Repeat(fmt.Sprintf("%03d ", i), 250))); err == nil {
			sum += n
		}
	}
	for _, data := range [][]byte{[]byte("{}"), []byte("layer"), imageOf("layer")} {
		if n, err := blobs.Size(t.Context(), digest.FromBytes(data)); err == nil {
			sum += n
		}
	}
	return sum
}

// between runs a function once, between the bytes of a push and their commit.
type between struct {
	storage.Blobs
	run func()
}

func (b *between) Stage(ctx context.Context, id string, off int64) (storage.Stage, error) {
	s, err := b.Blobs.Stage(ctx, id, off)
	return &betweenStage{s, b}, err
}

type betweenStage struct {
	storage.Stage
	of *between
}

func (s *betweenStage) Commit(d digest.Digest) error {
	if run := s.of.run; run != nil {
		s.of.run = nil
		run()
	}
	return s.Stage.Commit(d)
}

// TestQuotaRefusedLate has another push fill the quota when the bytes of one are about
// to be stored: it is refused, and they are collected.
func TestQuotaRefusedLate(t *testing.T) {
	ctx := t.Context()
	late := strings.Repeat("l", 600)
	for what, push := range map[string]func(*collected) error{
		"push": func(c *collected) error { return c.try("a/x", late) },
		"upload": func(c *collected) error {
			id, err := c.StartUpload(ctx, "a/x", digest.SHA256)
			if err == nil {
				_, err = c.CommitUpload(ctx, "a/x", id, registry.Chunk{}, strings.NewReader(late), digest.FromString(late))
			}
			return err
		},
		"manifest": func(c *collected) error {
			_, err := c.push("a/x", []string{"v1"}, []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"a":"`+late+`"}}`))
			return err
		},
	} {
		c := newCollected(t)
		slow := &between{Blobs: c.blobs}
		local, err := registry.NewLocal(ctx, slow, c.meta, registry.Options{Now: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(local.Close)
		c.Local = local
		quotas := []registry.Quota{under("a", 1000, 0)}
		c.SetQuotas(quotas)
		slow.run = func() { c.blob("a/y", strings.Repeat("f", 500)) }
		c.wantQuota(what, push(c), "500 B of 1 kB used")
		stats := must[registry.Stats](t)(c.Stats(ctx))
		if stats.Blobs != 2 {
			t.Errorf("%s: %d blobs are known, want what is refused to be one", what, stats.Blobs)
		}
		if err := c.DeleteBlob(ctx, "a/y", digest.FromString(strings.Repeat("f", 500))); err != nil {
			t.Fatal(err)
		}
		c.rest()
		if _, err := c.blobs.Size(ctx, digest.FromString(late)); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: the bytes are still there: %v", what, err)
		}
		checkCounts(t, what, c.Local, c.meta, quotas...)
		if stats := must[registry.Stats](t)(c.Stats(ctx)); stats.Bytes != 0 || stats.Blobs != 0 {
			t.Errorf("%s: left %+v", what, stats)
		}
	}
}

// TestQuotaNotCounted limits nothing while it is being counted, and says so.
func TestQuotaNotCounted(t *testing.T) {
	c := newCollected(t)
	c.blob("a/x", "one")
	c.SetQuotas([]registry.Quota{under("a", 5, 0)})
	if used := must[[]registry.QuotaUsage](t)(c.QuotaUsage(t.Context())); used[0].Counted {
		t.Errorf("%+v", used)
	}
	c.blob("a/x", "more than that")
	if err := c.Recount(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wantQuota("when it is counted", c.try("a/x", "!"), "17 B of 5 B used, this push needs 1 B more")
	checkCounts(t, "at the end", c.Local, c.meta, under("a", 5, 0))
}
