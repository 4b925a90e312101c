package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// follow measures how long it takes, beside the gate, from when a tag is moved at the
// registry, by a manifest pushed to it, until a connection to the published port of a
// node that follows the tag is answered by the new version. The node has the image.
// Each move is to a version that it has not had. The clock starts before the push.
func follow(ctx context.Context, b *bench) ([]*figure, error) {
	r, err := b.startImages(ctx)
	if err != nil {
		return nil, err
	}
	s := shop{"shop", 7001, "v0", 1, gate}
	ref := r.addr + "/stacks/shop:prod"
	e, err := b.startFollower(ctx, s, ref)
	if err != nil {
		return nil, err
	}
	f := &figure{Name: fmt.Sprintf("from the tag's move to traffic on the new version, beside the gate of %s, image present", gate), Unit: "s"}
	moves := 0
	measure := func() (float64, error) {
		var took []time.Duration
		for range b.moves {
			moves++
			s.version = fmt.Sprint("v", moves)
			d, err := b.timeMove(ctx, e, s, ref)
			if err != nil {
				return 0, fmt.Errorf("version %s: %w", s.version, err)
			}
			took = append(took, d-gate)
		}
		return quantile(took, 0.5).Seconds(), nil
	}
	if err := b.interleave(ctx, f, turn{nameRunner, e.server, measure}); err != nil {
		return nil, err
	}
	f.value(nameRunner, atMost(1))
	return []*figure{f}, nil
}

// startFollower publishes a stack, starts a node that follows its tag, and waits until
// it serves.
func (b *bench) startFollower(ctx context.Context, s shop, ref string) (*engine, error) {
	config := filepath.Join(b.dir, "runner.yaml")
	if err := os.WriteFile(config, []byte("follow: "+ref+"\nreport: {name: node}\n"), 0o600); err != nil {
		return nil, err
	}
	// publish needs no engine.
	if err := b.publish(ctx, &engine{}, s, ref); err != nil {
		return nil, err
	}
	e, err := b.startEngine(ctx, nameRunner, "--config", config)
	if err != nil {
		return nil, err
	}
	return e, errors.Join(s.awaitVersion(ctx, s.version), e.awaitFollowed(ctx, s.name))
}

// publish stores a stack under a reference.
func (b *bench) publish(ctx context.Context, e *engine, s shop, ref string) error {
	path, err := s.write(b)
	if err != nil {
		return err
	}
	return runQuietly(b.berth(ctx, e, "publish", "-f", path, ref))
}

// timeMove moves the tag to a version, and returns how long it takes until that
// answers. Then it waits until the node is done with it.
func (b *bench) timeMove(ctx context.Context, e *engine, s shop, ref string) (time.Duration, error) {
	const next = "next" // a tag that nobody follows
	host := b.images.addr
	if err := b.publish(ctx, e, s, host+"/stacks/shop:"+next); err != nil {
		return 0, err
	}
	manifests := "http://" + host + "/v2/stacks/shop/manifests/"
	text, err := manifestCall(ctx, http.MethodGet, manifests+next, nil)
	if err != nil {
		return 0, err
	}
	moved := time.Now()
	if _, err := manifestCall(ctx, http.MethodPut, manifests+ref[len(host+"/stacks/shop:"):], text); err != nil {
		return 0, err
	}
	if err := s.awaitVersion(ctx, s.version); err != nil {
		return 0, err
	}
	took := time.Since(moved)
	return took, errors.Join(e.awaitFollowed(ctx, s.name), e.awaitRest(ctx, s.name))
}

// manifestCall gets a manifest, or puts one.
func manifestCall(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	req.Header.Set("Content-Type", ocispec.MediaTypeImageManifest)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return text, err
}

// awaitFollowed waits until a node runs what the tag names, and has told so.
func (e *engine) awaitFollowed(ctx context.Context, stack string) error {
	c := e.stacks()
	defer c.Close()
	return await(ctx, 20*time.Millisecond, "a node that runs what its tag names", func() (bool, error) {
		all, err := c.Following(ctx)
		if err != nil || len(all) != 1 {
			return false, err
		}
		f := all[0]
		return f.State == runner.FollowRunning && f.Running != "" && f.Running == f.Tag && f.Stack == stack, nil
	})
}
