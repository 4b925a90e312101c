package upstream

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

// RateLimit is what an upstream last said of its limit on pulls, as Docker Hub
// does.
type RateLimit struct {
	Known     bool          // it said something
	Limit     int64         // pulls in a Window
	Remaining int64         // of them
	Window    time.Duration // 0 if it did not say
	// Source is whom the limit is for: an address, or an account's id.
	Source string
	At     time.Time // when it said so
}

// limits holds the last word of an upstream.
type limits struct {
	mu   sync.Mutex
	last RateLimit
}

// note reads the headers of an answer.
func (l *limits) note(h http.Header, now time.Time) {
	limit, window, ok := parseLimit(h.Get("Ratelimit-Limit"))
	remaining, window2, ok2 := parseLimit(h.Get("Ratelimit-Remaining"))
	if !ok && !ok2 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last.Known, l.last.At = true, now
	if ok {
		l.last.Limit, l.last.Window = limit, window
	}
	if ok2 {
		l.last.Remaining, l.last.Window = remaining, max(window, window2)
	}
	if source := h.Get("Docker-Ratelimit-Source"); source != "" {
		l.last.Source = clip(source)
	}
}

func (l *limits) get() RateLimit {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// parseLimit reads "100;w=21600": a number, and the seconds that it is for. Of a
// list it reads the first item. A window that makes no sense is none.
func parseLimit(s string) (n int64, window time.Duration, ok bool) {
	s, _, _ = strings.Cut(s, ",")
	number, params, _ := strings.Cut(s, ";")
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 {
		return 0, 0, false
	}
	for p := range strings.SplitSeq(params, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if seconds, err := strconv.ParseInt(v, 10, 64); k == "w" && err == nil && seconds > 0 && seconds <= maxWindow {
			window = time.Duration(seconds) * time.Second
		}
	}
	return n, window, true
}

// maxWindow is ten years, in seconds.
const maxWindow = 10 * 365 * 24 * 60 * 60

// retryAfter reads a Retry-After (RFC 9110, section 10.2.3): seconds or a date.
// It is 0 if there is none that makes sense, and at most maxTold.
func retryAfter(s string, now time.Time) time.Duration {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0
	}
	if strings.Trim(s, "0123456789") == "" {
		seconds, err := strconv.ParseInt(s, 10, 64)
		if err != nil || seconds > int64(maxTold/time.Second) {
			return maxTold // more than fits
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxTold)
}

// clip makes a header's value fit for a label.
func clip(s string) string {
	const most = 128
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}
