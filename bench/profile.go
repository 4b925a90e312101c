package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// profiled measures a turn; if profiles are wanted and it is the first of berth,
// it takes one while it lasts and then measures again undisturbed.
func (b *bench) profiled(ctx context.Context, run int, f *figure, t turn) (float64, error) {
	if b.profiles == "" || run > 0 || t.server == nil || t.server.metrics == "" {
		return t.measure()
	}
	if err := b.whileProfiled(ctx, f, t); err != nil {
		return 0, err
	}
	return t.measure()
}

// whileProfiled takes a profile of a turn's server while it measures.
func (b *bench) whileProfiled(ctx context.Context, f *figure, t turn) error {
	name := strings.NewReplacer(" ", "-", ",", "", "/", "").Replace(b.work + " " + f.Name + " " + t.of)
	taken := make(chan error, 1)
	go func() { taken <- t.server.profile(ctx, filepath.Join(b.profiles, name+".pprof")) }()
	_, err := t.measure()
	return errors.Join(err, <-taken)
}

// profile writes a CPU profile of the next two seconds of s to path.
func (s *server) profile(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.metrics+"/debug/pprof/profile?seconds=2", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile of %s: %s", s.name, resp.Status)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	w, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, resp.Body)
	return errors.Join(err, w.Close())
}
