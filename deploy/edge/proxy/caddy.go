package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	// What Caddy's configuration names.
	_ "github.com/caddyserver/caddy/v2/modules/caddyevents"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/encode/gzip"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/encode/zstd"
	_ "github.com/caddyserver/caddy/v2/modules/caddypki"
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
)

const (
	moduleID = "http.handlers.berth"
	network  = "berth"
	// maxHeader is room for the cookies of a site that is not careful, in bytes.
	maxHeader = 64 << 10
)

// limits bound what clients may do.
type limits struct {
	header    time.Duration // that one may take for a request's header
	stall     time.Duration // that one may send or take nothing while a request lasts
	keepAlive time.Duration // that a connection is kept without a request
}

// usual are the limits of clients that mean no harm.
func usual() limits {
	return limits{header: 30 * time.Second, stall: time.Minute, keepAlive: 3 * time.Minute}
}

var errTwice = errors.New("there can be one proxy in a process")

// register makes Caddy find this proxy: its handler, and what it listens on.
func (p *Proxy) register() error {
	if _, err := caddy.GetModule(moduleID); err == nil {
		return errTwice
	}
	caddy.RegisterModule(&module{p})
	caddy.RegisterNetwork(network, func(_ context.Context, _, host, _ string, _ uint, _ net.ListenConfig) (any, error) {
		return p.listener(host)
	})
	return nil
}

// module is the handler of all requests.
type module struct{ proxy *Proxy }

// CaddyModule implements caddy.Module.
func (m *module) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: moduleID, New: func() caddy.Module { return &module{m.proxy} }}
}

// Provision implements caddy.Provisioner. Both servers have the one handler.
func (m *module) Provision(ctx caddy.Context) error {
	if m.proxy.certs != nil {
		return nil
	}
	return m.proxy.begin(ctx)
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (m *module) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return m.proxy.serve(w, r)
}

type object = map[string]any

// config is Caddy's configuration. It never changes: what does is the proxy's table.
func (p *Proxy) config() *caddy.Config {
	no := false
	servers := object{}
	if p.o.HTTP != "" {
		servers[plainName] = p.server(plainName, "h1", "h2c")
	}
	if p.o.HTTPS != "" {
		servers[secureName] = p.server(secureName, "h1", "h2")
	}
	return &caddy.Config{
		Admin:      &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &no}},
		Logging:    p.logging(),
		StorageRaw: raw(object{"module": "file_system", "root": p.o.Data}),
		AppsRaw: caddy.ModuleMap{
			"http": raw(object{"servers": servers, "grace_period": caddy.Duration(lastRequest)}),
			"tls":  raw(object{"disable_storage_clean": true, "disable_storage_check": true}),
			"pki": raw(object{"certificate_authorities": object{"local": object{
				"install_trust": false, "name": "Berth", "root_common_name": "Berth HTTP edge", "intermediate_common_name": "Berth HTTP edge, intermediate",
			}}}),
		},
	}
}

func (p *Proxy) server(name string, protocols ...string) object {
	s := object{
		"listen":              []string{fmt.Sprintf("%s/%s:1", network, name)},
		"protocols":           protocols,
		"automatic_https":     object{"disable": true},
		"routes":              []object{{"handle": []object{{"handler": "berth"}}}},
		"read_header_timeout": caddy.Duration(p.limits.header),
		"read_idle_timeout":   caddy.Duration(p.limits.stall),
		"write_idle_timeout":  caddy.Duration(p.limits.stall),
		"idle_timeout":        caddy.Duration(p.limits.keepAlive),
		"max_header_bytes":    maxHeader,
	}
	if len(p.o.TrustedProxies) > 0 {
		s["trusted_proxies"] = object{"source": "static", "ranges": p.o.TrustedProxies}
		s["trusted_proxies_strict"] = 1
	}
	if p.o.AccessLog {
		s["logs"] = object{}
	}
	return s
}

func (p *Proxy) logging() *caddy.Logging {
	const small, large, files = 10, 100, 3 // two sizes in megabytes, and how many before are kept
	file := func(path string, megabytes int) json.RawMessage {
		return raw(object{"output": "file", "filename": path, "roll_size_mb": megabytes, "roll_keep": files})
	}
	l := &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{WriterRaw: file(p.o.Log(), small), Level: "INFO"}, Exclude: []string{"http.log.access"}},
	}}
	if p.o.AccessLog {
		l.Logs["access"] = &caddy.CustomLog{
			BaseLog: caddy.BaseLog{WriterRaw: file(filepath.Join(p.o.Data, "access.log"), large)}, Include: []string{"http.log.access"},
		}
	}
	return l
}

// raw is the JSON of what has one.
func raw(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return text
}
