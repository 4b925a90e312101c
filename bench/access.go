package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Who reads what in the work access.
const (
	accessRepo     = "team/web/app"
	accessTag      = "latest"
	accessAccount  = "alice"
	accessPassword = "correct horse battery staple"
)

// How it is read, as figures have it.
const (
	withToken    = "with a registry token"
	withPassword = "with a password"
	withKey      = "with an API key"
	withoutAsk   = "the same request, no access control"
	withNothing  = "nothing to send, no access control"
)

// accessConfig is that of a registry of a small company, but for tokens that last
// for the whole work, so that they are got once.
const accessConfig = `auth: {tokens: {ttl: 1h}}
audit: {output: %q}
policy:
- {who: ["user:mallory"], repos: ["**"], may_not: [pull, push, delete, admin]}
- {who: [everyone], repos: ["public/**"], may: [pull]}
- {who: ["group:operators"], repos: ["**"], may: [pull, push, delete, admin]}
- {who: ["group:contractors"], repos: ["secret/**", "base/**"], may_not: [pull, push, delete]}
- {who: ["group:release"], repos: ["release/**"], may: [pull, push]}
- {who: [authenticated], repos: ["release/**", "base/**"], may: [pull]}
- {who: ["claim:repository=acme/base"], repos: ["base/**"], may: [push]}
- {who: ["claim:repository=acme/*"], repos: ["ci/**"], may: [pull, push, delete]}
- {who: ["group:payments"], repos: ["payments/**"], may: [pull, push]}
- {who: ["user:scanner"], repos: ["**"], may: [pull]}
- {who: ["group:data"], repos: ["data/**", "models/**"], may: [pull, push]}
- {who: ["group:data"], repos: ["models/**"], may: [delete]}
- {who: ["group:mobile"], repos: ["mobile/**"], may: [pull, push]}
- {who: ["group:team-web"], repos: ["team/web/**"], may: [pull, push]}
- {who: ["group:team-api"], repos: ["team/api/**"], may: [pull, push]}
- {who: ["group:team-web", "group:team-api"], repos: ["team/shared/*"], may: [pull, push]}
- {who: ["user:deploy"], repos: ["team/**", "payments/**"], may: [pull]}
- {who: ["group:leads"], repos: ["team/**"], may: [pull, push, delete]}
- {who: [authenticated], repos: ["team/**", "mobile/**"], may: [pull]}
- {who: [authenticated], repos: ["**/cache"], may: [pull, push]}
`

// access measures what it adds to the reading of a manifest by tag that berth asks
// who reads it and whether they may. The client has a registry token, which it got
// once, or sends an account's password or an API key with each request; the first
// one is what docker does. Beside it the same berth with the same content and no
// policy gets the very same request, whose token it does not look at, and one
// without a token, which is shorter by half a kilobyte. Refusals and logins are
// recorded in a file.
func access(ctx context.Context, b *bench) ([]*figure, error) {
	img, err := newImage(source(0, 0))
	if err != nil {
		return nil, err
	}
	open, args, err := b.newBerth("open")
	if err != nil {
		return nil, err
	}
	if err := seeded(ctx, open.data(), img.pushTo(ctx, accessRepo, accessTag)); err != nil {
		return nil, err
	}
	if _, err := b.start(ctx, open, "/readyz", b.binary, args...); err != nil {
		return nil, err
	}
	restricted, key, err := b.startRestricted(ctx, img)
	if err != nil {
		return nil, err
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(accessAccount+":"+accessPassword))
	token, err := registryToken(ctx, restricted, basic)
	if err != nil {
		return nil, err
	}
	readers := []reader{
		{withToken, restricted, []string{"Authorization: Bearer " + token}},
		{withoutAsk, open, []string{"Authorization: Bearer " + token}},
		{withNothing, open, nil},
		{withPassword, restricted, []string{"Authorization: " + basic}},
		{withKey, restricted, []string{"Authorization: Bearer " + key}},
	}
	many, err := b.compareReaders(ctx, b.readers, readers)
	if err != nil {
		return nil, err
	}
	one, err := b.compareReaders(ctx, 1, readers)
	if err != nil {
		return nil, err
	}
	cost, err := b.compareCost(ctx, readers[:3])
	return []*figure{many, one, cost}, err
}

// reader is a client that says who it is, or does not.
type reader struct {
	of      string
	server  *server
	headers []string
}

// compareReaders counts the requests a second that so many clients of each kind
// make.
func (b *bench) compareReaders(ctx context.Context, clients int, readers []reader) (*figure, error) {
	f := &figure{Name: "GET a manifest, " + plural(clients, "client"), Unit: "requests/s"}
	var turns []turn
	for _, r := range readers {
		measure := func(window time.Duration) func() (float64, error) {
			return func() (float64, error) {
				rate, _, err := r.load(ctx, clients, window)
				return rate, err
			}
		}
		if _, err := b.profiled(ctx, 0, f, turn{r.of, r.server, measure(b.window)}); err != nil { // warms up
			return nil, fmt.Errorf("%s: %w", r.of, err)
		}
		turns = append(turns, turn{r.of, r.server, measure(b.window / turnsOfRun)})
	}
	if err := b.shortTurns(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(withToken, withoutAsk, atLeast(0.95))
	for _, of := range []string{withToken, withPassword, withKey} {
		f.ratio(of, withNothing, bound{})
	}
	return f, nil
}

// compareCost measures what a request costs the server alone.
func (b *bench) compareCost(ctx context.Context, readers []reader) (*figure, error) {
	f := &figure{Name: "the server's processor time for each, " + plural(b.readers, "client"), Unit: "µs"}
	var turns []turn
	for _, r := range readers {
		turns = append(turns, turn{r.of, r.server, func() (float64, error) {
			_, cost, err := r.load(ctx, b.readers, b.window/turnsOfRun)
			return microseconds(cost), err
		}})
	}
	if err := b.shortTurns(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(withToken, withoutAsk, bound{})
	f.ratio(withToken, withNothing, bound{})
	return f, nil
}

// load has clients read the manifest again and again, and returns how often a
// second it was read and how long the server's processors worked for it each time.
func (r reader) load(ctx context.Context, clients int, window time.Duration) (rate float64, cost time.Duration, err error) {
	const target = "/v2/" + accessRepo + "/manifests/" + accessTag
	req := request(http.MethodGet, r.server.addr, target, append(r.headers, "Accept: "+ocispec.MediaTypeImageManifest)...)
	before, err := r.server.proc.cpu()
	if err != nil {
		return 0, 0, err
	}
	took, elapsed, err := readFor(ctx, r.server, req, clients, window)
	if err != nil {
		return 0, 0, err
	}
	after, err := r.server.proc.cpu()
	n := len(took)
	return float64(n) / elapsed.Seconds(), (after - before) / time.Duration(n), err
}

// startRestricted starts a berth with access control that has an image and an
// account, of which it returns an API key.
func (b *bench) startRestricted(ctx context.Context, img image) (*server, string, error) {
	s, args, err := b.newBerth("restricted")
	if err != nil {
		return nil, "", err
	}
	config, err := s.configure(fmt.Sprintf(accessConfig, filepath.Join(s.dir, "audit.log")))
	if err != nil {
		return nil, "", err
	}
	if err := seeded(ctx, s.data(), img.pushTo(ctx, accessRepo, accessTag)); err != nil {
		return nil, "", err
	}
	_, err = b.administer(ctx, s, accessPassword, "user", "add", accessAccount, "--group", "team-web", "--group", "everybody", "--password-stdin")
	if err != nil {
		return nil, "", err
	}
	out, err := b.administer(ctx, s, "", "token", "create", "--for", accessAccount, "--repo", "team/**", "--actions", "pull,push")
	if err != nil {
		return nil, "", err
	}
	var made struct{ Secret string }
	if err := json.Unmarshal(out, &made); err != nil {
		return nil, "", err
	}
	s, err = b.start(ctx, s, "/readyz", b.binary, append(args, "--config", config)...)
	return s, made.Secret, err
}

// administer runs a command of berth on the data of a server that does not run yet,
// and returns what it prints.
func (b *bench) administer(ctx context.Context, s *server, stdin string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, b.binary, append(args, "--json", "--data", s.data())...)
	var failure bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewBufferString(stdin), &failure
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("berth %s: %w: %s", args[0], err, bytes.TrimSpace(failure.Bytes()))
	}
	return out, nil
}

// registryToken gets one as docker does.
func registryToken(ctx context.Context, s *server, authorization string) (string, error) {
	query := url.Values{"service": {"berth"}, "scope": {"repository:" + accessRepo + ":pull"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/token?"+query.Encode(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", authorization)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	var got struct{ Token string }
	err = json.NewDecoder(resp.Body).Decode(&got)
	return got.Token, err
}
