package mirroring

import (
	"strings"
	"testing"
	"time"
)

func TestNext(t *testing.T) {
	for _, tt := range []struct {
		cron, zone, after string
		want              []string // one after the other
	}{
		{"30 3 * * *", "", "2026-01-31T03:30:00Z", []string{"2026-02-01T03:30:00Z", "2026-02-02T03:30:00Z"}},
		{"30 3 * * *", "", "2026-01-31T03:29:59Z", []string{"2026-01-31T03:30:00Z"}},
		{"0 4 * * mon-fri", "Europe/Paris", "2026-07-03T12:00:00Z", []string{"2026-07-06T02:00:00Z", "2026-07-07T02:00:00Z"}},
		{"0 0 29 2 *", "", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}},
		{"0 0 1 1 *", "Asia/Kolkata", "2026-01-01T00:00:00Z", []string{"2026-12-31T18:30:00Z"}},
		// Clocks go from 2:00 to 3:00 (1:00 UTC) on 29 March 2026 in Paris.
		{"30 2 * * *", "Europe/Paris", "2026-03-28T00:00:00Z", []string{"2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		{"0 2,3 * * *", "Europe/Paris", "2026-03-28T23:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-30T01:00:00Z"}},
		// They go from 3:00 to 2:00 (1:00 UTC) on 25 October: 2:30 is twice, and counts once.
		{"30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		{"0 3 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", []string{"2026-10-25T02:00:00Z"}},
		// Each hour is each hour.
		{"30 * * * *", "Europe/Paris", "2026-10-25T00:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"}},
		{"30 * * * *", "Europe/Paris", "2026-03-29T00:00:00Z", []string{"2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"}},
		// In Lord Howe clocks go by half an hour: from 2:00 to 1:30 on 5 April 2026.
		{"45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", []string{"2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"}},
		// In Santiago they go from 0:00 to 1:00 (4:00 UTC) on 6 September 2026.
		{"0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", []string{"2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"}},
		// The day that Samoa did not have: 30 December 2011.
		{"0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", []string{"2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"}},
	} {
		s, err := newSchedule(Spec{Cron: tt.cron, TimeZone: tt.zone})
		if err != nil {
			t.Errorf("%s: %v", tt.cron, err)
			continue
		}
		at, err := time.Parse(time.RFC3339, tt.after)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			at = s.next(at)
			if got := at.UTC().Format(time.RFC3339); got != want {
				t.Errorf("%s %s after %s: got %s, want %s", tt.cron, tt.zone, tt.after, got, want)
			}
		}
	}
}

func TestSchedule(t *testing.T) {
	for _, tt := range []struct {
		spec Spec
		want string // or what the error says
		ok   bool
	}{
		{Spec{}, "on request", true},
		{Spec{Every: time.Hour}, "every 1h", true},
		{Spec{Every: 90 * time.Minute}, "every 1h30m", true},
		{Spec{Cron: " 0  4 * * * ", TimeZone: "Europe/Paris"}, "0 4 * * * Europe/Paris", true},
		{Spec{Every: time.Second}, "less than", false},
		{Spec{Every: -time.Hour}, "less than", false},
		{Spec{Every: time.Hour, Cron: "0 4 * * *"}, "not both", false},
		{Spec{Every: time.Hour, TimeZone: "Europe/Paris"}, "timezone", false},
		{Spec{Cron: "0 4 * * *", TimeZone: "Europe/Nowhere"}, "no time zone", false},
		{Spec{Cron: "0 4 * * *", TimeZone: "../../etc/passwd"}, "no time zone", false},
		{Spec{Cron: "0 4 * * *", TimeZone: "Local"}, "no time zone", false},
		{Spec{Cron: "0 4 * *"}, "4 fields", false},
		{Spec{Cron: "0 0 4 * * *"}, "6 fields", false},
		{Spec{Cron: "@daily"}, "1 fields", false},
		{Spec{Cron: "TZ=UTC 0 4 * * *"}, "6 fields", false},
		{Spec{Cron: "TZ=UTC 4 * * *"}, "does not belong", false},
		{Spec{Cron: "60 4 * * *"}, "above maximum", false},
		{Spec{Cron: ", 4 * * *"}, "between two commas", false},
		{Spec{Cron: "*/0 4 * * *"}, "positive", false},
		{Spec{Cron: "0 0 30 2 *"}, "no such day", false},
		{Spec{Cron: strings.Repeat(" ", 500) + "0 4 * * *"}, "too long", false},
	} {
		s, err := newSchedule(tt.spec)
		switch {
		case tt.ok && (err != nil || s.String() != tt.want):
			t.Errorf("%+v: got %q, error %v, want %q", tt.spec, s, err, tt.want)
		case !tt.ok && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%+v: error %v, want one that says %q", tt.spec, err, tt.want)
		}
	}
}
