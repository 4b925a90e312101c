package upstream

import (
	"net/http"
	"testing"
	"time"
)

func TestParseLimit(t *testing.T) {
	for s, want := range map[string]struct {
		n  int64
		w  time.Duration
		ok bool
	}{
		"100;w=21600":            {100, 6 * time.Hour, true},
		"76;w=21600":             {76, 6 * time.Hour, true},
		" 5 ; w=60":              {5, time.Minute, true},
		"0":                      {0, 0, true},
		"100, 100;w=21600":       {100, 0, true},
		"7;x=1;w=2":              {7, 2 * time.Second, true},
		"7;w=-1":                 {7, 0, true},
		"7;w=99999999999999":     {7, 0, true},
		"":                       {},
		"-1;w=60":                {},
		"many":                   {},
		"99999999999999999999;w": {},
	} {
		if n, w, ok := parseLimit(s); n != want.n || w != want.w || ok != want.ok {
			t.Errorf("%q: got %d, %v, %v", s, n, w, ok)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-7": 0, "7.5": 0, "soon": 0,
		"3600": time.Hour, "3601": time.Hour, "99999999999999999999999": time.Hour,
		now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		now.Add(-time.Minute).Format(http.TimeFormat):     0,
		now.AddDate(5, 0, 0).Format(http.TimeFormat):      time.Hour,
		now.Add(time.Minute).Format(time.ANSIC):           time.Minute,
	} {
		if got := retryAfter(" "+s+" ", now); got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	}
}

func FuzzHeaders(f *testing.F) {
	for _, s := range []string{
		"100;w=21600", "0;w=0", "-1", ";;;=", "w=1;w=2", "9223372036854775807;w=9223372036854775807",
		"Fri, 02 Jan 2026 03:04:05 GMT", "120", "0x10", "١٢٣", "\x00\xff",
	} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		if d := retryAfter(s, now); d < 0 || d > maxTold {
			t.Errorf("Retry-After %q: %v", s, d)
		}
		var l limits
		l.note(http.Header{"Ratelimit-Limit": {s}, "Ratelimit-Remaining": {s}, "Docker-Ratelimit-Source": {s}}, now)
		got := l.get()
		if got.Limit < 0 || got.Remaining < 0 || got.Window < 0 || len(got.Source) > 128 || !got.Known && got != (RateLimit{}) {
			t.Errorf("limit %q: %+v", s, got)
		}
	})
}
