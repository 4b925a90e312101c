package daemon

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
)

// Recovering logs when next panics, and breaks the connection off: part of an
// answer may be on its way. net/http would do the same, but by http.Server's
// ErrorLog, where it is one line among those of clients that cannot speak TLS.
//
// What was panicked with is logged only if the runtime did: text of others might
// have a secret in it.
func Recovering(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
				what := fmt.Sprintf("%T", p)
				if err, ok := p.(runtime.Error); ok {
					what = err.Error()
				}
				log.ErrorContext(r.Context(), "panic while serving a request", "method", r.Method, "path", r.URL.Path, "panic", what, "stack", string(debug.Stack()))
			}
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, r)
	})
}
