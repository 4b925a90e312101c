package build

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// received is the stream of a call to BuildKit's control API within this process:
// it hands on what the API sends.
type received[T any] struct {
	grpc.ServerStream
	ctx  context.Context //nolint:containedctx // it is a stream's
	send func(*T)
}

// Context implements grpc.ServerStream, as do the others.
func (s *received[T]) Context() context.Context { return s.ctx }

// SendHeader sends nothing.
func (s *received[T]) SendHeader(metadata.MD) error { return nil }

// Send passes on a message.
func (s *received[T]) Send(m *T) error {
	s.send(m)
	return nil
}

// SendMsg passes on a message.
func (s *received[T]) SendMsg(m any) error {
	t, ok := m.(*T)
	if !ok {
		return fmt.Errorf("a message of type %T", m)
	}
	return s.Send(t)
}
