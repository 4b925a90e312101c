package mirroring

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // where the system has none

	"github.com/robfig/cron/v3"
)

// schedule says when a job runs; the zero schedule never.
type schedule struct {
	every time.Duration
	cron  *cron.SpecSchedule // in UTC
	zone  *time.Location
	text  string
}

func newSchedule(s Spec) (schedule, error) {
	switch {
	case s.Every != 0 && s.Cron != "":
		return schedule{}, errors.New("say either every or cron, not both")
	case s.TimeZone != "" && s.Cron == "":
		return schedule{}, errors.New("timezone: is that of cron, which is not set")
	case s.Cron != "":
		return newCron(s.Cron, s.TimeZone)
	case s.Every == 0:
		return schedule{}, nil
	case s.Every < minEvery:
		return schedule{}, fmt.Errorf("every: %s is less than %s", s.Every, minEvery)
	}
	return schedule{every: s.Every, text: "every " + shortDuration(s.Every)}, nil
}

func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

const maxCron = 256 // bytes

func newCron(text, zone string) (schedule, error) {
	fields := strings.Fields(text)
	wrong := func(why any) (schedule, error) {
		return schedule{}, fmt.Errorf(`cron: %.256q: %v (want minute, hour, day of month, month and day of week, such as "30 3 * * mon-fri")`, text, why)
	}
	switch {
	case len(text) > maxCron:
		return wrong("it is too long")
	case len(fields) != 5:
		return wrong(fmt.Sprintf("it has %d fields, not 5", len(fields)))
	case strings.ContainsAny(text, "=@"): // extensions of the parser's
		return wrong("it has a character that does not belong there")
	}
	for _, f := range fields {
		if strings.HasPrefix(f, ",") || strings.HasSuffix(f, ",") || strings.Contains(f, ",,") {
			return wrong("there is nothing between two commas")
		}
	}
	parsed, err := cron.ParseStandard(strings.Join(fields, " "))
	if err != nil {
		return wrong(err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return wrong("it is no such schedule")
	}
	spec.Location = time.UTC
	s := schedule{cron: spec, zone: time.UTC, text: strings.Join(fields, " ")}
	if zone != "" {
		if s.zone, err = time.LoadLocation(zone); err != nil || zone == "Local" {
			return schedule{}, fmt.Errorf(`timezone: %.100q is no time zone such as "Europe/Paris"`, zone)
		}
		s.text += " " + zone
	}
	if spec.Next(time.Unix(0, 0).UTC()).IsZero() {
		return wrong("there is no such day")
	}
	return s, nil
}

// star is set in a field of the parser's that was "*".
const star = 1 << 63

// next is when the schedule is due next after a time; zero for never.
//
// When clocks are put forward, what was due in the hour that there is none of is due
// right behind it; when they are put back, what was due in the hour that comes twice
// is due the first time. A schedule for every hour follows time, not clocks.
func (s schedule) next(after time.Time) time.Time {
	switch {
	case s.every > 0:
		return after.Add(s.every)
	case s.cron == nil:
		return time.Time{}
	case s.cron.Hour&star != 0:
		hourly := *s.cron
		hourly.Location = s.zone
		return hourly.Next(after)
	}
	// By the clock on the wall, as if it were UTC's, which is never changed.
	w := after.In(s.zone)
	wall := time.Date(w.Year(), w.Month(), w.Day(), w.Hour(), w.Minute(), w.Second(), w.Nanosecond(), time.UTC)
	for {
		if wall = s.cron.Next(wall); wall.IsZero() {
			return time.Time{}
		}
		if due := s.real(wall); due.After(after) {
			return due
		}
	}
}

// real is when the clock of the zone shows a time first; if it never does, when it is
// put forward past it.
func (s schedule) real(wall time.Time) time.Time {
	t := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, s.zone)
	start, end := t.ZoneBounds()
	var first time.Time
	for _, near := range []time.Time{start.Add(-time.Second), t, end} { // one of two, where clocks are changed
		_, offset := near.In(s.zone).Zone()
		candidate := wall.Add(-time.Duration(offset) * time.Second).In(s.zone)
		if _, is := candidate.Zone(); is == offset && (first.IsZero() || candidate.Before(first)) {
			first = candidate
		}
	}
	switch {
	case !first.IsZero():
		return first
	case start.IsZero(), !end.IsZero() && end.Sub(t) < t.Sub(start):
		return end
	}
	return start
}

// String says it to a user.
func (s schedule) String() string {
	if s.text == "" {
		return "on request"
	}
	return s.text
}
