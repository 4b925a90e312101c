package api

import (
	"context"
	"regexp"

	"github.com/berth-registry/berth/deploy"
)

// Stacks is what is done with the stacks of a host. See deploy.Manager for what each
// method does, and its errors.
type Stacks interface {
	Deployments

	Plan(ctx context.Context, req deploy.Request) (deploy.Plan, error)
	Stacks(ctx context.Context) ([]deploy.Status, error)
	Status(ctx context.Context, stack string) (deploy.Status, error)
	History(ctx context.Context, stack string) ([]deploy.Revision, error)
	Stack(ctx context.Context, stack string, revision int) (deploy.Stack, error)
}

// Deployments are what changes stacks. What happens is told to watch, one event after
// the other; the end of ctx ends the watching alone.
type Deployments interface {
	Deploy(ctx context.Context, req deploy.Request, watch func(deploy.Event)) (deploy.Revision, error)
	Rollback(ctx context.Context, stack string, to int, by string, watch func(deploy.Event)) (deploy.Revision, error)
	Scale(ctx context.Context, stack string, replicas map[string]int, by string, watch func(deploy.Event)) (deploy.Revision, error)
	Remove(ctx context.Context, stack string, volumes bool, watch func(deploy.Event)) error
	Cancel(ctx context.Context, stack string) error
}

var (
	_ Stacks = (*deploy.Manager)(nil)
	_ Stacks = (*Client)(nil)
)

// Prefix is what the paths of the API start with.
const Prefix = "/berth/v1/"

const (
	// MaxBody bounds a request, in bytes: it has the contents of configs and secrets.
	MaxBody = 64 << 20
	// maxBy bounds the name of who asks, in bytes.
	maxBy = 256

	// versionHeader is on every answer, by which it is told from another daemon's.
	versionHeader = "Berth-Api-Version"
	apiVersion    = "1"

	mediaJSON  = "application/json"
	mediaLines = "application/x-ndjson"
)

// stackName is what Compose allows, in a length that file systems allow.
var stackName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,199}$`)

// scaling is the body of a request to scale.
type scaling struct {
	Replicas map[string]int `json:"replicas"`
	By       string         `json:"by"`
}
