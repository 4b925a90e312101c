package build

import (
	"context"
	"errors"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
)

// forgetHistory removes what is kept of builds that have ended: with all of the
// cache goes what tells how it was made.
func (b *Builder) forgetHistory(ctx context.Context) error {
	var ended []string
	stream := &received[controlapi.BuildHistoryEvent]{ctx: ctx, send: func(e *controlapi.BuildHistoryEvent) {
		if e.Type == controlapi.BuildHistoryEventType_COMPLETE && e.Record != nil && !e.Record.Pinned {
			ended = append(ended, e.Record.Ref)
		}
	}}
	if err := b.control.ListenBuildHistory(&controlapi.BuildHistoryRequest{EarlyExit: true}, stream); err != nil {
		return err
	}
	var errs []error
	for _, ref := range ended {
		_, err := b.control.UpdateBuildHistory(ctx, &controlapi.UpdateBuildHistoryRequest{Ref: ref, Delete: true})
		errs = append(errs, err)
	}
	return errors.Join(append(errs, b.worker.GarbageCollect(ctx))...)
}

// pruned is a stream interceptor that does for a client of BuildKit's own API
// what Prune does.
func (b *Builder) pruned(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if info.FullMethod != controlapi.Control_Prune_FullMethodName {
		return handler(srv, stream)
	}
	done, err := b.guard.use()
	if err != nil {
		return err
	}
	defer done()
	tap := &pruneStream{ServerStream: stream}
	if err := handler(srv, tap); err != nil {
		return err
	}
	if tap.req.GetAll() && strings.Join(tap.req.GetFilter(), "") == "" && tap.req.GetKeepDuration() == 0 {
		return b.forgetHistory(stream.Context())
	}
	return nil
}

// pruneStream remembers the request that it carries.
type pruneStream struct {
	grpc.ServerStream
	req *controlapi.PruneRequest
}

// RecvMsg implements grpc.ServerStream.
func (s *pruneStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if req, ok := m.(*controlapi.PruneRequest); ok {
		s.req = req
	}
	return err
}
