package edge

import (
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The limits of a server whose answers are small.
const (
	redirectTime   = 10 * time.Second
	redirectHeader = 16 << 10
)

// RedirectServer returns the server of RedirectAddr, for RedirectListeners, or nil
// without that: it sends clients to https (308, so that methods and bodies stay as
// they are) and answers HTTP-01 challenges of ACME.
//
// Where to is PublicURL, or the host that the client asked for with the port of
// Addr. A Host that is none is a bad request.
func (e *Edge) RedirectServer() *http.Server {
	if e.o.RedirectAddr == "" {
		return nil
	}
	var h http.Handler = http.HandlerFunc(e.toHTTPS)
	if e.acme != nil {
		h = e.acme.issuer.HTTPChallengeHandler(h)
	}
	s := &http.Server{
		Addr: e.o.RedirectAddr, Handler: e.Handler(h),
		ReadTimeout: redirectTime, WriteTimeout: redirectTime, IdleTimeout: redirectTime,
		MaxHeaderBytes: redirectHeader,
		ErrorLog:       slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
	}
	e.setContexts(s)
	return s
}

func (e *Edge) toHTTPS(w http.ResponseWriter, r *http.Request) {
	base := e.public
	if schemeOf(base) != schemeHTTPS {
		host, _, ok := cutPort(r.Host)
		if !ok || !validHost(r.Host) {
			http.Error(w, "this is not a host that a redirect can lead to", http.StatusBadRequest)
			return
		}
		base = schemeHTTPS + "://" + host + e.portSuffix()
	}
	// RFC 9112, section 3.2: what is not a path ("*", or a host to connect to) has
	// no place at https.
	path := r.URL.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		http.Error(w, "this cannot be redirected", http.StatusBadRequest)
		return
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		path += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", base+path)
	w.WriteHeader(http.StatusPermanentRedirect)
}

// portSuffix is the port of Addr as it stands in a URL of https.
func (e *Edge) portSuffix() string {
	port, _ := e.listenPorts()
	if port == 443 || port == 0 {
		return ""
	}
	return ":" + strconv.Itoa(port)
}

// listenPorts are the ports that are listened on: of Addr and of RedirectAddr, 0
// if there is none.
func (e *Edge) listenPorts() (main, redirect int) {
	if main = int(e.port.Load()); main == 0 {
		main = portOf(e.o.Addr)
	}
	if e.o.RedirectAddr == "" {
		return main, 0
	}
	redirect = portOf(e.o.RedirectAddr)
	for _, l := range e.RedirectListeners() {
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			redirect = a.Port
		}
	}
	return main, redirect
}

// portOf is the port of an address, 0 if it has none that is a number.
func portOf(addr string) int {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}
