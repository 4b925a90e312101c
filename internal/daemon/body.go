package daemon

import (
	"io"
	"net/http"
	"time"
)

// Bodies gives a client a time for the body of its request, until the handler gives
// it another one or has read the body to its end.
//
// It is for bodies that no handler looks at, too: net/http reads the first 256 KiB
// of what is left of one before it answers, and waits for them without an end.
func Bodies(next http.Handler, patience time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			control := http.NewResponseController(w)
			_ = control.SetReadDeadline(time.Now().Add(patience)) // a recorder in a test has none
			// By the body that it knows the server tells what it has to read of it before
			// it answers: its request stays as it is.
			limited := *r
			limited.Body = &limitedBody{r.Body, control}
			r = &limited
		}
		next.ServeHTTP(w, r)
	})
}

// limitedBody is a body whose client has a limited time for it.
type limitedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.control.SetReadDeadline(time.Time{}) // the handler may take longer
	}
	return n, err
}
