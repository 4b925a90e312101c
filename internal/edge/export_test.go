package edge

import "context"

// Maintain does now what is done to certificates of ACME every ten minutes.
func (e *Edge) Maintain(ctx context.Context) error { return e.acme.cache.RenewManagedCertificates(ctx) }
