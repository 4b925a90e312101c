package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

// maxUseAnswer is how large the answer to a report may be: it repeats what is unknown.
const maxUseAnswer = 8 << 20

type (
	// inUse is a manifest of a report, in Berth's API.
	inUse struct {
		Repository string        `json:"repository"`
		Digest     digest.Digest `json:"digest"`
	}
	useReport struct {
		TTL     string  `json:"ttl"`
		Running []inUse `json:"running"`
	}
	useAnswer struct {
		Unknown []inUse `json:"unknown"`
	}
)

// ReportUse tells the registry of a host, never its mirrors, what a node runs, once.
// It returns what the registry has not, or does not let this login pull, and so does
// not keep. Errors are runner.ErrUnauthorized, runner.ErrForbidden and
// runner.ErrInvalid where the registry says so, runner.ErrConflict if another report of
// the node came at the same time, and runner.ErrNotFound if it takes no reports: only
// Berth does.
func (c *Client) ReportUse(ctx context.Context, host string, login *registry.AuthConfig, r runner.UseReport) (unknown []reference.Canonical, err error) {
	cred, err := credential(login)
	if err != nil {
		return nil, err
	}
	server, err := c.registry(host, hubRegistry)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", host, err)
	}
	report := useReport{TTL: r.TTL.String(), Running: []inUse{}}
	for _, name := range r.Images {
		report.Running = append(report.Running, inUse{server.prefix + reference.Path(name), name.Digest()})
	}
	body, err := json.Marshal(report)
	if err != nil {
		return nil, err
	}
	resp, err := c.session(server, cred).send(ctx, call{
		method: http.MethodPost, path: "api/v1/nodes/" + r.Node, header: http.Header{"Content-Type": {"application/json"}},
		body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }, size: int64(len(body)),
		ok: []int{http.StatusOK},
	})
	if err != nil {
		return nil, useError(err)
	}
	defer resp.Body.Close()
	data, err := readAll(resp.Body, maxUseAnswer)
	if err != nil {
		return nil, err
	}
	var answer useAnswer
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, runner.Errorf(runner.ErrNotFound, "%s answers as no berth registry does: %w", host, err)
	}
	return namesOfUse(host, server.prefix, answer.Unknown), nil
}

// namesOfUse are names of manifests that a registry has sent; what is no name is left
// out.
func namesOfUse(host, prefix string, list []inUse) []reference.Canonical {
	var names []reference.Canonical
	for _, u := range list {
		named, err := reference.WithName(host + "/" + strings.TrimPrefix(u.Repository, prefix))
		if err != nil {
			continue
		}
		if name, err := reference.WithDigest(named, u.Digest); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// useError is classify for a route that is Berth's own.
func useError(err error) error {
	var resp *responseError
	if !errors.As(err, &resp) {
		return classify(err)
	}
	switch resp.status {
	case http.StatusConflict:
		return runner.Errorf(runner.ErrConflict, "%w", err)
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return runner.Errorf(runner.ErrNotFound, "%w", err)
	}
	return classify(err)
}
