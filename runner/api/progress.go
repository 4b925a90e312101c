package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/berth-registry/berth/runner"
)

// withProgress runs a long operation whose messages go to the client, a line each.
// Its error is the answer's status if there was no message before, and the last
// line otherwise.
func (x *exchange) withProgress(run func(runner.Progress) error) error {
	var mu sync.Mutex
	begun := false
	enc := json.NewEncoder(x.w)
	enc.SetEscapeHTML(false)
	send := func(m jsonstream.Message) {
		mu.Lock()
		defer mu.Unlock()
		if !begun {
			x.w.Header()["Content-Type"] = []string{"application/json"}
			begun = true
		}
		// A client that is gone is found out by the request's context.
		_ = enc.Encode(x.v.progress(m))
		x.w.Flush()
	}
	err := run(send)
	mu.Lock()
	late := begun
	mu.Unlock()
	if err == nil {
		if !late {
			x.w.Header()["Content-Type"] = []string{"application/json"}
		}
		return nil
	}
	if !late {
		return err
	}
	x.logFailure(err, status(err))
	send(jsonstream.Message{Error: streamError(err)})
	return nil
}

func streamError(err error) *jsonstream.Error {
	var e *jsonstream.Error
	if errors.As(err, &e) {
		return e
	}
	e = &jsonstream.Error{Message: err.Error()}
	if errors.Is(err, runner.ErrUnauthorized) {
		e.Code = 401 // the command asks for other credentials
	}
	return e
}

// progressBar is the text that clients showed before they drew their own.
func progressBar(p *jsonstream.Progress) string {
	if p.Current <= 0 && p.Total <= 0 {
		return ""
	}
	number := func(n int64) string {
		if p.Units == "" {
			return units.HumanSize(float64(n))
		}
		return fmt.Sprintf("%d %s", n, p.Units)
	}
	if p.Total <= 0 {
		return fmt.Sprintf("%8v", number(p.Current))
	}
	half := int(min(max(float64(p.Current)/float64(p.Total), 0), 1) * 50)
	bar := "[" + strings.Repeat("=", half) + ">" + strings.Repeat(" ", 50-half) + "] "
	switch {
	case p.HideCounts:
	case p.Units == "":
		bar += fmt.Sprintf("%8v/%v", number(p.Current), number(p.Total))
	default:
		bar += fmt.Sprintf("%d/%d %s", p.Current, p.Total, p.Units)
	}
	if p.Current > 0 && p.Start > 0 && half < 50 {
		passed := time.Since(time.Unix(p.Start, 0))
		left := passed / time.Duration(p.Current) * time.Duration(p.Total-p.Current)
		bar += " " + left.Round(time.Second).String()
	}
	return bar
}
