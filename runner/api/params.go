package api

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

const (
	// maxBody bounds bodies that are read into memory.
	maxBody = 4 << 20
	// smallBody is what a body may have without waiting for one of largeBodies
	// places: read and decoded, a larger one takes many times its size.
	smallBody   = 64 << 10
	largeBodies = 2
	// bodyTimeout is how long a client may take for such a body.
	bodyTimeout = time.Minute
)

// isSet reads a boolean of the query as Docker does.
func (x *exchange) isSet(key string) bool {
	switch strings.ToLower(strings.TrimSpace(x.q.Get(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// isSetOrAbsent reads a boolean of the query that is true unless it is given.
func (x *exchange) isSetOrAbsent(key string) bool { return !x.q.Has(key) || x.isSet(key) }

// number reads a whole number of the query, which is 0 if it is not given.
func (x *exchange) number(key string) (int, error) {
	s := x.q.Get(key)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, runner.Errorf(runner.ErrInvalid, "invalid value for %s: %w", key, err)
	}
	return n, nil
}

// size reads the new size of a terminal.
func (x *exchange) size() (height, width uint16, err error) {
	dimension := func(key, what string) uint16 {
		n, e := strconv.ParseUint(x.q.Get(key), 10, 16)
		if e != nil {
			err = errors.Join(err, runner.Errorf(runner.ErrInvalid, "invalid resize %s %q: %w", what, x.q.Get(key), errors.Unwrap(e)))
		}
		return uint16(n)
	}
	height, width = dimension("h", "height"), dimension("w", "width")
	return height, width, err
}

// moment reads a time of the query: seconds since 1970 with an optional fraction,
// or RFC 3339. Zero is none.
func (x *exchange) moment(key string) (time.Time, error) {
	t, err := parseMoment(x.q.Get(key))
	if err != nil {
		return time.Time{}, runner.Errorf(runner.ErrInvalid, "invalid value for %s: %w", key, err)
	}
	return t, nil
}

func parseMoment(s string) (time.Time, error) {
	if s == "" || s == "0" {
		return time.Time{}, nil
	}
	if strings.Contains(s, "T") {
		return time.Parse(time.RFC3339Nano, s)
	}
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	if fraction == "" {
		return time.Unix(sec, 0), nil
	}
	digits := (fraction + "000000000")[:9]
	nsec, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(sec, int64(nsec)), nil
}

// platform reads a platform of the query that is given as JSON, and returns it as
// os/arch[/variant].
func (x *exchange) platform(key string) (string, error) {
	if x.q.Get(key) == "" {
		return "", nil
	}
	return decodePlatform(x.q.Get(key))
}

func (x *exchange) platforms(key string) ([]string, error) {
	var all []string
	for _, s := range x.q[key] {
		p, err := decodePlatform(s)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

func decodePlatform(s string) (string, error) {
	var p ocispec.Platform
	if err := json.Unmarshal([]byte(s), &p); err != nil {
		return "", runner.Errorf(runner.ErrInvalid, "failed to parse platform: %w", err)
	}
	if p.OS == "" || p.Architecture == "" {
		return "", runner.Errorf(runner.ErrInvalid, "both OS and Architecture must be provided")
	}
	return platforms.Format(p), nil
}

// namedPlatform reads a platform of the query that is given as
// os[/arch[/variant]].
func (x *exchange) namedPlatform() (string, error) {
	s := x.q.Get("platform")
	if s == "" {
		return "", nil
	}
	if _, err := platforms.Parse(s); err != nil {
		return "", runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	return s, nil
}

// repoTag reads the name of an image to be made from the query. Both are empty if
// there is none.
func (x *exchange) repoTag() (repo, tag string, err error) {
	repo, tag = x.q.Get("repo"), x.q.Get("tag")
	if repo == "" {
		return "", "", nil
	}
	ref, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return "", "", runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return "", "", runner.Errorf(runner.ErrInvalid, "cannot import digest reference")
	}
	if tagged, ok := ref.(reference.Tagged); ok {
		repo = strings.TrimSuffix(repo, ":"+tagged.Tag())
		if tag == "" {
			tag = tagged.Tag()
		}
	}
	if tag == "" {
		tag = "latest"
	}
	if _, err := reference.WithTag(reference.TrimNamed(ref), tag); err != nil {
		return "", "", runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	return repo, tag, nil
}

// credentials are those for the registry that come with the request, or nil. Those
// that cannot be read are none, as in Docker.
func (x *exchange) credentials() *registry.AuthConfig {
	c, err := authconfig.Decode(x.r.Header.Get(registry.AuthHeader))
	if err != nil || *c == (registry.AuthConfig{}) {
		return nil
	}
	return c
}

// body reads the request's JSON into v. An empty body is none, and found is false.
func (x *exchange) body(v any) (found bool, err error) {
	ct := x.r.Header.Get("Content-Type")
	if x.r.Body == nil || x.r.ContentLength == 0 {
		return false, nil
	}
	media, _, err := mime.ParseMediaType(ct)
	if err != nil {
		return false, runner.Errorf(runner.ErrInvalid, "malformed Content-Type header (%s): %w", ct, err)
	}
	if media != "application/json" {
		return false, runner.Errorf(runner.ErrInvalid, "unsupported Content-Type header (%s): must be 'application/json'", ct)
	}
	rc := http.NewResponseController(x.w)
	if err := rc.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return false, err
	}
	raw, done, err := x.readBody()
	defer done()
	// The deadline must not end what comes after: the server watches the
	// connection for the client's leaving.
	_ = rc.SetReadDeadline(time.Time{})
	if err != nil {
		return false, runner.Errorf(runner.ErrInvalid, "reading the request body: %w", err)
	}
	if len(strings.TrimSpace(string(raw))) == 0 {
		return false, runner.Errorf(runner.ErrInvalid, "invalid JSON: got EOF while reading request body")
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return false, runner.Errorf(runner.ErrInvalid, "invalid JSON: %w", err)
	}
	return true, nil
}

// readBody reads the request's body. A large one waits for a place until done is
// called, or is refused.
func (x *exchange) readBody() (raw []byte, done func(), err error) {
	done = func() {}
	raw, err = io.ReadAll(io.LimitReader(x.r.Body, smallBody))
	if err != nil || len(raw) < smallBody {
		return raw, done, err
	}
	select {
	case x.large <- struct{}{}:
		done = func() { <-x.large }
	case <-time.After(bodyTimeout / 2):
		return nil, done, errors.New("there are too many large ones at once: try again later")
	case <-x.r.Context().Done():
		return nil, done, x.r.Context().Err()
	}
	rest, err := io.ReadAll(io.LimitReader(x.r.Body, maxBody-smallBody+1))
	if err == nil && len(rest) > maxBody-smallBody {
		err = errors.New("it is larger than 4 MiB")
	}
	return append(raw, rest...), done, err
}
