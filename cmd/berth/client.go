package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/remote"
)

const (
	// completionTime is how long a shell waits for completions.
	completionTime = 3 * time.Second
	// maxCandidates is how many completions a shell gets at most.
	maxCandidates = 1000
)

// defaultRegistry is where the commands look unless they are told otherwise.
const defaultRegistry = "localhost:5000"

// name is what a user calls a repository, or something in it.
type name struct {
	Host   string // of the registry
	Repo   string
	Tag    string
	Digest digest.Digest
}

// parseName reads [HOST[:PORT]/]REPO[:TAG][@DIGEST]. The first component is a
// host if it contains a "." or ":" or is "localhost"; else the host is the one
// given.
func parseName(s, host string) (name, error) {
	n := name{Host: host}
	rest := s
	if first, after, ok := strings.Cut(s, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		n.Host, rest = first, after
	}
	rest, dig, hasDigest := strings.Cut(rest, "@")
	rest, tag, hasTag := strings.Cut(rest, ":")
	n.Repo, n.Tag = rest, tag
	if isHub(n.Host) && !strings.Contains(n.Repo, "/") {
		n.Repo = "library/" + n.Repo
	}
	if !registry.ValidRepository(n.Repo) || strings.HasPrefix(n.Host, ".") {
		return n, cli.Usage(fmt.Errorf("%q is no reference: want [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], the repository in lower case", s))
	}
	if hasTag && !registry.ValidTag(tag) {
		return n, cli.Usage(fmt.Errorf("%q has an invalid tag: want letters, digits, '_', '.' and '-', not starting with '.' or '-'", s))
	}
	if hasDigest {
		d, err := registry.ParseDigest(dig)
		if err != nil {
			return n, cli.Usage(fmt.Errorf("%q: %w", s, err))
		}
		n.Digest = d
	}
	return n, nil
}

func (n name) String() string {
	s := n.Host + "/" + n.Repo
	if n.Tag != "" {
		s += ":" + n.Tag
	}
	if n.Digest != "" {
		s += "@" + string(n.Digest)
	}
	return s
}

// ref is the manifest that n names: by its digest if it has one, by its tag, or
// by the tag that everybody means who says none.
func (n name) ref() registry.Reference {
	if n.Digest != "" {
		return registry.Reference{Digest: n.Digest}
	}
	return registry.Reference{Tag: cmp.Or(n.Tag, "latest")}
}

func isHub(host string) bool { return host == "docker.io" || host == "index.docker.io" }

// clientFlags are the flags of all commands that talk to a registry.
type clientFlags struct {
	registry  string
	plainHTTP bool
	json      bool
	cmd       *cobra.Command
}

// addClientFlags adds the flags to cmd, and says what they do behind its Long.
func addClientFlags(cmd *cobra.Command) *clientFlags {
	f := &clientFlags{cmd: cmd}
	host := cmp.Or(os.Getenv("BERTH_REGISTRY"), defaultRegistry)
	cmd.Flags().StringVar(&f.registry, "registry", host, "the registry, `HOST[:PORT]`, of names that say none; also set by BERTH_REGISTRY")
	cmd.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "talk HTTP without TLS; the default for localhost")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON, in a shape that stays")
	cmd.Long += `

Any registry will do: HOST is one if it contains a '.' or ':' or is 'localhost';
names without one are of --registry. To log in, use 'docker login HOST': its
credentials are used here, too.`
	return f
}

// parse reads a name whose host may be left out.
func (f *clientFlags) parse(s string) (name, error) { return parseName(s, f.registry) }

// open returns a client of the registry at host.
func (f *clientFlags) open(host string) (*remote.Client, error) {
	local := isLoopback(host)
	scheme, addr := "https", host
	if f.plainHTTP || local && !f.cmd.Flags().Changed("plain-http") {
		scheme = "http"
	}
	if isHub(host) {
		addr = "registry-1.docker.io"
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("read docker's configuration: %w", err)
	}
	doer := &auth.Client{
		Client:     http.DefaultClient,
		Header:     http.Header{"User-Agent": {"berth/" + version}},
		Cache:      auth.NewCache(),
		Credential: credentials.Credential(store),
	}
	if local {
		doer.BlockedRealmPrefixes = []netip.Prefix{} // its tokens are of this machine, too
	}
	c, err := remote.New(scheme+"://"+addr, doer)
	if err != nil || strings.ContainsAny(addr, "/ ") {
		return nil, cli.Usage(fmt.Errorf("%q is no registry: want HOST[:PORT]", host))
	}
	return c, nil
}

// isLoopback says whether a registry is on this machine.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// explain says what to do about an error of the registry at host. what is what
// the user named.
func explain(err error, host, what string) error {
	var unknownCA x509.UnknownAuthorityError
	var tlsRecord tls.RecordHeaderError
	var dns *net.DNSError
	hint := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ECONNREFUSED) && isLoopback(host):
		return fmt.Errorf("no registry answers at %s: is it running? Start it with 'berth serve', or name another with --registry", host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no registry answers at %s: is it running, and is that its port?", host)
	case errors.As(err, &dns):
		return fmt.Errorf("cannot find the host of the registry %s: %s", host, dns.Err)
	case errors.As(err, &tlsRecord), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("the registry at %s does not speak TLS: if you trust the network between, add --plain-http", host)
	case errors.As(err, &unknownCA):
		hint = "add its authority to this machine's certificates, or name it in SSL_CERT_FILE"
	case errors.Is(err, registry.ErrDenied), errors.Is(err, auth.ErrBasicCredentialNotFound):
		hint = fmt.Sprintf("log in with 'docker login %s', or ask for access", host)
	case errors.Is(err, registry.ErrManifestUnknown), errors.Is(err, registry.ErrNameUnknown):
		hint = "'berth ls' and 'berth tags REPO' list what is there"
	case errors.Is(err, registry.ErrMethod):
		hint = "this registry does not allow it"
	}
	if hint != "" {
		hint = " (" + hint + ")"
	}
	return fmt.Errorf("%s: %w%s", what, err, hint)
}

// printJSON writes v for machines.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printItem writes item n, from 1, of the list that is the first thing in an object,
// as it comes; the caller ends both.
func printItem(w io.Writer, list string, n int, v any) error {
	before := ",\n    "
	if n == 1 {
		before = fmt.Sprintf("{\n  %q: [\n    ", list)
	}
	data, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(w, "%s%s", before, data)
	}
	return err
}

// humanSize writes a size as docker does.
func humanSize(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 999.95 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}

// printable keeps what a registry says from commanding the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// complete completes the last component that a user types: a repository or,
// behind a ":", a tag.
func (f *clientFlags) complete(tags bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		found, err := f.candidates(ctx, typed, tags)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

func (f *clientFlags) candidates(ctx context.Context, typed string, tags bool) ([]string, error) {
	slash, colon := strings.LastIndexByte(typed, '/'), strings.LastIndexByte(typed, ':')
	host, prefix := f.registry, ""
	if first, _, ok := strings.Cut(typed, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		host, prefix = first, first+"/"
	}
	c, err := f.open(host)
	if err != nil {
		return nil, err
	}
	list, partial := c.Repositories(ctx, ""), strings.TrimPrefix(typed, prefix)
	if tags && colon > slash {
		n, err := f.parse(typed[:colon])
		if err != nil {
			return nil, err
		}
		list, prefix, partial = c.Tags(ctx, n.Repo, ""), typed[:colon+1], typed[colon+1:]
	}
	var found []string
	for s, err := range list {
		if err != nil || len(found) == maxCandidates {
			break // what was found so far is better than nothing
		}
		if strings.HasPrefix(s, partial) {
			found = append(found, prefix+s)
		}
	}
	return found, nil
}
