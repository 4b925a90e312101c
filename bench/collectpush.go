package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/berth-registry/berth/registry"
)

// collectPush measures how many small images a second several clients push while
// 'berth gc' collects, and while it does not. The garbage was there before: there
// is more than what is collected in that time.
func collectPush(ctx context.Context, b *bench) ([]*figure, error) {
	s, _, err := b.newBerth(nameBerth)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := seeded(ctx, s.data(), func(r registry.Registry) error { return seedGarbage(ctx, r, b.waste) }); err != nil {
		return nil, err
	}
	progress("  stored %s blobs of garbage in %s\n", thousands(b.waste), time.Since(began).Round(time.Second))
	if s, err = b.startBerth(ctx, nameBerth); err != nil {
		return nil, err
	}
	push := func() (float64, error) { return b.pushImages(ctx, s.addr, b.glance) }
	f := &figure{Name: fmt.Sprintf("small images pushed; %s", plural(b.small, "client")), Unit: "images/s"}
	meanwhile := &figure{Name: "stored blobs of garbage removed meanwhile", Unit: "blobs/s"}
	during := turn{"during a collection", s, func() (value float64, err error) {
		removed, err := b.whileCollecting(ctx, s, func() (err error) { value, err = push(); return err })
		meanwhile.add(nameBerth, removed)
		return value, err
	}}
	without := turn{"without", s, push}
	for _, t := range []turn{during, without} {
		if _, err := t.measure(); err != nil { // warms up
			return nil, err
		}
	}
	meanwhile.Series = nil
	if err := b.shortTurns(ctx, f, during, without); err != nil {
		return nil, err
	}
	f.ratio(during.of, without.of, atLeast(0.9))
	meanwhile.value(nameBerth, bound{})
	return []*figure{f, meanwhile}, nil
}

// whileCollecting calls measure while a collection runs, which must last longer, and
// then ends that. It returns how much a second was collected.
func (b *bench) whileCollecting(ctx context.Context, s *server, measure func() error) (float64, error) {
	before, err := s.collected(ctx)
	if err != nil {
		return 0, err
	}
	cmd := b.collection(ctx, s)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	early := func(err error) error {
		return fmt.Errorf("berth gc ended too early, there must be more garbage: %w: %s", err, cmd.Stderr)
	}
	now := before
	for now == before {
		select {
		case err := <-ended:
			return 0, early(err)
		default:
		}
		if now, err = s.collected(ctx); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	err = measure()
	after, cerr := s.collected(ctx)
	rate := (after - now) / time.Since(began).Seconds()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return 0, early(err)
	}
	if gerr := <-ended; gerr == nil {
		return 0, early(err)
	}
	return rate, errors.Join(err, cerr)
}

// collected is how much a berth says that it has collected since it was started.
func (s *server) collected(ctx context.Context) (float64, error) {
	return s.metric(ctx, "berth_gc_removed")
}

// metric reads one of berth's metrics that has no labels.
func (s *server) metric(ctx context.Context, name string) (value float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.metrics+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(text), 64)
		}
	}
	return 0, errors.New("berth has no metric " + name)
}
