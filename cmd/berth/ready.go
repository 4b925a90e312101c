package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/config"
)

// readyTime is how long a server may take to say that it is ready.
const readyTime = 4 * time.Second

func newReadyCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "ready",
		Short: "Ask the registry on this machine whether it is ready",
		Long: `Ask the registry on this machine whether it is ready to serve, for the health
check of a container: exit code 0 if it is, and 1 if not.

It is asked where the configuration has it serve its metrics, or without these
where it serves all else, if that is without TLS.`,
		Example: "  berth ready\n  berth ready --config /etc/berth.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(file, os.Environ())
			if err != nil {
				return err
			}
			addr, err := healthAddr(c)
			if err != nil {
				return err
			}
			return askReady(cmd.Context(), addr)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "read the configuration from this YAML `FILE`")
	return cmd
}

// healthAddr is where a server that has the configuration is asked for its health by
// plain HTTP.
func healthAddr(c config.Config) (string, error) {
	addr := c.Metrics.Addr
	if addr == "" {
		if c.HTTP.TLS.Cert != "" || len(c.HTTP.TLS.ACME.Domains) > 0 {
			return "", errors.New("the configuration has no metrics.addr, and TLS at http.addr: set metrics.addr")
		}
		addr = c.HTTP.Addr
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), nil
}

func askReady(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	// No proxy of the environment is between a server and its own machine.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // or without a reason
		return fmt.Errorf("not ready: %s: %s", resp.Status, strings.TrimSpace(string(why)))
	}
	return nil
}
