package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/berth-registry/berth/storage"
)

const (
	firstPause = 100 * time.Millisecond
	mostPause  = 5 * time.Second
	// mostTime is how many timeouts an operation may take before it is not tried
	// again.
	mostTime = 4
)

// errAnswer says that the server's answer lacks what it must have.
var errAnswer = errors.New("the server's answer is incomplete")

// try runs fn, one request to the server, again and again until it succeeds or
// there is no hope: the error will not pass, was there too often, or time is up.
// op says what fn does, key what to. For a request that writes see tryWrite.
func (b *Blobs) try(ctx context.Context, op, key string, fn func(ctx context.Context) error) error {
	end := time.Now().Add(mostTime * b.timeout)
	for attempt := 0; ; attempt++ {
		err := fn(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return b.failed(op, key, ctx.Err())
		}
		pause := b.pauseAfter(attempt)
		if !passes(err) || attempt >= b.retries || time.Now().Add(pause).After(end) {
			return b.failed(op, key, classify(cause(err)))
		}
		if err := sleep(ctx, pause); err != nil {
			return b.failed(op, key, err)
		}
	}
}

// tryWrite is try for a request that writes: one that is forbidden means that the
// store is read-only.
func (b *Blobs) tryWrite(ctx context.Context, op, key string, fn func(ctx context.Context) error) error {
	err := b.try(ctx, op, key, fn)
	response, ok := errors.AsType[minio.ErrorResponse](err)
	if ok && (response.Code == minio.AccessDenied || response.Code == minio.AllAccessDisabled) {
		return fmt.Errorf("%w: %w", storage.ErrReadOnly, err)
	}
	return err
}

func (b *Blobs) failed(op, key string, err error) error {
	if key = strings.TrimPrefix(key, b.prefix); key != "" {
		key = " " + key
	}
	return fmt.Errorf("S3: %s%s: %w", op, key, err)
}

// pauseAfter is how long to wait after an attempt, the first is 0: at random, so
// that those that failed at once do not come back at once.
func (b *Blobs) pauseAfter(attempt int) time.Duration {
	most := min(b.pause<<min(attempt, 16), mostPause)
	return most/2 + rand.N(most/2) //nolint:gosec // it is no secret
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// passes says whether an error may not be there the next time: all of the network
// and of an answer that cannot be read, and those of a server that has trouble or
// has received other bytes than were sent.
func passes(err error) bool {
	response, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		var verify *tls.CertificateVerificationError
		var unknown x509.UnknownAuthorityError
		return !errors.As(err, &verify) && !errors.As(err, &unknown) && !errors.Is(err, errLocal)
	}
	switch response.Code {
	case minio.BadDigest, minio.IncompleteBody, minio.XAmzContentSHA256Mismatch, "RequestTimeout", "SlowDown", "Throttling", "OperationAborted",
		"ExpiredToken", "ExpiredTokenException", "ConditionalRequestConflict":
		return true
	case minio.NotImplemented:
		return false
	}
	switch response.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout, 499, 520, 522, 524, 529: // proxies' own
		return true
	}
	return false
}

// cause is an error without the URL of its request.
func cause(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		if strings.Contains(u.Err.Error(), u.URL) { // minio-go writes it there
			return errors.New("the server closed the connection")
		}
		return u.Err
	}
	return err
}

// classify wraps an error of the server in the one of package storage that says the
// same, if there is one.
func classify(err error) error {
	response, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return err
	}
	switch {
	case response.Code == minio.NoSuchKey:
		return fmt.Errorf("%w: %w", storage.ErrNotFound, err)
	case response.StatusCode == http.StatusInsufficientStorage, strings.Contains(response.Code, "QuotaExceeded"),
		response.Code == "XMinioStorageFull", response.Code == "InsufficientStorage":
		return fmt.Errorf("%w: %w", storage.ErrNoSpace, err)
	}
	return err
}

// isCode says whether the server has answered with an error of this code.
func isCode(err error, code string) bool {
	response, ok := errors.AsType[minio.ErrorResponse](err)
	return ok && response.Code == code
}
