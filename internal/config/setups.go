package config

import (
	"bytes"
	"strings"
)

// Setup is a configuration that many people want.
type Setup struct {
	Title string
	Text  string // YAML
}

// Setups are the set-ups that the example and the README show.
func Setups() []Setup {
	return []Setup{
		{"Open on localhost: nothing to set. Anyone on this machine may do anything.", "{}\n"},
		{"A team with a file of passwords (htpasswd -B -c FILE alice) and a certificate", `http:
  addr: ":5000"
  tls: {cert: /etc/berth/tls.crt, key: /etc/berth/tls.key}
auth:
  htpasswd: {file: /etc/berth/htpasswd}
policy:
- {who: [alice], repos: ["**"], may: [pull, push, delete, admin]}
- {who: [authenticated], repos: ["team/**"], may: [pull, push]}
- {who: [everyone], repos: ["public/**"], may: [pull]}
`},
		{"People sign in with OpenID Connect, and jobs of GitHub Actions need no password", `http:
  addr: ":443"
  public_url: https://registry.example.com
  tls: {cert: /etc/berth/tls.crt, key: /etc/berth/tls.key}
auth:
  oidc:
    google:
      issuer: https://accounts.google.com
      client_id: 1234.apps.googleusercontent.com
      client_secret_file: /etc/berth/google.secret
      claims: ["hd=example.com"]
  workload:
    github-main:
      issuer: https://token.actions.githubusercontent.com
      audience: registry.example.com
      claims: ["repository=acme/*", "ref=refs/heads/main"]
      account: ci/{repository}
      groups: [ci]
policy:
- {who: [google/alice@example.com], repos: ["**"], may: [pull, push, delete, admin]}
- {who: ["group:ci"], repos: ["acme/**"], may: [pull, push]}
- {who: [authenticated], repos: ["**"], may: [pull]}
`},
		{"Behind a reverse proxy that speaks TLS; accounts of the registry's own (berth user add alice)", `http:
  addr: localhost:5000
  public_url: https://registry.example.com
  trusted_proxies: ["127.0.0.1", "::1"]
policy:
- {who: [alice], repos: ["**"], may: [pull, push, delete, admin]}
- {who: [authenticated], repos: ["**"], may: [pull]}
`},
		{"On the internet, with a certificate of Let's Encrypt", `http:
  addr: ":443"
  redirect_addr: ":80"
  tls: {acme: {domains: [registry.example.com], email: ops@example.com}}
storage: {data: /var/lib/berth}
policy:
- {who: [alice], repos: ["**"], may: [pull, push, delete, admin]}
- {who: [authenticated], repos: ["team/**"], may: [pull, push]}
immutable: ["**:v*"]
limits: {requests: 200, blob: 20g}
audit: {output: /var/log/berth/audit.log}
`},
		{"A cache of Docker Hub and GitHub's registry for Docker and containerd", `http: {addr: ":5000"}
mirrors:
- name: hub
  upstream: https://registry-1.docker.io
  registry_mirror: true
  username: acme
  password_file: /etc/berth/hub.password
  keep: 720h
  quota: 200g
- {name: ghcr, upstream: "https://ghcr.io", keep: 720h}
sync:
- {name: base, mirror: hub, repos: [library/debian], tags: [stable-slim], every: 24h}
policy:
- {who: [alice], repos: ["**"], may: [pull, push, delete, admin]}
- {who: [authenticated], repos: ["**"], may: [pull]}
- {who: [anonymous], repos: ["hub/**", "ghcr/**"], may: [pull, fetch]}
`},
	}
}

// Example returns a configuration file with every key, its default and a comment,
// and below it the set-ups that many people want, as comments.
func Example() []byte {
	var b bytes.Buffer
	b.Write(schema.Example())
	b.WriteString("\n# Set-ups that many people have. Each is a file of its own.\n")
	for _, s := range Setups() {
		b.WriteString("#\n# " + s.Title + ":\n#\n")
		for line := range strings.Lines(s.Text) {
			b.WriteString("#    " + line)
		}
	}
	return b.Bytes()
}

// EventSource is what events that webhooks are sent say they come from: a URI
// (CloudEvents 1.0, "source").
func (c Config) EventSource() string {
	if c.HTTP.PublicURL != "" {
		return c.HTTP.PublicURL
	}
	if domains := c.HTTP.TLS.ACME.Domains; len(domains) > 0 {
		return "https://" + domains[0]
	}
	return "/berth"
}
