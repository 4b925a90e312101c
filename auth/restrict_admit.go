package auth

import (
	"context"
	"strings"

	"github.com/berth-registry/berth/registry"
)

var _ registry.Admitter = (*restricted)(nil)

// AdmitManifest implements registry.Admitter.
func (r *restricted) AdmitManifest(ctx context.Context, repo string, m registry.ManifestPush) error {
	ref := string(m.Digest)
	if len(m.Tags) > 0 {
		ref = strings.Join(m.Tags, ",")
	}
	return r.check(ctx, repo, Push, ref)
}
