package replicating_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/upstream"
	"github.com/berth-registry/berth/replicating"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/mem"
)

// What the test program does instead of testing when it is told to: it is there to be
// killed.
const (
	dirEnv  = "BERTH_TEST_REPLICATING_DIR"
	urlEnv  = "BERTH_TEST_REPLICATING_URL"
	fromEnv = "BERTH_TEST_REPLICATING_FROM"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(dirEnv); dir != "" {
		_, _ = fmt.Fprintln(os.Stderr, pushForever(dir, os.Getenv(urlEnv), os.Getenv(fromEnv)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// openDir opens a registry in a directory that replicates to a URL.
func openDir(dir, url string) (*registry.Local, *replicating.Replicator, func() error, error) {
	ctx := context.Background()
	meta, err := bolt.Open(dir + "/meta.db")
	if err != nil {
		return nil, nil, nil, err
	}
	blobs, err := fs.Open(dir, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	up, err := upstream.New(upstream.Options{Name: "b", URL: url, Username: "copier", Password: password})
	if err != nil {
		return nil, nil, nil, err
	}
	rule, err := replicating.NewRule(replicating.Spec{Name: "b", URL: url, Repos: []string{"**"}})
	if err != nil {
		return nil, nil, nil, err
	}
	r := replicating.New(replicating.Options{
		Meta: meta, Unavailable: func(string) error { return up.Unavailable() },
		Target: func(string) registry.Registry { return up.Client() },
	}, []replicating.Rule{rule})
	l, err := registry.NewLocal(ctx, blobs, meta, registry.Options{Journal: r.Journal(nil)})
	if err != nil {
		return nil, nil, nil, err
	}
	r.SetSource(l)
	return l, r, func() error { l.Close(); return errors.Join(blobs.Close(), meta.Close()) }, nil
}

// pushForever pushes images, whose numbers begin at one, to tags by their last digit,
// says each that is durable, and replicates meanwhile.
func pushForever(dir, url, from string) error {
	l, r, _, err := openDir(dir, url)
	if err != nil {
		return err
	}
	go r.Run(context.Background())
	n, err := strconv.Atoi(from)
	for ; err == nil; n++ {
		var d digest.Digest
		if d, err = pushNumber(l, n); err == nil {
			_, err = fmt.Println(n, d) //nolint:forbidigo // its parent reads it
		}
	}
	return err
}

func tagOfNumber(n int) string { return fmt.Sprint("t", n%10) }

// pushNumber pushes an image.
func pushNumber(l *registry.Local, n int) (digest.Digest, error) {
	ctx := context.Background()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i, data := range [][]byte{fmt.Appendf(nil, "{\"n\":%d}", n), bytes.Repeat(strconv.AppendInt(nil, int64(n), 10), 50_000)} {
		d, err := l.PushBlob(ctx, "team/web", digest.FromBytes(data), bytes.NewReader(data))
		if err != nil {
			return "", err
		}
		if d.MediaType = ocispec.MediaTypeImageConfig; i > 0 {
			d.MediaType = ocispec.MediaTypeImageLayer
			m.Layers = append(m.Layers, d)
		} else {
			m.Config = d
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	_, err = l.PushManifest(ctx, "team/web", registry.ManifestPush{
		Data: data, MediaType: m.MediaType, Digest: digest.FromBytes(data), Tags: []string{tagOfNumber(n)},
	})
	return digest.FromBytes(data), err
}

// TestKilled kills a process that pushes and replicates, again and again: what it has
// said to be durable is at the target in the end, and nothing is left to do.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	b := newSite(t, mem.NewMeta(), time.Now, true)
	next := 0
	for round := range 6 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), dirEnv+"="+dir, urlEnv+"="+b.url, fromEnv+"="+strconv.Itoa(next))
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		if round == 5 { // what it works on when it is killed is taken for sure
			b.fails(func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return true
			})
		}
		scan := bufio.NewScanner(stdout)
		for lines := 0; scan.Scan(); lines++ {
			first, _, _ := strings.Cut(scan.Text(), " ")
			n, err := strconv.Atoi(first)
			ok(t, err)
			next = n + 1
			if lines == 5+round*7 {
				_ = cmd.Process.Kill() // what it has said until then is read still
			}
		}
		_ = cmd.Wait()
	}
	b.fails(nil)
	l, r, closeAll, err := openDir(dir, b.url)
	ok(t, err)
	a := &site{Local: l, t: t, repl: r}
	stop := a.run()
	s := a.quiet()
	for i := range 10 {
		tag := fmt.Sprint("t", i)
		d := a.named("team/web", tag)
		b.has("team/web", tag, d)
		b.whole("team/web", d)
	}
	stop()
	ok(t, closeAll())
	t.Logf("%d pushes, %d times a tag was replicated", next, s.Done)
	if s.Done < 10 || next < 100 {
		t.Errorf("%d pushes, %d replicated: it was killed too early", next, s.Done)
	}
}
