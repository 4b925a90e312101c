package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/edge"
	"github.com/berth-registry/berth/internal/runnerconfig"
)

// edgeProgram is the name of the program of the HTTP edge.
const edgeProgram = "berth-edge"

// openEdge starts the HTTP edge, or finds the one that serves; nil if none is
// configured. Closing it leaves the program to serve on.
func openEdge(ctx context.Context, cfg runnerconfig.Config, log *slog.Logger) (e deploy.Edge, stop func() error, err error) {
	o, err := edgeOptions(cfg)
	if err != nil {
		return nil, nil, err
	}
	if !cfg.Edge.Enabled() {
		return nil, func() error { return nil }, edge.Stop(ctx, o)
	}
	program, err := findEdge(cfg.Edge.Program)
	if err != nil {
		return nil, nil, err
	}
	opened, err := edge.Open(ctx, edge.Config{Options: o, Program: program, Log: log.With("component", "edge")})
	if err != nil {
		return nil, nil, fmt.Errorf("HTTP edge: %w", err)
	}
	return opened, opened.Close, nil
}

// edgeOptions are what the program is told of the configuration.
func edgeOptions(cfg runnerconfig.Config) (edge.Options, error) {
	paths := []string{filepath.Join(cfg.Data, "edge"), filepath.Join(cfg.Run, "edge"), cfg.Edge.Certs, cfg.Edge.ACME.DirectoryCA}
	for i, path := range paths {
		if path == "" {
			continue
		}
		full, err := filepath.Abs(path) // the program has another working directory
		if err != nil {
			return edge.Options{}, err
		}
		paths[i] = full
	}
	return edge.Options{
		HTTP: cfg.Edge.HTTP, HTTPS: cfg.Edge.HTTPS, TrustedProxies: cfg.Edge.TrustedProxies, AccessLog: cfg.Edge.AccessLog,
		Data: paths[0], Run: paths[1], Certs: paths[2],
		ACME: edge.ACME{Email: cfg.Edge.ACME.Email, Directory: cfg.Edge.ACME.Directory, DirectoryCA: paths[3]},
	}, nil
}

// findEdge finds the program: the one that is configured, beside this program, or on
// the PATH.
func findEdge(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), edgeProgram)
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	path, err := exec.LookPath(edgeProgram)
	if err != nil {
		return "", errors.New("HTTP edge: " + edgeProgram + " is neither beside berth-runner nor on the PATH: install it, or set edge.program")
	}
	return path, nil
}
